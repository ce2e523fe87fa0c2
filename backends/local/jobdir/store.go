package jobdir

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Names of files in a job's directory.
const (
	specFile       = "spec.json"
	releasedFile   = "released"
	cancelledFile  = "cancelled"
	startFile      = "start.json"
	aliveFile      = "alive"
	supervisorFile = "supervisor.json"
	launchingFile  = "launching"
	programFile    = "program.json"
	endFile        = "end.json"
)

// Store is one state directory. Its methods are safe for concurrent use; those
// that change jobs want the lock, which serialises all processes.
type Store struct {
	root string

	mu    sync.Mutex
	ended map[backends.JobID]Job // ended jobs change no more, and are read once
}

// Make opens a state directory, made 0700 when it is missing.
func Make(root string) (*Store, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("state directory %q is not an absolute path", root)
	}
	if err := os.MkdirAll(filepath.Join(root, "jobs"), 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	if err := makeLock(filepath.Join(root, "lock")); err != nil {
		return nil, err
	}
	return Open(root), nil
}

// Open opens a state directory that exists.
func Open(root string) *Store { return &Store{root: root, ended: map[backends.JobID]Job{}} }

// Lock waits until this process alone may change jobs, or ctx ends. It returns
// the function that lets go.
func (s *Store) Lock(ctx context.Context) (unlock func(), err error) {
	const interval = 5 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		// Asked again, since select chooses at random when both are ready.
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("wait for the queue's lock: %w", err)
		}
		f, err := TryLock(filepath.Join(s.root, "lock"))
		if err != nil {
			return nil, err
		}
		if f != nil {
			// Closing releases; nothing was written, so there is no error to lose.
			return func() { _ = f.Close() }, nil
		}
		timer.Reset(interval)
	}
}

// SetConfig stores what supervisors need.
func (s *Store) SetConfig(c Config) error { return Write(filepath.Join(s.root, "config.json"), c) }

// Config reads what SetConfig stored.
func (s *Store) Config() (Config, error) {
	var c Config
	err := Read(filepath.Join(s.root, "config.json"), &c)
	return c, err
}

// Create makes a held job. Its caller holds the lock. An error with an id means
// that the job may be there.
func (s *Store) Create(spec backends.JobSpec, now time.Time) (backends.JobID, error) {
	n, err := s.nextNumber()
	if err != nil {
		return "", err
	}
	var token [16]byte
	if _, err := rand.Read(token[:]); err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	id := backends.JobID(strconv.FormatInt(n, 10))
	temp := filepath.Join(s.root, "jobs", ".new-"+string(id))
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return "", fmt.Errorf("make job directory: %w", err)
	}
	rec := Record{ID: id, Number: n, Spec: spec, Token: hex.EncodeToString(token[:]), Submitted: now}
	if err := Write(filepath.Join(temp, specFile), rec); err != nil {
		return "", err
	}
	if err := makeLock(filepath.Join(temp, aliveFile)); err != nil {
		return "", err
	}
	if err := os.Rename(temp, s.dir(id)); err != nil {
		return "", fmt.Errorf("name job directory: %w", err)
	}
	return id, syncDir(filepath.Join(s.root, "jobs"))
}

// nextNumber counts durably before the number is used: a crash wastes a number
// and never gives one twice.
func (s *Store) nextNumber() (int64, error) {
	path := filepath.Join(s.root, "next")
	n := int64(1)
	text, err := readFile(path)
	switch {
	case err == nil:
		if n, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err != nil || n < 1 {
			return 0, fmt.Errorf("the counter %s holds %q", path, text)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	return n, writeFile(path, []byte(strconv.FormatInt(n+1, 10)))
}

func (s *Store) dir(id backends.JobID) string { return filepath.Join(s.root, "jobs", string(id)) }

// validID keeps an id from being a path.
func validID(id backends.JobID) bool {
	n, err := strconv.ParseInt(string(id), 10, 64)
	return err == nil && n > 0 && strconv.FormatInt(n, 10) == string(id)
}

// Get reads one job; ok is false when there is none with that id.
func (s *Store) Get(id backends.JobID) (j Job, ok bool, err error) {
	if !validID(id) {
		return Job{}, false, nil
	}
	s.mu.Lock()
	j, ok = s.ended[id]
	s.mu.Unlock()
	if ok {
		return j, true, nil
	}
	j, err = Load(s.dir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Job{}, false, nil
	}
	if err == nil && j.End != nil {
		s.mu.Lock()
		s.ended[id] = j
		s.mu.Unlock()
	}
	return j, err == nil, err
}

// List reads all jobs, in the order of submission. complete is false when some
// could not be read; they are left out.
func (s *Store) List() (jobs []Job, complete bool, err error) {
	entries, err := os.ReadDir(filepath.Join(s.root, "jobs"))
	if err != nil {
		return nil, false, fmt.Errorf("list jobs: %w", err)
	}
	complete = true
	for _, e := range entries {
		id := backends.JobID(e.Name())
		if !validID(id) {
			continue // half-made or half-removed
		}
		j, ok, err := s.Get(id)
		if err != nil {
			complete = false
		}
		if ok {
			jobs = append(jobs, j)
		}
	}
	slices.SortFunc(jobs, func(a, b Job) int { return cmp.Compare(a.Number, b.Number) })
	return jobs, complete, nil
}

// Remove deletes an ended job. Its caller holds the lock.
func (s *Store) Remove(id backends.JobID) error {
	gone := filepath.Join(s.root, "jobs", ".gone-"+string(id))
	if err := os.Rename(s.dir(id), gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove job %s: %w", id, err)
	}
	s.mu.Lock()
	delete(s.ended, id)
	s.mu.Unlock()
	return os.RemoveAll(gone)
}

// Sweep removes what a crash in Create or Remove left. Its caller holds the lock.
func (s *Store) Sweep() error {
	entries, err := os.ReadDir(filepath.Join(s.root, "jobs"))
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".new-") || strings.HasPrefix(e.Name(), ".gone-") {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.root, "jobs", e.Name())))
		}
	}
	return err
}
