package jobdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Root gives the state directory that a job's directory is in.
func Root(jobDir string) string { return filepath.Dir(filepath.Dir(jobDir)) }

// Load reads a job's directory. The files are read from the last fact of a
// job's life to the first, so that a job that moves on meanwhile never seems to
// have moved back.
func Load(dir string) (Job, error) {
	j := Job{Dir: dir}
	var end End
	found, err := readIf(filepath.Join(dir, endFile), &end)
	if err != nil {
		return Job{}, err
	}
	if found {
		j.End = &end
	}
	for _, flag := range []struct {
		name string
		set  *bool
	}{{launchingFile, &j.Launching}, {cancelledFile, &j.Cancelled}} {
		if *flag.set, err = Exists(filepath.Join(dir, flag.name)); err != nil {
			return Job{}, err
		}
	}
	var start Assignment
	if found, err = readIf(filepath.Join(dir, startFile), &start); err != nil {
		return Job{}, err
	}
	if found {
		j.Start = &start
	}
	if j.Released, err = Exists(filepath.Join(dir, releasedFile)); err != nil {
		return Job{}, err
	}
	if err := Read(filepath.Join(dir, specFile), &j.Record); err != nil {
		return Job{}, err
	}
	return j, nil
}

func readIf(path string, v any) (bool, error) {
	err := Read(path, v)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// The facts of a job's life, each safe to state again.

// SetReleased lets the job run.
func SetReleased(dir string) error { return writeFile(filepath.Join(dir, releasedFile), nil) }

// SetCancelled asks for the job's end.
func SetCancelled(dir string) error { return writeFile(filepath.Join(dir, cancelledFile), nil) }

// IsCancelled reports whether the job's end was asked for.
func IsCancelled(dir string) (bool, error) { return Exists(filepath.Join(dir, cancelledFile)) }

// SetStart gives the job its hosts.
func SetStart(dir string, a Assignment) error { return Write(filepath.Join(dir, startFile), a) }

// SetLaunching notes, before it happens, that the program is started.
func SetLaunching(dir string) error { return writeFile(filepath.Join(dir, launchingFile), nil) }

// SetEnd ends the job.
func SetEnd(dir string, e End) error { return Write(filepath.Join(dir, endFile), e) }

// SetSupervisor notes who supervises the job.
func SetSupervisor(dir string, p Process) error { return Write(filepath.Join(dir, supervisorFile), p) }

// Supervisor reads what SetSupervisor noted; ok is false before that.
func Supervisor(dir string) (p Process, ok bool, err error) {
	ok, err = readIf(filepath.Join(dir, supervisorFile), &p)
	return p, ok, err
}

// SetProgram notes the process of the batch script.
func SetProgram(dir string, p Process) error { return Write(filepath.Join(dir, programFile), p) }

// Program reads what SetProgram noted; ok is false before that.
func Program(dir string) (p Process, ok bool, err error) {
	ok, err = readIf(filepath.Join(dir, programFile), &p)
	return p, ok, err
}

// TryAlive takes the supervisor's lock; nil means that a supervisor lives, or
// is being started.
func TryAlive(dir string) (*os.File, error) { return TryLock(filepath.Join(dir, aliveFile)) }
