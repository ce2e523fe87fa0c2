package dataset

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/report"
)

// Input is everything that a decision rests on.
type Input struct {
	Dataset *hpc.Dataset
	// Jobs are those that the Dataset controls.
	Jobs []*batch.Job
	// Others are those of a Dataset of its name that was deleted. The garbage collector
	// deletes them, and until then they may write.
	Others []*batch.Job
	// Wanted are the BatchClusters that gangs ask for.
	Wanted map[string]bool
	Now    time.Time
}

// Output is what is to be done, in this order: creations, the status, deletions.
type Output struct {
	Create []*batch.Job
	// Status counts the Jobs of Create as made.
	Status hpc.DatasetStatus
	Delete []*batch.Job
	// RequeueAfter is how long until time alone changes the answer; 0 is never.
	RequeueAfter time.Duration
	Notices      []report.Notice
}

// How long Jobs are kept once they ended and the status says so, for those who read
// their logs.
const (
	keptReady  = time.Hour
	keptFailed = 24 * time.Hour
)

// The pauses before a copy that failed is tried again.
const (
	firstPause  = time.Minute
	longestWait = time.Hour
)

// defaultRetries is that of the CRD, for objects that were stored without it.
const defaultRetries = 3

// The API server takes no event with a text of more than maxNote bytes. What others say
// is cut to maxMessage, so that there is room for what is said about it.
const (
	maxNote    = 1024
	maxMessage = 700
)

// maxCopies is how many copies the API server takes in a status.
const maxCopies = 64

// waits begins the part of a message that names a Job which has to be gone first.
const waits = "it waits until Job "

// Next decides about one Dataset. For the same input it gives the same answer.
//
// No two Jobs of one Dataset and cluster ever run at a time: one that is not to go on is
// deleted, and the next is made when it and its pods are gone. The same holds for Jobs of
// a Dataset of its name before it.
func Next(in Input) (out Output) {
	if in.Dataset.DeletionTimestamp != nil {
		out.Status = *in.Dataset.Status.DeepCopy()
		return out // the garbage collector deletes the Jobs
	}
	for _, cluster := range clusters(in) {
		s := state{in: in, out: &out, cluster: cluster}
		s.look()
		if c := s.next(); c != nil {
			out.Status.Copies = append(out.Status.Copies, *c)
		}
	}
	return out
}

