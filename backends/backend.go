// Package backends is the contract between Isthmus and a batch system: what a
// job is, which effects exist, what may be observed, and which kinds of error
// there are. It holds no I/O. Implementations are the sub-packages slurm, local
// and fake; backends/backendtest is the suite that each of them passes.
//
// The contract exists to make double runs impossible although no batch system
// offers an idempotency token: a job is submitted held, its id is recorded by
// the caller, and only a recorded id is released.
package backends

import (
	"context"
	"time"
)

// JobID is the batch system's name of a job ("123", "6" for the leader of a
// heterogeneous job, "7.server" in PBS). It is opaque and never a number to us.
type JobID string

// Key is the caller's name of a job: 1 to 15 characters of [a-z0-9], starting
// with a letter, unique per gang attempt. It becomes the job name.
type Key string

// LaunchScript is the whole batch script of every job: a constant, so that no
// user data can ever reach a shell. The backend runs it with the job's WorkDir
// as working directory; WorkDir/podrun is an executable. Where the batch system
// does not do that by itself, a backend has a constant script of its own that
// first does what is missing, and then the same.
const LaunchScript = "#!/bin/sh\nexec ./podrun launch .\n"

// JobSpec is a job to submit. Zero values mean "the batch system's default".
type JobSpec struct {
	Key   Key
	Owner string // tag of the submitting BatchCluster: [a-z0-9-]{1,63}; marks the job as ours
	User  string // operating-system user the job runs as; never root

	Partition   string
	Account     string
	QOS         string
	Constraint  string
	Reservation string
	// ExcludedHosts of the partition are not used, see Capabilities.ExcludeHosts.
	ExcludedHosts []string
	// Host is the only one for all tasks, "" is any; see Capabilities.OneHost.
	Host string

	// Licenses that the job holds while it runs, for all its tasks together, by the
	// batch system's name for them; see Capabilities.Licenses.
	Licenses map[string]int64
	// Switches is how many network switches the hosts of each component may be at; 0
	// is any. After SwitchesWait in the queue hosts anywhere will do, 0 leaves that
	// time to the batch system. See Capabilities.Switches.
	Switches     int
	SwitchesWait time.Duration // rounded up to a second

	Walltime time.Duration // run-time limit, rounded up to a minute where the system counts minutes
	Grace    time.Duration // from the terminate signal to the kill signal on Cancel

	// WorkDir is an absolute directory that the job's user owns and that is
	// visible on all hosts. Output of the batch script goes to WorkDir/batch.log.
	WorkDir string

	// After are jobs of the same user that must have ended with exit code 0 before
	// this one starts; see Capabilities.After.
	After []JobID

	// Components are the groups of equal tasks, started together or not at all.
	// One component is a plain job, more are a heterogeneous one.
	Components []Component
}

// Component is a group of equal tasks. A task is one pod.
type Component struct {
	Tasks     int   // at least 1
	CPUs      int64 // whole CPUs a task, at least 1
	MemoryMiB int64 // a task; 0 leaves it to the batch system
	// GPUs a task by GRES type; "" is an untyped GPU. A component with Shard has one
	// task and no GPUs beside.
	GPUs map[string]int64
}

// Shard stands among the types of GPUs for shares of GPUs that the batch system hands out
// by number (Slurm's GRES shard): a job has all its shares of a host on one GPU, and a
// GPU that is shared is given to nobody whole. No type has such a name.
const Shard = "/shard"

// State is what the batch system says of a job.
type State string

// The states. A requeued job goes from Running back to Pending under the same
// id with a higher Restarts; that is not an end.
const (
	StatePending     State = "Pending"
	StateRunning     State = "Running"
	StateSuspended   State = "Suspended"
	StateCompleting  State = "Completing" // ended, still holds hosts
	StateCompleted   State = "Completed"
	StateFailed      State = "Failed"
	StateCancelled   State = "Cancelled"
	StateTimeout     State = "Timeout"
	StateOutOfMemory State = "OutOfMemory"
	StateNodeFail    State = "NodeFail"
	StatePreempted   State = "Preempted"
	StateUnknown     State = "Unknown" // a state this version does not know: changes nothing
)

// Terminal reports whether a job in state s will never run again.
func (s State) Terminal() bool {
	switch s {
	case StateCompleted, StateFailed, StateCancelled, StateTimeout, StateOutOfMemory, StateNodeFail, StatePreempted:
		return true
	}
	return false
}

// Job is one observed job. A heterogeneous job is one Job: its id is the
// leader's and its state is the least advanced of its components'.
type Job struct {
	ID    JobID
	Key   Key
	Owner string
	User  string

	Partition string
	State     State
	Held      bool   // pending and not released
	Reason    string // the batch system's own word for why it waits or ended
	Never     bool   // pending for a reason that will not pass by itself (class "never runs as written")

	Restarts  int // times the batch system requeued it
	Hosts     []string
	Submitted time.Time
	Started   time.Time // zero while pending
	Ended     time.Time // zero until terminal
	Estimated time.Time // estimated start of a pending job; zero when unknown
	ExitCode  int
	Signal    int
}

// Observation is the answer to Observe.
type Observation struct {
	// Jobs holds every job with the owner's tag that the batch system still
	// knows, live or ended, ordered by ID.
	Jobs []Job
	// Complete is false when the list may lack jobs: then absence proves nothing.
	Complete bool
}

