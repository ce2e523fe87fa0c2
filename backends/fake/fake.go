// Package fake is a batch system in memory with a virtual clock: for unit tests
// and for the simulator. Time passes only when Advance is called, nothing runs
// in the background, and the same calls give the same answers.
//
// It schedules like a small Slurm: priority order, first fit, all of a job or
// none, one job at a time per key and user, finished jobs forgotten after
// MinJobAge. What programs do is scripted with Config.Program; what goes wrong
// is scripted in one line each (see Fault) or done by hand with the methods that
// stand for an administrator or for bad luck (Requeue, FailHost, Preempt, ...).
//
// It also watches its callers: Violations names double runs, Held names jobs
// that nobody released, Calls counts.
package fake

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/packing"
)

// Config describes a System. It is not changed after New.
type Config struct {
	// Start is the first moment of the virtual clock; zero is 2026-01-01 UTC.
	Start time.Time
	Hosts []Host
	// Partitions; a job without one goes to the Default one.
	Partitions []Partition
	// Program says what a job's program does when it starts; nil runs every
	// program until it is ended by Cancel, Finish or a limit.
	Program func(backends.JobSpec) Behaviour
	// Users that have an account; empty accepts every user. Others are denied.
	Users []string
	// MinJobAge is how long ended jobs stay listed; 0 is 300 s.
	MinJobAge time.Duration
	// RequeueDelay is how long a requeued job waits at least; 0 is 120 s.
	RequeueDelay time.Duration
	// RequeueFails cancels what comes after a job that is requeued, as Slurm 22.05 does
	// at times: it takes the end of the run for that of the job.
	RequeueFails bool
	// NoSingleton drops the rule that jobs of one key and user run one at a time.
	NoSingleton bool
	// Backfill lets smaller jobs pass a blocked one; without it the first job
	// that must wait blocks its partition.
	Backfill bool
	// Licenses that jobs may hold, by name; a job that cannot have its own now waits
	// with the reason Licenses and blocks nobody.
	Licenses map[string]int64
	// NoReservations denies what backends.Reserver changes.
	NoReservations bool
	// Capabilities is what Capabilities answers; a job of several components is
	// refused without Heterogeneous. All hosts are at one switch.
	Capabilities backends.Capabilities
}

// Host is one pretended host.
type Host struct {
	Name      string
	CPUs      int64
	MemoryMiB int64
	GPUs      map[string]int64
	Features  []string
}

// Partition is a set of hosts by name; no names means all hosts.
type Partition struct {
	Name            string
	Hosts           []string
	Default         bool
	MaxWalltime     time.Duration
	DefaultWalltime time.Duration
	// Priority of its jobs; higher starts first.
	Priority int64
}

// Uniform is a Config of n equal hosts h001, h002, ... in one default partition
// named "main", able to run jobs of several components.
func Uniform(n int, cpus, memoryMiB int64, gpuType string, gpus int64) Config {
	c := Config{
		Partitions:   []Partition{{Name: "main", Default: true}},
		Capabilities: backends.Capabilities{Heterogeneous: true, ExcludeHosts: true, After: true, Licenses: true, Switches: true, Shards: true, Reserve: true, Reservation: true},
	}
	for i := range n {
		h := Host{Name: fmt.Sprintf("h%03d", i+1), CPUs: cpus, MemoryMiB: memoryMiB}
		if gpus > 0 {
			h.GPUs = map[string]int64{gpuType: gpus}
		}
		c.Hosts = append(c.Hosts, h)
	}
	return c
}

// Behaviour is what one start of a program does.
type Behaviour struct {
	// Duration until the program ends by itself, unless Forever. 0 ends at the
	// next Advance, even of no time.
	Duration time.Duration
	Forever  bool
	// ExitCode and Signal when it ends by itself.
	ExitCode int
	Signal   int
	// OutOfMemory ends it as StateOutOfMemory instead.
	OutOfMemory bool
	// TermDelay is the time from the terminate signal to the end; IgnoreTerm
	// leaves the end to the kill signal after the job's grace.
	TermDelay  time.Duration
	IgnoreTerm bool
	// OnStart, OnTerm and OnEnd are called when it happens, in order of time,
	// outside the System's lock: they may call the System's methods except
	// Advance. OnEnd gets the state of the job after the run, Pending when it was requeued.
	OnStart func(Run)
	OnTerm  func(Run)
	OnEnd   func(Run, backends.State)
}

// Run is one start of a job.
type Run struct {
	Job     backends.JobID
	Spec    backends.JobSpec
	Restart int
	Now     time.Time
	// HostOf names the host of each rank.
	HostOf []string
}

