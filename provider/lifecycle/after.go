package lifecycle

import (
	"fmt"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Predecessor is a gang that has to succeed before another starts.
type Predecessor struct {
	// Name is how users know it.
	Name  string
	State PredecessorState
	// JobID of a predecessor that is Submitted.
	JobID backends.JobID
	// Why says more of one that is Open or Broken.
	Why string
}

// PredecessorState is what is known of a predecessor.
type PredecessorState string

// The states. From Open and Submitted it goes to any other, and from Succeeded and
// Broken to none that would let its successor start wrongly.
const (
	// Open: it has not succeeded, and there is no job that could be waited for.
	Open PredecessorState = "Open"
	// Submitted: its one recorded job is listed, and has not ended.
	Submitted PredecessorState = "Submitted"
	// Succeeded: all its pods have, and none is being deleted.
	Succeeded PredecessorState = "Succeeded"
	// Broken: it will not succeed, or nobody can tell any more.
	Broken PredecessorState = "Broken"
)

// The reasons of a gang that comes after others.
const (
	reasonAfter     = "WaitingForPredecessor"
	neverSatisfied  = "DependencyNeverSatisfied"
	heldByTheAdmins = "JobHeldAdmin"
)

// unmet gives the first predecessor that is Broken, and the first that is Open.
func unmet(after []Predecessor) (broken, open *Predecessor) {
	for i := range after {
		switch p := &after[i]; p.State {
		case Succeeded, Submitted:
		case Broken:
			if broken == nil {
				broken = p
			}
		default:
			if open == nil {
				open = p
			}
		}
	}
	return broken, open
}

// Words say what is amiss with a predecessor.
func (p *Predecessor) Words() string {
	return fmt.Sprintf("it comes after %s: %s", p.Name, p.Why)
}

// AfterJobs are the jobs that a gang's job has to wait for at the batch system. ok is
// false when it must not be submitted now.
func AfterJobs(after []Predecessor) (jobs []backends.JobID, ok bool) {
	if broken, open := unmet(after); broken != nil || open != nil {
		return nil, false
	}
	for _, p := range after {
		if p.State == Submitted {
			jobs = append(jobs, p.JobID)
		}
	}
	return jobs, true
}

// free decides on a recorded job that is held and wanted.
//
// A batch system drops a dependency on a job that it does not know any more, so one
// that comes after others may go only when that cannot have happened: each of them
// has succeeded, or its job is seen to go on by an observation that began after our
// last effect. Then it went on when the job was submitted, and from there on the
// batch system keeps count, also when it forgets the other.
func free(g Gang, k Knowledge, step *Step) {
	release := Action{Verb: Release, JobID: g.JobID}
	if len(k.After) == 0 {
		step.Actions = append(step.Actions, release)
		return
	}
	broken, open := unmet(k.After)
	jobs, _ := AfterJobs(k.After)
	switch {
	case broken != nil:
		step.Actions = append(step.Actions, Action{Verb: Cancel, JobID: g.JobID})
	case open != nil:
	case len(jobs) > 0 && !k.Complete:
		step.Observe = true
	default:
		step.Actions = append(step.Actions, release)
	}
}