// clusters are those that there is anything to do about, in the order of their names.
func clusters(in Input) []string {
	var out []string
	if in.Dataset.Spec.Staging != nil {
		for _, t := range in.Dataset.Spec.Staging.Targets {
			out = append(out, t.Cluster)
		}
	}
	for _, c := range in.Dataset.Status.Copies {
		out = append(out, c.Cluster)
	}
	for _, j := range in.Jobs {
		out = append(out, clusterOf(in, j))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// clusterOf is where a Job copies to: what the status says of it, since users may change
// labels, and else its label.
func clusterOf(in Input, j *batch.Job) string {
	for _, c := range in.Dataset.Status.Copies {
		if c.Job == j.Name {
			return c.Cluster
		}
	}
	return j.Labels[wellknown.Cluster]
}

// state is where the copy to one cluster stands.
type state struct {
	in      Input
	out     *Output
	cluster string
	target  *hpc.DatasetTarget // nil when it is none
	was     *hpc.DatasetCopy   // nil when the status has none; without what it waits for
	said    string             // its message, with that
	jobs    []*batch.Job
}

func (s *state) look() {
	d := s.in.Dataset
	for i := range d.Status.Copies {
		if d.Status.Copies[i].Cluster == s.cluster {
			s.was = d.Status.Copies[i].DeepCopy()
			s.said = s.was.Message
			s.was.Message, _, _ = strings.Cut(s.was.Message, waits)
			s.was.Message = strings.TrimSuffix(s.was.Message, "; ")
		}
	}
	if d.Spec.Staging != nil {
		for i := range d.Spec.Staging.Targets {
			if d.Spec.Staging.Targets[i].Cluster == s.cluster {
				s.target = &d.Spec.Staging.Targets[i]
			}
		}
	}
	for _, j := range s.in.Jobs {
		if clusterOf(s.in, j) == s.cluster {
			s.jobs = append(s.jobs, j)
		}
	}
	slices.SortFunc(s.jobs, func(a, b *batch.Job) int { return strings.Compare(a.Name, b.Name) })
}

// next is the copy as the status is to have it, nil for none.
func (s *state) next() *hpc.DatasetCopy {
	switch {
	case s.target == nil, s.was != nil && s.was.Path != s.target.Path:
		return s.leave()
	case s.was == nil:
		return s.begin(0)
	case s.was.Phase == hpc.CopyReady:
		s.tidy(keptReady)
		return s.was
	case s.was.Recipe != recipe(s.in.Dataset, *s.target):
		return s.leave()
	case s.was.Phase == hpc.CopyCopying:
		return s.follow(s.was)
	default:
		return s.retry()
	}
}

// leave gives the copy up: it goes from the status when its Jobs are gone. Until then
// it is not begun anew.
func (s *state) leave() *hpc.DatasetCopy {
	for _, j := range s.jobs {
		s.drop(j)
	}
	if len(s.jobs) > 0 {
		if s.was != nil && s.was.Phase == hpc.CopyCopying {
			s.was.Message = "" // of a Job that is given up
		}
		return s.wait(s.jobs[0])
	}
	if s.target == nil {
		return nil
	}
	s.was = nil
	return s.begin(0)
}

// wait is what there is, and that it waits for the end of a Job.
func (s *state) wait(job *batch.Job) *hpc.DatasetCopy {
	if s.was == nil {
		return nil
	}
	if s.was.Message != "" {
		s.was.Message += "; "
	}
	s.was.Message += waits + job.Name + " and its pods are gone"
	return s.was
}

func (s *state) drop(j *batch.Job) {
	if j.DeletionTimestamp == nil {
		s.out.Delete = append(s.out.Delete, j)
	}
}

// begin is the attempt after so many, or what there is while it is not made: when no
// gang asks for it, and as long as others are not gone.
func (s *state) begin(attempts int32) *hpc.DatasetCopy {
	d := s.in.Dataset
	job := newJob(d, *s.target, attempts+1)
	c := &hpc.DatasetCopy{Cluster: s.cluster, Path: s.target.Path, Phase: hpc.CopyCopying, Job: job.Name, Attempts: attempts + 1,
		StartTime: ptr.To(metav1.NewTime(s.in.Now).Rfc3339Copy()), Recipe: recipe(d, *s.target)}
	var before *batch.Job
	for _, j := range s.jobs {
		switch {
		case j.Name == job.Name && j.DeletionTimestamp == nil:
			// Made before the status could be written: whether or not it is still
			// asked for, it is there.
			c.StartTime = ptr.To(j.CreationTimestamp)
			s.started(c)
			return s.follow(c)
		case j.Name == job.Name || !finished(j):
			before = j
			s.drop(j)
		}
	}
	for _, j := range s.in.Others {
		if j.Labels[wellknown.Cluster] == s.cluster && !finished(j) {
			before = j
		}
	}
	switch {
	case !s.in.Wanted[s.cluster]:
		return s.was
	case s.was == nil && s.full():
		s.note(true, "TooManyCopies", "the copy to cluster %s waits until there are fewer than %d in the status: those of targets that are removed go from it when their Jobs are gone", s.cluster, maxCopies)
		return nil
	case before != nil:
		if s.was == nil {
			s.was = unmade(s.in, c, nil, "its Job is not made yet")
		}
		return s.wait(before)
	}
	s.out.Create = append(s.out.Create, job)
	c.Message = "its Job is new"
	s.started(c)
	return c
}

// full says that the status has no room for this copy.
func (s *state) full() bool {
	names := map[string]bool{}
	for _, list := range [][]hpc.DatasetCopy{s.in.Dataset.Status.Copies, s.out.Status.Copies} {
		for _, c := range list {
			names[c.Cluster] = true
		}
	}
	return !names[s.cluster] && len(names) >= maxCopies
}

func (s *state) started(c *hpc.DatasetCopy) {
	s.out.Notices = append(s.out.Notices, started(c))
}

func started(c *hpc.DatasetCopy) report.Notice {
	return report.Notice{Reason: "CopyStarted", Message: bounded(fmt.Sprintf("Job %s copies to cluster %s (attempt %d), path %s", c.Job, c.Cluster, c.Attempts, c.Path), maxNote)}
}

func (s *state) note(warning bool, reason, format string, args ...any) {
	s.out.Notices = append(s.out.Notices, report.Notice{Warning: warning, Reason: reason, Message: bounded(fmt.Sprintf(format, args...), maxNote)})
}

// follow is what has become of a copy by what its Job says.
func (s *state) follow(c *hpc.DatasetCopy) *hpc.DatasetCopy {
	var job *batch.Job
	for _, j := range s.jobs {
		if j.Name == c.Job {
			job = j
		} else {
			s.drop(j) // of an attempt before
		}
	}
	switch {
	case job == nil:
		s.fail(c, s.in.Now, "its Job was deleted")
	case job.Status.State.Phase == batch.Completed:
		c.Phase, c.Message, c.CompletionTime = hpc.CopyReady, "", s.ended(job)
		s.note(false, "CopyCompleted", "the data is on cluster %s, path %s", c.Cluster, c.Path)
		s.tidy(keptReady)
	case finished(job):
		s.fail(c, s.ended(job).Time, "its Job is "+said(job))
		s.tidy(keptFailed)
	case job.DeletionTimestamp != nil:
		c.Message = "its Job is being deleted"
	default:
		c.Message = "its Job is " + said(job)
	}
	return c
}

// said is a Job's phase, and why it is in it.
func said(job *batch.Job) string {
	st := job.Status.State
	text := cmp.Or(string(st.Phase), "new")
	if why := cmp.Or(st.Message, st.Reason); why != "" {
		text += ": " + why
	}
	return bounded(text, maxMessage)
}

// bounded cuts a text that has more bytes than that, without breaking a character.
func bounded(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-3], "") + "..."
}

