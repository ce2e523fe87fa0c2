package fake

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// audit watches what callers do to the System.
type audit struct {
	calls, done map[Op]int
	violations  []string
	history     []Entry
	ran         map[runKey]int64 // number of the job that last ran under the key
	running     map[runKey]int
}

type runKey struct {
	owner string
	key   backends.Key
}

// Entry is one thing that happened to a job.
type Entry struct {
	Time  time.Time
	Job   backends.JobID
	Key   backends.Key
	Owner string
	// What is "submit", "release", "start", "terminate", "requeue", "cancel" or
	// "end <state>".
	What string
}

func (a *audit) init() {
	a.calls, a.done = map[Op]int{}, map[Op]int{}
	a.ran, a.running = map[runKey]int64{}, map[runKey]int{}
}

func (a *audit) log(s *System, j *job, what string) {
	a.history = append(a.history, Entry{Time: s.now, Job: j.id, Key: j.spec.Key, Owner: j.spec.Owner, What: what})
}

func (a *audit) starts(s *System, j *job) {
	a.log(s, j, "start")
	fault := func(format string, args ...any) {
		a.violations = append(a.violations, fmt.Sprintf("%s: ", s.now.Format(time.RFC3339))+fmt.Sprintf(format, args...))
	}
	if !j.released {
		fault("job %s (key %s) runs and was never released", j.id, j.spec.Key)
	}
	k := runKey{j.spec.Owner, j.spec.Key}
	if n := a.running[k]; n > 1 {
		fault("double run: %d jobs of key %s run at the same time, job %s is the last", n, j.spec.Key, j.id)
	}
	if before, ran := a.ran[k]; ran && before != j.no {
		fault("second run: key %s runs again, as job %s", j.spec.Key, j.id)
	}
	a.ran[k] = j.no
}

func (a *audit) requeues(s *System, j *job) { a.log(s, j, "requeue") }

// Violations lists what must never happen: two jobs of one owner and key at the
// same time, a key that ran in a second job, a start without a release. A
// requeue under the same id is none.
func (s *System) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.audit.violations)
}

// Held lists live jobs of owner (empty: all) that nobody released although they
// are older than age: leaks, once their caller has had time to sweep.
func (s *System) Held(owner string, age time.Duration) []backends.Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	var held []backends.Job
	for _, j := range s.byAge() {
		if j.held && j.state == backends.StatePending && (owner == "" || owner == j.spec.Owner) && s.now.Sub(j.submitted) > age {
			held = append(held, s.view(j))
		}
	}
	return held
}

// Calls counts the calls of each operation, those that failed included.
func (s *System) Calls() map[Op]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.audit.calls)
}

// Effects counts the calls that had their effect, whatever was reported.
func (s *System) Effects() map[Op]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.audit.done)
}

// History is everything that happened, in order.
func (s *System) History() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.audit.history)
}

// Starts counts how often jobs of the key began to run, requeues included.
func (s *System) Starts(owner string, key backends.Key) int {
	return s.count(owner, key, "start")
}

// Terms counts the terminate signals that jobs of the key received.
func (s *System) Terms(owner string, key backends.Key) int {
	return s.count(owner, key, "terminate")
}

func (s *System) count(owner string, key backends.Key, what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.audit.history {
		if e.Owner == owner && e.Key == key && e.What == what {
			n++
		}
	}
	return n
}

// Job gives one job as it is now, past all faults.
func (s *System) Job(id backends.JobID) (backends.Job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobs[id]
	if j == nil {
		return backends.Job{}, false
	}
	return s.view(j), true
}

// Jobs lists all jobs of all owners as they are now, past all faults, ordered by id.
func (s *System) Jobs() []backends.Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot()
}

// ForgetHistory drops what was audited of jobs so far, so that a long run needs
// no more memory than a short one. A second run of a key that ran before is not
// noticed any more.
func (s *System) ForgetHistory() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audit.history, s.audit.ran = nil, map[runKey]int64{}
}
