package lifecycle

import (
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// LostGrace is how long a recorded job must be absent from complete
// observations, with no end file, before its pods are failed as lost. It covers
// a lagging shared filesystem; a live job is never absent from a complete list.
const LostGrace = 2 * time.Minute

// StopMargin is how long after the end of its grace a gang that was told to end
// may still be there before its job is cancelled: the runner's look at the order,
// its last words and the batch system's clean-up take their time.
const StopMargin = 15 * time.Second

// Knowledge is what is known of the gang outside the API.
type Knowledge struct {
	// Jobs carry the gang's key, in the order of the observation.
	Jobs []backends.Job
	// Complete: Jobs comes from a complete observation that began after the
	// last effect on this gang, so absence proves something.
	Complete bool
	// NeverSubmitted: this process wrote the intent itself over pods that had
	// none with this key, so no job can carry the key yet.
	NeverSubmitted bool
	// Files is the gang's directory; nil when it does not exist or was not read.
	Files *manifest.CollectedGang
	// FilesRead: the last collection succeeded and began after the last effect.
	FilesRead bool
	// Stops are the members that somebody tried to stop through the runner.
	Stops map[string]Stop // by pod UID
	// Ranks maps a pod's UID to its rank in the gang directory.
	Ranks map[string]int
	// AbsentSince is when the recorded job was first missing; zero while present.
	AbsentSince time.Time
	// PullFirst: images are pulled before the job is submitted, when there are any.
	PullFirst bool
	// After are the gangs that have to succeed before this one starts.
	After []Predecessor
	// Unreachable: the batch system does not answer. Only API effects that need
	// no evidence happen.
	Unreachable bool
}

// Stop is what became of the order that a member ends.
type Stop struct {
	// Asked is when it was wanted first while the batch system answered.
	Asked time.Time
	// Written is when the order was in place; zero while it is not.
	Written time.Time
	Grace   time.Duration // that the order in place gives
	// Begun is when that grace began: as a rule when the order was in place, and
	// when the pod was deleted where a daemon before this one has seen to the order.
	Begun time.Time
	// Refused: the order can never be delivered, such as to a directory that is gone.
	Refused bool
	// Seen: the newest observation began after the order was in place.
	Seen bool
}

// Verb is a kind of action.
type Verb string

// The verbs, each one external effect of the provider.
const (
	WriteIntent Verb = "write-intent" // Pods: key and finalizer on each
	Stage       Verb = "stage"        // gang directory
	Pull        Verb = "pull"         // images of the staged gang
	Submit      Verb = "submit"       // held job
	Record      Verb = "record"       // Pods: JobID on each, in order
	Release     Verb = "release"      // JobID
	Cancel      Verb = "cancel"       // JobID
	Halt        Verb = "stop"         // Pods: an order to the runner of each
	Forget      Verb = "forget"       // Pods: remove the finalizer, and the pod itself if it is being deleted
)

// Action is one effect to perform.
type Action struct {
	Verb  Verb
	Pods  []Pod
	JobID backends.JobID
}

func (a Action) String() string {
	s := string(a.Verb)
	for _, p := range a.Pods {
		s += " " + p.Namespace + "/" + p.Name
	}
	if a.JobID != "" {
		s += " job=" + string(a.JobID)
	}
	return s
}

// Step is the answer of Next.
type Step struct {
	// Actions to perform in order; the first failure ends the step.
	Actions []Action
	// Observe asks for a fresh complete observation before the next step.
	Observe bool
	// Reason and Message tell a user what the gang waits for; empty while the
	// batch job itself explains it.
	Reason  string
	Message string
	// Lost says that the recorded job is gone without evidence.
	Lost bool
	// Void says why the gang can never be submitted as it is, "" while it can.
	Void string
}

// Next decides. It is idempotent: with the same facts it gives the same answer.
func Next(g Gang, k Knowledge, now time.Time) Step {
	if g.JobID == "" {
		return unrecorded(g, k)
	}
	return recorded(g, k, now)
}

// unrecorded covers steps 1 to 4: nothing can have run yet.
func unrecorded(g Gang, k Knowledge) Step {
	var live, going []Pod
	for _, m := range g.Members {
		if m.Deleting || m.Finished {
			if m.Finalizer || m.Deleting {
				going = append(going, m)
			}
		} else {
			live = append(live, m)
		}
	}
	var step Step
	if len(going) > 0 {
		// No job was recorded for them, so none was released and none ran.
		// A held job that may exist is collected by the sweep.
		step.Actions = append(step.Actions, Action{Verb: Forget, Pods: going})
	}
	if len(live) == 0 {
		return step
	}
	broken, open := unmet(k.After)
	if broken != nil {
		step.Void = broken.Words() // also of what is left when some of it has failed so
		return step
	}
	if live[0].Group != "" && len(live) != g.Live {
		return step // the key is of more members, and its lead may be gone: the rest is a gang of its own
	}
	if first := live[0]; first.Untold != "" {
		step.Reason, step.Message = "WaitingForPodGroup", first.Untold
		return step
	} else if first.Group != "" && len(live) < g.Size {
		step.Reason = "WaitingForMembers"
		step.Message = fmt.Sprintf("%d members of PodGroup %s are bound to this node; the batch job is submitted once its minMember of %d are", len(live), first.Group, g.Size)
		if first.Elsewhere > 0 {
			step.Message += fmt.Sprintf("; %d are bound to other nodes and count there: a gang is one batch job of one node", first.Elsewhere)
		}
		return step
	}
	if len(live) < g.Size {
		step.Reason = "WaitingForMembers"
		step.Message = fmt.Sprintf("%d of %d gang members are bound to this node; the batch job is submitted once all are", len(live), g.Size)
		return step
	}
	if missing := slices.DeleteFunc(slices.Clone(live), func(p Pod) bool { return p.Intent == g.Key && p.Finalizer }); len(missing) > 0 {
		step.Actions = append(step.Actions, Action{Verb: WriteIntent, Pods: missing})
		return step
	}
	if k.Unreachable {
		step.Reason, step.Message = "BatchSystemUnreachable", "the batch system does not answer; the job is submitted once it does"
		return step
	}
	if held, ok := adoptable(k.Jobs); ok {
		step.Actions = append(step.Actions, Action{Verb: Record, Pods: live, JobID: held})
		return step
	}
	if open != nil {
		step.Reason, step.Message = reasonAfter, open.Words()
		return step
	}
	if !k.NeverSubmitted && !k.Complete {
		step.Observe = true
		step.Reason, step.Message = "Submitting", "looking in the batch queue for an earlier submission"
		return step
	}
	if k.Files == nil {
		step.Actions = append(step.Actions, Action{Verb: Stage})
	}
	if k.PullFirst {
		step.Actions = append(step.Actions, Action{Verb: Pull})
	}
	step.Actions = append(step.Actions, Action{Verb: Submit})
	step.Reason, step.Message = "Submitting", "handing the gang over to the batch system"
	return step
}

// adoptable picks the job to record among those found under the key: the first
// that has not ended. An ended one never ran, since it was never recorded and
// so never released; a new one replaces it.
func adoptable(jobs []backends.Job) (backends.JobID, bool) {
	var best *backends.Job
	for i, j := range jobs {
		if j.State.Terminal() {
			continue
		}
		if best == nil || j.Submitted.Before(best.Submitted) ||
			(j.Submitted.Equal(best.Submitted) && j.ID < best.ID) {
			best = &jobs[i]
		}
	}
	if best == nil {
		return "", false
	}
	return best.ID, true
}

// recorded covers steps 4 to 6: the job with g.JobID is the gang's only one.
func recorded(g Gang, k Knowledge, now time.Time) Step {
	var step Step
	missing := slices.DeleteFunc(slices.Clone(g.Members), func(p Pod) bool {
		return p.JobID == g.JobID || p.Deleting || p.Finished
	})
	if len(missing) > 0 {
		// Crash between two records. Release waits until all have it.
		step.Actions = append(step.Actions, Action{Verb: Record, Pods: missing, JobID: g.JobID})
		return step
	}
	var job *backends.Job
	for i, j := range k.Jobs {
		switch {
		case j.ID == g.JobID:
			job = &k.Jobs[i]
		case !j.State.Terminal():
			// A second submission whose reply was lost. It is held for ever.
			step.Actions = append(step.Actions, Action{Verb: Cancel, JobID: j.ID})
		}
	}
	ended := job != nil && job.State.Terminal()
	if job == nil && k.Complete {
		ended = k.Files != nil && k.Files.End != nil
		if !k.AbsentSince.IsZero() && now.Sub(k.AbsentSince) >= LostGrace {
			if k.FilesRead {
				// Also with an end file: it may be of a run before a requeue.
				// What it tells of the last run comes before the loss.
				ended, step.Lost = true, true
			} else if !ended {
				step.Reason = "EvidenceUnreadable"
				step.Message = fmt.Sprintf("the batch system no longer knows job %s, and the staging directory that tells how it ended cannot be read", g.JobID)
			}
		}
	}

	wanted := false // somebody still wants the job to go on
	cancel := false // somebody was deleted who may still run
	for _, m := range g.Members {
		over := ended || fileTerminal(m, k, job)
		if over {
			// Let go once the API has the terminal status, which the provider
			// writes from the same evidence.
			if m.Finished && (m.Finalizer || m.Deleting) {
				step.Actions = append(step.Actions, Action{Verb: Forget, Pods: []Pod{m}})
			}
			continue
		}
		if m.Finished {
			// Terminal in the API without evidence: written by another (an
			// eviction). The job must not go on for it alone.
			cancel = true
			continue
		}
		if !m.Deleting {
			wanted = true
			continue
		}
		cancel = true
	}
	if ended || k.Unreachable || job == nil {
		return step
	}
	if !wanted && cancel {
		step.Actions = append(step.Actions, stopGang(g, k, job, now)...)
		return step
	}
	if cancel {
		step.Actions = append(step.Actions, stopMembers(g, k, job)...)
	}
	switch {
	case !wanted:
	// One that began before was released by us then: somebody else holds it now, as
	// "scontrol requeuehold" does in the user's name.
	case job.Held && job.Restarts == 0 && job.Reason != heldByTheAdmins:
		free(g, k, &step)
	case len(k.After) > 0 && job.Never && job.Reason == neverSatisfied:
		step.Actions = append(step.Actions, Action{Verb: Cancel, JobID: g.JobID})
	}
	return step
}

// stopGang ends a gang of which nobody is wanted any more. The batch system's
// cancel signals all processes at once and kills after a time of its own, so a
// job that runs is told through its runner first: preStop hooks run, each member
// has its grace, and the job ends by itself. What is left then is cancelled, and
// so is at once what has no process that could be told.
func stopGang(g Gang, k Knowledge, job *backends.Job, now time.Time) []Action {
	cancel := []Action{{Verb: Cancel, JobID: g.JobID}}
	if job.State == backends.StatePending || job.State == backends.StateSuspended {
		return cancel // a suspended job's processes stand still: no grace would help them
	}
	var untold []Pod
	var until time.Time // when all that were told have had their grace
	overdue := false
	for _, m := range g.Members {
		if fileTerminal(m, k, job) {
			continue
		}
		s, asked := k.Stops[m.UID]
		switch {
		case s.Refused:
			return cancel
		case toTell(s, m):
			untold = append(untold, m)
			// Its grace passes all the same: nobody waits for ever for a directory
			// that cannot be written.
			since := s.Asked
			if !s.Written.IsZero() {
				since = s.Written
			}
			overdue = overdue || asked && !now.Before(since.Add(max(m.Grace, s.Grace)+StopMargin))
		default:
			end := s.Begun.Add(s.Grace)
			if end.Before(s.Written) {
				end = s.Written // the one before may have come no further than this one has
			}
			if end = end.Add(StopMargin); end.After(until) {
				until = end
			}
		}
	}
	switch {
	case overdue:
		return cancel
	case len(untold) > 0:
		return []Action{{Verb: Halt, Pods: untold}}
	case !now.Before(until):
		return cancel
	}
	return nil
}

// toTell reports whether a member needs an order to end, or one with less grace
// than it was given first.
func toTell(s Stop, m Pod) bool { return s.Written.IsZero() || m.Grace < s.Grace }

// stopMembers ends single members of a gang whose others go on. A member of a
// job that has not started is let go as soon as its stop file is known to have
// been there before an observation that shows the job pending: the runner looks
// for the file before it starts anything, also after a requeue, and what an
// earlier run had started has ended with it.
func stopMembers(g Gang, k Knowledge, job *backends.Job) []Action {
	var out []Action
	var untold []Pod
	for _, m := range g.Members {
		if !(m.Deleting || m.Finished) || fileTerminal(m, k, job) {
			continue
		}
		s := k.Stops[m.UID]
		switch {
		case toTell(s, m):
			untold = append(untold, m)
		case s.Seen && job.State == backends.StatePending && k.Complete:
			out = append(out, Action{Verb: Forget, Pods: []Pod{m}})
		}
	}
	if len(untold) > 0 {
		out = append(out, Action{Verb: Halt, Pods: untold})
	}
	return out
}

// fileTerminal reports whether the member's own file says that it ended, in the
// job's present run: a requeued job starts every member again.
func fileTerminal(m Pod, k Knowledge, job *backends.Job) bool {
	if k.Files == nil {
		return false
	}
	rank, ok := k.Ranks[m.UID]
	if !ok {
		return false
	}
	st, ok := k.Files.Pods[rank]
	return ok && st.UID == m.UID && st.Phase.Terminal() && (job == nil || st.Restart >= job.Restarts)
}
