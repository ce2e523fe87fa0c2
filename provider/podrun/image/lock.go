package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lock takes an exclusive lock that ends with this process, on whatever host of
// the shared file system it is. Where the file system has no locks it does
// nothing: the renames keep the store whole.
func lock(ctx context.Context, root *os.Root, name string) (unlock func(), err error) {
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	unlock = func() { _ = f.Close() } // which gives the lock up
	for wait := lockPoll; ; wait = min(2*wait, lockSlow) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil, lockless(err):
			return unlock, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			unlock()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			unlock()
			return nil, ctx.Err()
		}
	}
}

// lockless recognises a file system without locks.
func lockless(err error) bool {
	return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EINVAL)
}

// locks reports whether the store's file system has locks.
func locks(root *os.Root) bool {
	f, err := root.OpenFile("locks/.trial", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return false
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	return err == nil || errors.Is(err, unix.EWOULDBLOCK)
}