func (s *state) ended(job *batch.Job) *metav1.Time {
	if at := job.Status.State.LastTransitionTime; !at.IsZero() {
		return &at
	}
	return ptr.To(metav1.NewTime(s.in.Now).Rfc3339Copy())
}

// fail notes the end of an attempt that did not copy.
func (s *state) fail(c *hpc.DatasetCopy, at time.Time, why string) {
	c.Phase, c.Message, c.CompletionTime = hpc.CopyFailed, why, ptr.To(metav1.NewTime(at).Rfc3339Copy())
	s.plan(c)
	next := "it is not tried again before spec.staging changes"
	if c.RetryTime != nil {
		next = "it is tried again at " + c.RetryTime.UTC().Format(time.RFC3339) + " if it is still asked for"
	}
	s.note(true, "CopyFailed", "attempt %d to copy to cluster %s failed, %s; %s", c.Attempts, c.Cluster, why, next)
}

// plan says when a copy that failed is tried again.
func (s *state) plan(c *hpc.DatasetCopy) {
	c.RetryTime = nil
	if c.Attempts > ptr.Deref(s.in.Dataset.Spec.Staging.Retries, defaultRetries) || c.CompletionTime == nil {
		return
	}
	at := metav1.NewTime(c.CompletionTime.Add(pause(c.Attempts)))
	c.RetryTime = &at
	s.wake(at.Sub(s.in.Now))
}

// pause is how long after so many attempts the next one is made.
func pause(attempts int32) time.Duration {
	out := firstPause
	for n := int32(1); n < attempts && out < longestWait; n++ {
		out *= 2
	}
	return min(out, longestWait)
}

// retry is what has become of a copy that failed.
func (s *state) retry() *hpc.DatasetCopy {
	s.plan(s.was) // the number of retries may have changed
	next := newJob(s.in.Dataset, *s.target, s.was.Attempts+1).Name
	made := slices.ContainsFunc(s.jobs, func(j *batch.Job) bool { return j.Name == next })
	if made || s.was.RetryTime != nil && !s.in.Now.Before(s.was.RetryTime.Time) {
		return s.begin(s.was.Attempts)
	}
	s.tidy(keptFailed)
	s.was.Message = s.said
	return s.was
}

// tidy deletes Jobs that ended long enough ago.
func (s *state) tidy(kept time.Duration) {
	for _, j := range s.jobs {
		if left := s.ended(j).Add(kept).Sub(s.in.Now); !finished(j) || left <= 0 {
			s.drop(j)
		} else {
			s.wake(left)
		}
	}
}

// wake has the Dataset looked at again in time.
func (s *state) wake(after time.Duration) {
	if after <= 0 {
		return // it is due, and something else holds it up
	}
	if s.out.RequeueAfter == 0 || after < s.out.RequeueAfter {
		s.out.RequeueAfter = after
	}
}

// finished says that a Job has ended for good. One that its user suspended has not.
func finished(j *batch.Job) bool {
	switch j.Status.State.Phase {
	case batch.Completed, batch.Failed, batch.Terminated:
		return true
	}
	return false
}

// refuse makes of a copy whose Job the API server will not have one that failed. It
// counts as no attempt, so that it is tried for as long as it is asked for.
func refuse(in Input, c, was *hpc.DatasetCopy, why error) {
	*c = *unmade(in, c, was, "its Job cannot be made: "+bounded(why.Error(), maxMessage))
}

// unmade is a copy whose Job is not made now. Before the first attempt its StartTime is
// since when that is so without a longer break.
func unmade(in Input, c, was *hpc.DatasetCopy, why string) *hpc.DatasetCopy {
	now := metav1.NewTime(in.Now).Rfc3339Copy()
	out := &hpc.DatasetCopy{Cluster: c.Cluster, Path: c.Path, Phase: hpc.CopyFailed, Recipe: c.Recipe, Message: why,
		StartTime: &now, CompletionTime: &now}
	if was != nil {
		out.Attempts, out.Job = was.Attempts, was.Job
		if was.Attempts > 0 || was.CompletionTime != nil && now.Sub(was.CompletionTime.Time) < longestWait && was.StartTime != nil {
			out.StartTime = was.StartTime
		}
	}
	out.RetryTime = ptr.To(metav1.NewTime(now.Add(pause(out.Attempts))))
	return out
}
