// Package statusfile keeps one pod's status.json up to date while the pod runs.
// Changes are made in memory and written by one goroutine, so that a slow or
// full filesystem never holds up the containers and nothing is lost without a
// last, long try.
package statusfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

const (
	statusName  = "status.json"
	reserveName = ".reserve"
	reserveSize = 64 << 10
	maxStatus   = 1 << 20
	retryAfter  = time.Second
)

// Read gives the status that is in dir beneath gang.
func Read(gang *os.Root, dir string) (manifest.Status, error) {
	var s manifest.Status
	err := atomicfile.ReadJSON(gang, path.Join(dir, statusName), maxStatus, &s)
	return s, err
}

// File is the status of one pod, in memory and on disk.
type File struct {
	gang *os.Root
	dir  string
	warn func(error)

	mu      sync.Mutex
	status  manifest.Status
	written int64 // Seq of what is on disk
	failed  error // of the last try, nil after a success
	wake    chan struct{}
	done    chan struct{}
	quit    chan struct{}
	changed *sync.Cond
}

// New starts with status s, whose Seq is the last one on disk. warn is called
// once for each row of failures to write. It sets a little space aside, to be
// freed when the disk is full.
func New(gang *os.Root, dir string, s manifest.Status, warn func(error)) *File {
	f := &File{gang: gang, dir: dir, warn: warn, status: s, written: s.Seq,
		wake: make(chan struct{}, 1), done: make(chan struct{}), quit: make(chan struct{})}
	f.changed = sync.NewCond(&f.mu)
	f.reserve()
	go f.run()
	return f
}

// Update changes the status and has it written soon.
func (f *File) Update(change func(*manifest.Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
	f.status.Seq++
	select {
	case f.wake <- struct{}{}:
	default: // the writer has not begun with the change before: it takes both
	}
}

// Get is a copy of the status; its slices must not be changed.
func (f *File) Get() manifest.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// View shows the status to look, which must neither keep nor change it.
func (f *File) View(look func(*manifest.Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	look(&f.status)
}

// Close waits until the last change is on disk, for at most limit, and ends the
// writer. The error says why the last change could not be written.
func (f *File) Close(limit time.Duration) error {
	timer := time.AfterFunc(limit, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		limit = 0
		f.changed.Broadcast()
	})
	f.mu.Lock()
	for f.written < f.status.Seq && limit > 0 {
		f.changed.Wait()
	}
	var err error
	if f.written < f.status.Seq {
		err = fmt.Errorf("status of pod was not written: %w", errors.Join(f.failed, errors.New("time is up")))
	}
	f.mu.Unlock()
	timer.Stop()
	close(f.quit)
	<-f.done
	_ = f.gang.Remove(f.reservePath()) // whether or not it is still there
	return err
}

func (f *File) run() {
	defer close(f.done)
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		select {
		case <-f.wake:
		case <-retry.C:
		case <-f.quit:
			return
		}
		f.mu.Lock()
		seq := f.status.Seq
		data, err := json.Marshal(f.status)
		before := f.failed
		f.mu.Unlock()
		if err == nil {
			err = f.write(data)
		}
		if err != nil {
			retry.Reset(retryAfter)
			if before == nil {
				f.warn(err)
			}
		}
		f.mu.Lock()
		if f.failed = err; err == nil {
			f.written = seq
		}
		f.changed.Broadcast()
		f.mu.Unlock()
	}
}

// write puts data in place; when there is no space it gives up the reserve.
func (f *File) write(data []byte) error {
	name := path.Join(f.dir, statusName)
	err := atomicfile.Write(f.gang, name, data)
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	if rerr := f.gang.Remove(f.reservePath()); rerr != nil {
		return err
	}
	if err = atomicfile.Write(f.gang, name, data); err == nil {
		f.reserve()
	}
	return err
}

func (f *File) reservePath() string { return path.Join(f.dir, reserveName) }

// reserve sets space aside. It is best effort: without it, writing is retried.
func (f *File) reserve() {
	name := f.reservePath()
	if err := atomicfile.Write(f.gang, name, make([]byte, reserveSize)); err != nil {
		_ = f.gang.Remove(name)
	}
}
