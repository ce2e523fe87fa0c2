package supervise

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openLog opens the batch script's output file with the user's rights, since
// the directory is the user's: a link put there must not lead root anywhere.
func openLog(rights *syscall.Credential, path string) (*os.File, error) {
	var f *os.File
	err := withRights(rights, func() error {
		// Not to wait: the name may be that of a pipe.
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		f = os.NewFile(uintptr(fd), path)
		return nil
	})
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err == nil {
		err = unix.SetNonblock(int(f.Fd()), false)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open output: %w", err)
	}
	return f, nil
}

// withRights runs do with the file access rights of a user. Rights belong to a
// thread: do runs on one that ends with it.
func withRights(rights *syscall.Credential, do func() error) error {
	if rights == nil {
		return do()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime then ends the thread, and its rights with it.
		runtime.LockOSThread()
		done <- func() error {
			groups := append([]uint32{rights.Gid}, rights.Groups...)
			// The library's calls change all threads; these must not.
			if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0); errno != 0 {
				return fmt.Errorf("take on groups: %w", errno)
			}
			for _, call := range []struct {
				what string
				set  func(int) (int, error)
				id   uint32
			}{{"group", unix.SetfsgidRetGid, rights.Gid}, {"user", unix.SetfsuidRetUid, rights.Uid}} {
				if _, err := call.set(int(call.id)); err != nil {
					return fmt.Errorf("take on %s: %w", call.what, err)
				}
				// The call does not report failure: asking again gives what holds.
				now, err := call.set(-1)
				if err != nil {
					return fmt.Errorf("ask for %s: %w", call.what, err)
				}
				if now != int(call.id) {
					return fmt.Errorf("take on %s %d: it is still %d", call.what, call.id, now)
				}
			}
			return do()
		}()
	}()
	return <-done
}