// System is the batch system and its Backend. All methods are safe for
// concurrent use; for the same answers every time, use it from one goroutine.
type System struct {
	cfg Config

	mu      sync.Mutex
	now     time.Time
	skew    time.Duration
	hosts   []host
	jobs    map[backends.JobID]*job
	pending []*job // sorted by before
	events  eventHeap
	eventNo int64
	nextID  int64
	jobNo   int64
	after   []func() // hooks to call once the lock is free
	faults  []*Fault
	audit   audit

	// names counts the jobs on hosts by user and key.
	names map[userKey]int
	// licenses counts those that jobs on hosts hold, by name.
	licenses map[string]int64
	// reservations by name.
	reservations map[string]backends.Reservation
	// shares lists, for each partition, all partitions with a host of it.
	shares map[*Partition][]*Partition
}

type userKey struct {
	user string
	key  backends.Key
}

type host struct {
	Host
	used    backends.Amounts
	foreign backends.Amounts
	down    bool
	why     string
}

type job struct {
	id        backends.JobID
	no        int64 // order of submission
	spec      backends.JobSpec
	partition *Partition
	priority  int64

	state     backends.State
	held      bool
	adminHeld bool
	reason    string
	never     bool
	restarts  int
	submitted time.Time
	started   time.Time
	ended     time.Time
	eligible  time.Time
	exit      int
	signal    int

	behaviour Behaviour
	tasks     []packing.Task
	released  bool
	epoch     int // events of an older epoch are void
	cause     backends.State
	requeue   bool   // after the present termination the job goes back to pending
	awaits    []*job // have to complete first
}

// New gives a System at the start of its clock. It panics on a Config that
// names an unknown host, since that is a mistake in a test.
func New(cfg Config) *System {
	if cfg.Start.IsZero() {
		cfg.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	cfg.Partitions = slices.Clone(cfg.Partitions)
	cfg.MinJobAge = cmp.Or(cfg.MinJobAge, 300*time.Second)
	cfg.RequeueDelay = cmp.Or(cfg.RequeueDelay, 120*time.Second)
	s := &System{cfg: cfg, now: cfg.Start, jobs: map[backends.JobID]*job{}, nextID: 1, names: map[userKey]int{}, licenses: map[string]int64{}, reservations: map[string]backends.Reservation{}, shares: map[*Partition][]*Partition{}}
	s.audit.init()
	for _, h := range cfg.Hosts {
		s.hosts = append(s.hosts, host{Host: h})
	}
	slices.SortFunc(s.hosts, func(a, b host) int { return cmp.Compare(a.Name, b.Name) })
	for _, p := range cfg.Partitions {
		for _, name := range p.Hosts {
			if s.hostAt(name) < 0 {
				panic("fake: partition " + p.Name + " names the unknown host " + name)
			}
		}
	}
	s.findShared()
	return s
}

func (s *System) findShared() {
	for i := range s.cfg.Partitions {
		for j := range s.cfg.Partitions {
			p, q := &s.cfg.Partitions[i], &s.cfg.Partitions[j]
			if slices.ContainsFunc(s.hosts, func(h host) bool { return p.has(h.Name) && q.has(h.Name) }) {
				s.shares[p] = append(s.shares[p], q)
			}
		}
	}
}

func (s *System) hostAt(name string) int {
	return slices.IndexFunc(s.hosts, func(h host) bool { return h.Name == name })
}

func (s *System) partition(name string) *Partition {
	for i := range s.cfg.Partitions {
		p := &s.cfg.Partitions[i]
		if p.Name == name || name == "" && p.Default {
			return p
		}
	}
	return nil
}

func (p *Partition) has(name string) bool {
	return len(p.Hosts) == 0 || slices.Contains(p.Hosts, name)
}

// unlock frees the lock and then calls the hooks of what happened under it.
func (s *System) unlock() {
	calls := s.after
	s.after = nil
	s.mu.Unlock()
	for _, call := range calls {
		call()
	}
}

func (s *System) newID() backends.JobID {
	for {
		id := backends.JobID(strconv.FormatInt(s.nextID, 10))
		s.nextID++
		if old, taken := s.jobs[id]; !taken || old.state.Terminal() {
			return id
		}
	}
}

// SetNextID sets the number of the next job, so that ids wrap and are used
// again as they are on a long-lived cluster. Live jobs keep theirs.
func (s *System) SetNextID(n int64) {
	s.mu.Lock()
	defer s.unlock()
	s.nextID = n
}

func (s *System) run(j *job) Run {
	r := Run{Job: j.id, Spec: j.spec, Restart: j.restarts, Now: s.now}
	for _, t := range j.tasks {
		r.HostOf = append(r.HostOf, s.hosts[t.Host].Name)
	}
	return r
}
