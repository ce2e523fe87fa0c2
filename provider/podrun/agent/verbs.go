package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/crilog"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

var containerPattern = regexp.MustCompile(`\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\z`)

// openPod opens a pod's directory.
func openPod(dir, key string, rank int) (root, pod *os.Root, err error) {
	if err := checkKey(key); err != nil {
		return nil, nil, err
	}
	if rank < 0 {
		return nil, nil, fmt.Errorf("rank %d: %w", rank, ErrInvalid)
	}
	if root, err = openBase(dir, false); err != nil {
		return nil, nil, err
	}
	if pod, err = root.OpenRoot(path.Join(gangPath(key), "pods", strconv.Itoa(rank))); err != nil {
		_ = root.Close()
		return nil, nil, fmt.Errorf("open pod: %w", err)
	}
	return root, pod, nil
}

// LogQuery says what `logs` prints.
type LogQuery struct {
	Container string
	Previous  bool
	crilog.Query
}

// Logs prints a container's log to out. With Follow it blocks until the
// container has ended, ctx ends, or nobody reads out any more.
func Logs(ctx context.Context, dir, key string, rank int, q LogQuery, out *os.File) error {
	if !containerPattern.MatchString(q.Container) {
		return fmt.Errorf("container %q: %w", q.Container, ErrInvalid)
	}
	root, pod, err := openPod(dir, key, rank)
	if err != nil {
		return err
	}
	defer root.Close()
	defer pod.Close()
	logs := path.Join("logs", q.Container)
	runs, err := crilog.Runs(pod, logs)
	if err != nil {
		return fmt.Errorf("container %q has no log yet: %w", q.Container, err)
	}
	want := len(runs) - 1
	if q.Previous {
		want--
		q.Follow = false // it has ended
	}
	if want < 0 {
		return fmt.Errorf("container %q has no such run: %w", q.Container, fs.ErrNotExist)
	}
	run := runs[want]
	var last *manifest.Status // when it is unchanged, so is the answer
	q.Ended = func() bool {
		if deaf(out) {
			return true
		}
		var s manifest.Status
		if err := atomicfile.ReadJSON(pod, "status.json", maxStatus, &s); err != nil {
			return errors.Is(err, fs.ErrNotExist) // removed under our feet
		}
		if last != nil && last.Seq == s.Seq && last.Restart == s.Restart {
			return abandoned(root, key, s.Restart)
		}
		last = &s
		return runEnded(&s, q.Container, run) || abandoned(root, key, s.Restart)
	}
	return crilog.Print(ctx, out, pod, logs, run, q.Query)
}

// runEnded reports whether a run of a container is over.
func runEnded(s *manifest.Status, name string, run int) bool {
	if s.Phase.Terminal() {
		return true
	}
	for _, list := range [][]manifest.Container{s.InitContainers, s.Containers, s.Ephemeral} {
		for _, c := range list {
			if c.Name == name {
				if int(c.RestartCount) != run {
					return int(c.RestartCount) > run
				}
				// While it waits for its next run, it still bears the number of this one.
				return c.State.Terminated != nil || (c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff")
			}
		}
	}
	return true
}

// abandoned reports whether the launcher has ended: then no runner lives.
func abandoned(root *os.Root, key string, restart int) bool {
	var end manifest.End
	return atomicfile.ReadJSON(root, path.Join(gangPath(key), "end.json"), maxStatus, &end) == nil && end.Restart >= restart
}

// deaf reports whether the reader of a pipe or socket has gone.
func deaf(out *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(out.Fd())}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}

// ParseTime reads a --since-time.
func ParseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("time %q: %w", s, ErrInvalid)
	}
	return t, nil
}

// maxEphemeral bounds a file of added containers, in bytes.
const maxEphemeral = 4 << 20

// Ephemeral puts the list of added containers, read from in, where the runner
// of a pod looks for it. It may be repeated.
func Ephemeral(dir, key string, rank int, in io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(in, maxEphemeral+1))
	if err != nil {
		return fmt.Errorf("read list: %w", err)
	}
	if len(data) > maxEphemeral || !json.Valid(data) {
		return fmt.Errorf("list of %d bytes is too long or no JSON: %w", len(data), ErrInvalid)
	}
	root, pod, err := openControl(dir, key, rank)
	if err != nil {
		return err
	}
	defer root.Close()
	defer pod.Close()
	if err := atomicfile.Write(pod, manifest.EphemeralFile, data); err != nil {
		return err
	}
	if err := pod.Remove(manifest.WantFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what was wanted: %w", err)
	}
	return nil
}

// openControl is openPod for a pod that is told something: the folder for that is there.
func openControl(dir, key string, rank int) (root, pod *os.Root, err error) {
	if root, pod, err = openPod(dir, key, rank); err != nil {
		return nil, nil, err
	}
	if err := pod.Mkdir("ctl", 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		_, _ = pod.Close(), root.Close() // nothing was written
		return nil, nil, fmt.Errorf("make ctl: %w", err)
	}
	return root, pod, nil
}
