package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// sharedMemory is where Linux keeps files in memory.
const sharedMemory = "/dev/shm"

// openInput gives the command its standard input. One that is all there is put into a
// file that the command gets in place of a pipe. A pipe ends where this process is
// killed, and a command that meets the end there takes what it has read for everything:
// qsub makes a job of half a script, or of none.
func (r *Runner) openInput(p *pipes, cmd *exec.Cmd, in io.Reader) error {
	if in == nil {
		return nil // exec gives /dev/null
	}
	if known, ok := in.(transport.Whole); ok {
		file, err := unnamed()
		if err == nil {
			p.child, cmd.Stdin = append(p.child, file), file
			return fill(file, known)
		}
		if !refused(err) {
			return fmt.Errorf("memory for the standard input: %w", err)
		}
		r.pipesOnly.Do(func() {
			if r.Warn != nil {
				r.Warn("commands get their input by pipes, so that one may read half of it when this program is killed: " + transport.OneLine(err.Error()))
			}
		})
	}
	ours, theirs, err := os.Pipe()
	if err == nil {
		p.child, p.in, cmd.Stdin = append(p.child, ours), theirs, ours
	}
	return err
}

// unnamed makes an empty file that nobody can find by a name and that goes with the last
// process that has it open, since input may hold secrets: memory, or where the kernel
// knows no such memory or a filter of system calls refuses it a file that never was in
// its directory. An error is refused where this host has neither.
func unnamed() (*os.File, error) {
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // a kernel before 6.3
		fd, err = unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	}
	if err == nil || !refused(err) {
		return opened(fd, err)
	}
	err = fmt.Errorf("memfd_create: %w", err)
	for _, dir := range []string{sharedMemory, os.TempDir()} {
		// With O_EXCL it cannot get a name later either.
		fd, other := unix.Open(dir, unix.O_TMPFILE|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if other == nil {
			return opened(fd, nil)
		}
		err = errors.Join(err, fmt.Errorf("a file without a name in %s: %w", dir, other))
	}
	return nil, err
}

func opened(fd int, err error) (*os.File, error) {
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "stdin"), nil //nolint:gosec // a descriptor that was just made
}

// refused says that this host does not give what was asked for and never will, unlike one
// that has too little of something now: ENOSYS is a kernel before 3.17, the others a
// filter of system calls.
func refused(err error) bool {
	return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
}

// fill writes an input into a file that is read from its beginning.
func fill(f *os.File, in io.Reader) error {
	_, err := io.Copy(onlyWriter{f}, in)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("write the standard input: %w", err)
	}
	return nil
}
