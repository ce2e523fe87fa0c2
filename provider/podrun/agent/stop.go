package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"sync"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

const (
	maxGraceSeconds = 365 * 24 * 3600
	maxReason       = 1 << 10
	maxOrder        = 64 << 20 // of one line of input in bytes
	// writers is how many stop files are written at once: a network filesystem
	// takes each in its own time.
	writers = 16
)

// Stop asks the runners of pods to end them. It reads orders from in, each a
// manifest.StopOrder as one line of JSON, and writes one manifest.Answer a gang
// to out, in order, as lines of JSON. Each gang's failure is its own; of a gang
// that fails some members may have their order. It may be repeated; a later stop
// may shorten the grace of an earlier one. The error is about all gangs that
// have no answer.
func Stop(dir string, in io.Reader, out io.Writer) error {
	root, err := openBase(dir, false)
	if err != nil {
		return err
	}
	defer root.Close()
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxOrder)
	enc := json.NewEncoder(out)
	n := 0
	for lines.Scan() {
		if n++; n > maxGangs {
			return fmt.Errorf("more than %d gangs: %w", maxGangs, ErrInvalid)
		}
		var order manifest.StopOrder
		if err := json.Unmarshal(lines.Bytes(), &order); err != nil {
			return fmt.Errorf("order %d is %.200q: %w", n, lines.Bytes(), ErrInvalid)
		}
		answer := manifest.Answer{Key: order.Key}
		if err := stopGang(root, order); err != nil {
			answer.Code, answer.Error = Code(err), err.Error()
		}
		if err := enc.Encode(answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read order %d: %w: %w", n+1, err, ErrInvalid)
	}
	return nil
}

// stopGang writes the stop files of one gang's members. The error names the
// first ranks that failed.
func stopGang(root *os.Root, order manifest.StopOrder) error {
	if err := checkKey(order.Key); err != nil {
		return err
	}
	pods, err := root.OpenRoot(path.Join(gangPath(order.Key), "pods"))
	if err != nil {
		return fmt.Errorf("open gang: %w", err)
	}
	defer pods.Close()
	ranks := slices.Sorted(maps.Keys(order.Stops))
	errs := make([]error, len(ranks))
	jobs := make(chan int)
	var group sync.WaitGroup
	for range min(writers, len(ranks)) {
		group.Go(func() {
			for i := range jobs {
				errs[i] = stopPod(pods, ranks[i], order.Stops[ranks[i]])
			}
		})
	}
	for i := range ranks {
		jobs <- i
	}
	close(jobs)
	group.Wait()
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	return errors.Join(errs[:min(len(errs), 3)]...)
}

func stopPod(pods *os.Root, rank int, s manifest.Stop) error {
	switch {
	case rank < 0:
		return fmt.Errorf("rank %d: %w", rank, ErrInvalid)
	case s.GraceSeconds < 0 || s.GraceSeconds > maxGraceSeconds:
		return fmt.Errorf("rank %d: grace of %d s: %w", rank, s.GraceSeconds, ErrInvalid)
	case len(s.Reason) > maxReason:
		return fmt.Errorf("rank %d: reason of %d bytes: %w", rank, len(s.Reason), ErrInvalid)
	}
	dir := path.Join(strconv.Itoa(rank), "ctl")
	if err := pods.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("stop rank %d: %w", rank, err)
	}
	if err := atomicfile.WriteJSON(pods, path.Join(dir, "stop"), s); err != nil {
		return fmt.Errorf("stop rank %d: %w", rank, err)
	}
	return nil
}