// Host is one compute host.
type Host struct {
	Name     string
	Addr     string // network address, "" when unknown
	State    string // the batch system's own word
	Usable   bool   // not down, drained, reserved for others or in maintenance
	Why      string // why it is not usable
	Reserved bool   // a reservation, and nothing else, keeps other jobs from it
	CPUs     int64
	Features []string
	// MemoryMiB is what jobs may use.
	MemoryMiB int64
	// GPUs counts devices by GRES type, and shares of them as Shard.
	GPUs map[string]int64
	// Shared is how many of the GPUs jobs hold shares of; 0 where that is not told, and
	// then it follows from the shares that are held.
	Shared int64
	// Allocated is what jobs, ours and foreign, hold now.
	Allocated Amounts
}

// Amounts is a quantity of host resources.
type Amounts struct {
	CPUs      int64
	MemoryMiB int64
	GPUs      map[string]int64
}

// Partition is a set of hosts with limits, a queue in PBS.
type Partition struct {
	Name            string
	Up              bool
	Default         bool
	Hosts           []string
	MaxWalltime     time.Duration // 0 is unlimited
	DefaultWalltime time.Duration // 0 is none
}

// Inventory is what the batch system has.
type Inventory struct {
	System     string // "slurm", "pbs", "torque", "local", "fake"
	Version    string
	Partitions []Partition // ordered by name
	Hosts      []Host      // ordered by name
	// Licenses are what jobs may ask for as JobSpec.Licenses, ordered by name; empty
	// where there are none or the implementation cannot tell.
	Licenses []License
	// LicensesUnread says why the licences could not be read this time: Licenses are
	// then those that were read last, if any. "" when they were read.
	LicensesUnread string
	// Reservations are the hosts of each reservation that is in force; nil where
	// the implementation cannot tell.
	Reservations map[string][]string
}

// License is a number of licences that all partitions share.
type License struct {
	Name  string
	Total int64 // what jobs may hold, without what is reserved for others
	Used  int64 // what jobs, ours and foreign, hold now
}

// Capabilities says what an implementation can do, so that what is missing is
// shown on the node rather than found by accident.
type Capabilities struct {
	// History: ended jobs stay observable for hours, not just minutes. Where it
	// is a setting of the batch system, it is false until that was read.
	History bool
	// Heterogeneous: a job may have several components.
	Heterogeneous bool
	// ExclusiveComponents: components of one job never share a host.
	ExclusiveComponents bool
	// StartEstimate: Job.Estimated is filled.
	StartEstimate bool
	// Enter: the backend is an Enterer, so that exec, attach and port-forward
	// reach running pods through the batch system.
	Enter bool
	// Reservation: JobSpec.Reservation is honoured.
	Reservation bool
	// Reserve: the backend is a Reserver, and makes reservations where its account may.
	Reserve bool
	// ExcludeHosts: JobSpec.ExcludedHosts is honoured. Without it a job with any
	// is refused as Invalid.
	ExcludeHosts bool
	// OneHost: JobSpec.Host is honoured. Without it a job with one is refused as
	// Invalid.
	OneHost bool
	// Licenses: JobSpec.Licenses is honoured. Without it a job with any is refused
	// as Invalid.
	Licenses bool
	// Switches: JobSpec.Switches is honoured. Without it a job with it is refused as
	// Invalid. Where it depends on the server's version, it is false until that is known.
	Switches bool
	// Shards: components may ask for Shard. Without it a job with any is refused as
	// Invalid.
	Shards bool
	// After: JobSpec.After is honoured for jobs that the batch system knows and that
	// have not ended; the caller vouches for those. When one of them ends in another
	// way, the job never starts: it is ended as Cancelled, or waits as Never. Without
	// it a job with any is refused as Invalid.
	After bool
}

// Enterer is a Backend that can start a further program inside the allocation
// of a running job.
type Enterer interface {
	// Enter gives the command that, run by the connection's runner, executes argv
	// on one of a running job's hosts as the job's user, with standard input and
	// output passed through unchanged and its exit code as its own. It does no
	// I/O. The error is of kind Invalid when that cannot be.
	Enter(job JobRef, host string, argv []string) (Entry, error)
}

// Entry is a command that enters an allocation.
type Entry struct {
	Argv []string
	Env  []string // NAME=value
	User string
}

// Backend drives one batch system. All methods are safe for concurrent use,
// block until the batch system answered or ctx ended, and are safe to repeat.
// Every error is an *Error.
type Backend interface {
	// Submit creates the job HELD: it never runs before Release. It does not
	// look for an existing job: the caller observes by key first and must not
	// call Submit again after an error of kind UnknownOutcome before a complete
	// observation shows no job with the key.
	Submit(ctx context.Context, spec JobSpec) (JobID, error)
	// Release lets a held job run. Releasing a released or ended job is success.
	Release(ctx context.Context, job JobRef) error
	// Cancel ends a job in any state, with the terminate signal first. A job
	// that has ended or is unknown is success.
	Cancel(ctx context.Context, job JobRef) error
	// Observe lists all jobs that carry the owner's tag, with one query to the
	// batch system whatever their number. users are the operating-system users
	// that may own such jobs.
	Observe(ctx context.Context, owner string, users []string) (Observation, error)
	// Inventory lists partitions and hosts.
	Inventory(ctx context.Context) (Inventory, error)
	// Capabilities is constant for the life of the Backend, but for History.
	Capabilities() Capabilities
}

// Recaller is a Backend whose history can be asked for single jobs.
type Recaller interface {
	// Recall names jobs that the caller has on record and has not seen end. Those
	// that the batch system no longer lists are looked up in its history for the
	// next observations, also when this Backend never listed them: the daemon was
	// away. It does no I/O and is safe to repeat.
	Recall(owner string, jobs []JobRef)
}

// JobRef addresses a job for an effect: the id and the user it belongs to.
type JobRef struct {
	ID   JobID
	Key  Key
	User string
	// Component is which component of a heterogeneous job is meant, counted from
	// 1; 0 for a plain job. Only Enter looks at it.
	Component int
}
