package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// leaseBeat is how often the users of images say that they still are.
const leaseBeat = 30 * time.Minute

// hold says that this process uses an image, until it ends or Close: by a shared
// lock, and by the time of the lock's file where the file system has no locks.
func (s *Store) hold(ctx context.Context, root *os.Root, digest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[digest] != nil {
		return nil
	}
	for {
		f, err := lease(ctx, root, digest)
		if err != nil {
			return err
		}
		if f == nil {
			continue // who removed the image removed the file that we waited for
		}
		if s.leases == nil {
			s.leases = map[string]*os.File{}
		}
		s.leases[digest] = f
		touch(f)
		return nil
	}
}

// lease takes the shared lock; nil is a file that is gone meanwhile.
func lease(ctx context.Context, root *os.Root, digest string) (*os.File, error) {
	name := path.Join("uses", digest)
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lease of image: %w", err)
	}
	for wait := lockPoll; ; wait = min(2*wait, lockSlow) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if err == nil || lockless(err) {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close() // the first error is the one to report
			return nil, fmt.Errorf("lease of image: %w", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			_ = f.Close() // nothing was written
			return nil, ctx.Err()
		}
	}
	have, err := f.Stat()
	if err == nil {
		var now os.FileInfo
		if now, err = root.Lstat(name); err == nil && os.SameFile(have, now) {
			return f, nil
		}
	}
	_ = f.Close() // it is no lease
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("lease of image: %w", err)
	}
	return nil, nil
}

func touch(f *os.File) {
	now := unix.NsecToTimeval(time.Now().UnixNano())
	_ = unix.Futimes(int(f.Fd()), []unix.Timeval{now, now}) // the lock says the same
}

// Keep says now and then that the images are still in use, until ctx ends. It blocks.
func (s *Store) Keep(ctx context.Context) {
	tick := time.NewTicker(leaseBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.mu.Lock()
			for _, f := range s.leases {
				touch(f)
			}
			s.mu.Unlock()
		}
	}
}

// Close says that this process uses none of the images any more.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.leases {
		touch(f)
		_ = f.Close() // which gives the lock up
	}
	s.leases = nil
}
