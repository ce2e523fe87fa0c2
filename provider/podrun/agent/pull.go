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
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

const (
	maxPull = 4 << 20 // of one pulls.json in bytes
	// pullLook is the time between two looks at what the puller has done.
	pullLook = 50 * time.Millisecond
)

// Pull asks for the images of gangs: it reads keys from in, each a
// manifest.StageHeader as one line of JSON, has start start a Puller when none is
// at work, waits at most wait for news, and writes one manifest.PullAnswer a key to
// out, in order, as lines of JSON. What is not done then goes on in the Puller;
// asking again tells how far it is, and is how a failed pull is tried again, since
// a Puller ends when there is nothing to do. The failure of one gang is its own;
// the error is about all gangs that have no answer.
func Pull(ctx context.Context, dir string, in io.Reader, wait time.Duration, start func() error, out io.Writer) error {
	root, err := openBase(dir, false)
	if err != nil {
		return err
	}
	defer root.Close()
	var answers []manifest.PullAnswer
	for dec := json.NewDecoder(io.LimitReader(in, maxGangs<<8)); ; {
		var header manifest.StageHeader
		err := dec.Decode(&header)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read keys: %w: %w", err, ErrInvalid)
		}
		if len(answers) == maxGangs {
			return fmt.Errorf("more than %d keys: %w", maxGangs, ErrInvalid)
		}
		answers = append(answers, orderPull(root, header.Key))
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if err := awaken(root, answers, start); err != nil {
		return err
	}
	await(ctx, root, answers)
	enc := json.NewEncoder(out)
	for _, a := range answers {
		if err := enc.Encode(a); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return nil
}

// orderPull puts the order to pull into a gang's directory, unless it is there.
func orderPull(root *os.Root, key string) manifest.PullAnswer {
	answer := manifest.PullAnswer{Answer: manifest.Answer{Key: key}}
	err := checkKey(key)
	if err == nil {
		answer.Pull, err = readPull(root, key)
	}
	if errors.Is(err, fs.ErrNotExist) {
		answer.Pull = manifest.Pull{Version: manifest.Version}
		err = atomicfile.WriteJSON(root, pullPath(key), answer.Pull)
	}
	if err != nil {
		answer.Code, answer.Error = Code(err), err.Error()
	}
	return answer
}

func pullPath(key string) string { return path.Join(gangPath(key), manifest.PullFile) }

func readPull(root *os.Root, key string) (manifest.Pull, error) {
	var p manifest.Pull
	err := atomicfile.ReadJSON(root, pullPath(key), maxPull, &p)
	if err == nil && p.Version != manifest.Version {
		err = fmt.Errorf("%s has version %d, this agent knows %d: %w", manifest.PullFile, p.Version, manifest.Version, ErrInvalid)
	}
	return p, err
}

// awaken starts a puller when there is something to do and none is at work.
func awaken(root *os.Root, answers []manifest.PullAnswer, start func() error) error {
	now := time.Now()
	for _, a := range answers {
		if a.Code != ExitDone || !due(a.Pull, now) {
			continue
		}
		unlock, err := takePull(root)
		if errors.Is(err, errBusy) {
			return nil
		}
		if err != nil {
			return err
		}
		unlock()
		if err := start(); err != nil {
			return fmt.Errorf("start the puller: %w", err)
		}
		return nil
	}
	return nil
}

// due reports whether a puller has something to do.
func due(p manifest.Pull, now time.Time) bool { return !p.Done && !now.Before(p.RetryAt.Time) }

// await reads how far the pulls are until none has anything to do, or ctx ends.
func await(ctx context.Context, root *os.Root, answers []manifest.PullAnswer) {
	tick := time.NewTicker(pullLook)
	defer tick.Stop()
	for {
		busy := false
		for i := range answers {
			a := &answers[i]
			if a.Code != ExitDone || !due(a.Pull, time.Now()) {
				continue
			}
			p, err := readPull(root, a.Key)
			if err != nil {
				a.Code, a.Error = Code(err), err.Error()
				continue
			}
			a.Pull = p
			busy = busy || due(p, time.Now())
		}
		if !busy {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// pullLock is held by the one puller of a user.
const pullLock = ".puller"

var errBusy = errors.New("another puller is at work")

// takePull takes the place of the user's puller, or gives errBusy. Where the file
// system has no locks more than one may be at work: the image store bears it.
func takePull(root *os.Root) (unlock func(), err error) {
	f, err := root.OpenFile(pullLock, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock of pullers: %w", err)
	}
	unlock = func() { _ = f.Close() } // which gives the lock up
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.EINTR):
		unlock()
		return nil, errBusy
	case err == nil, errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EINVAL):
		return unlock, nil
	default:
		unlock()
		return nil, fmt.Errorf("lock of pullers: %w", err)
	}
}
