package podstatus

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Reasons of a pod that a batch system ended.
const (
	ReasonDeadline  = "DeadlineExceeded"
	ReasonOOM       = "OOMKilled"
	ReasonNodeLost  = "NodeLost"
	ReasonPreempted = "Preempted"
	ReasonCancelled = "BatchJobCancelled"
	ReasonFailed    = "BatchJobFailed"
	ReasonLost      = "BatchJobLost"
)

// nearEnd is how close to the end of the job a killed member must have ended
// for the job's cause to be its cause as well.
const nearEnd = 2 * time.Minute

// outcome is what the batch system's end of a job means for a pod that did not
// report its own.
type outcome struct {
	ok         bool
	reason     string // of the pod
	container  string // reason of its containers
	message    string
	exitCode   int32
	at         time.Time
	disruption string // reason of DisruptionTarget; "" for none
	jobReason  string // of PodBatchJob
}

// outcomeOf is the table of terminal job states.
func outcomeOf(job *backends.Job, tail string) outcome {
	o := outcome{at: job.Ended, container: "Error", jobReason: string(job.State)}
	code := job.ExitCode
	if job.Signal > 0 {
		code = 128 + job.Signal
	}
	words := fmt.Sprintf("batch job %s ended: %s", job.ID, job.State)
	if job.Reason != "" && job.Reason != "None" {
		words += ", reason " + job.Reason
	}
	fallback := 1
	switch job.State {
	case backends.StateCompleted:
		o.ok, o.container, fallback, code = true, "Completed", 0, 0
		words = fmt.Sprintf("batch job %s completed", job.ID)
		tail = ""
	case backends.StateCancelled:
		o.reason, fallback = ReasonCancelled, 143
		if job.Started.IsZero() {
			words += " before it started"
			tail = ""
		}
	case backends.StateTimeout:
		o.reason, fallback = ReasonDeadline, 137
		words = fmt.Sprintf("batch job %s reached its run-time limit", job.ID)
		code = 0
	case backends.StateOutOfMemory:
		o.reason, o.container, fallback, code = ReasonOOM, ReasonOOM, 137, 0
		words = fmt.Sprintf("batch job %s ran out of memory", job.ID)
	case backends.StateNodeFail:
		o.reason, fallback, code = ReasonNodeLost, 137, 0
		o.disruption = "BatchNodeFailure"
		words = fmt.Sprintf("a compute host of batch job %s failed (%s)", job.ID, strings.Join(firstHosts(job.Hosts), ","))
	case backends.StatePreempted:
		o.reason, fallback, code = ReasonPreempted, 143, 0
		o.disruption = "PreemptionByBatchSystem"
		words = fmt.Sprintf("the batch system preempted job %s", job.ID)
	default:
		o.reason = ReasonFailed
		if code != 0 {
			words += fmt.Sprintf(", exit code %d", code)
		}
	}
	if code <= 0 || code > 255 {
		code = fallback
	}
	o.exitCode = int32(code)
	o.message = withTail(words, tail)
	return o
}

// outcomeOfEnd is for a job that the batch system no longer knows.
func outcomeOfEnd(end *manifest.End, tail string) outcome {
	o := outcome{ok: end.ExitCode == 0, at: end.FinishedAt.Time, container: "Completed", jobReason: "Completed",
		message: "the launcher of the batch job ended"}
	if !o.ok {
		code := end.ExitCode
		if code < 0 || code > 255 {
			code = 1
		}
		o.exitCode, o.reason, o.container, o.jobReason = int32(code), ReasonFailed, "Error", "Failed"
		if end.OutOfMemory {
			o.exitCode, o.reason, o.container, o.jobReason = 137, ReasonOOM, ReasonOOM, string(backends.StateOutOfMemory)
		}
		words := fmt.Sprintf("the launcher of the batch job ended with code %d", end.ExitCode)
		if end.Message != "" {
			words += ": " + end.Message
		}
		o.message = withTail(words, tail)
	}
	return o
}

func outcomeLost() outcome {
	return outcome{
		reason: ReasonLost, container: "ContainerStatusUnknown", exitCode: 137, jobReason: "Lost",
		message: "the batch system no longer knows the job, and there is no trace of how it ended",
	}
}

// withTail adds the end of the batch script's output, which explains a launcher
// that failed before any member could report.
func withTail(words, tail string) string {
	tail = strings.TrimSpace(strings.ToValidUTF8(tail, "?"))
	if tail == "" {
		return clip(words)
	}
	const most = 512
	if len(tail) > most {
		tail = strings.ToValidUTF8(tail[len(tail)-most:], "")
	}
	return clip(words + "; its output ends: " + tail)
}

// finishFromFile ends the pod as its own file says.
func (w *writer) finishFromFile() {
	f := w.file
	w.undisturbed() // a run that short is never seen to go on
	w.addresses()
	w.copyContainers()
	w.s.Phase = corev1.PodSucceeded
	w.s.Reason, w.s.Message = clipTo(f.Reason, maxReason), clip(f.Message)
	if f.Phase == manifest.PhaseFailed {
		w.s.Phase = corev1.PodFailed
	}
	for _, list := range [][]corev1.ContainerStatus{w.s.InitContainerStatuses, w.s.ContainerStatuses} {
		for i := range list {
			if list[i].State.Running != nil {
				end(&list[i], outcome{container: "ContainerStatusUnknown", exitCode: 137, at: f.FinishedAt.Time,
					message: "the pod ended while this container was still reported as running"}, w.now)
			}
		}
	}
	deleted := w.pod.DeletionTimestamp != nil && (f.Reason == "Terminated" || f.Reason == manifest.ReasonDeleted)
	if deleted {
		w.deleted()
	}
	job := w.ev.Job
	jobReason, jobMessage := "Ended", "the pod's part of the batch job ended"
	if job != nil && job.State.Terminal() {
		o := outcomeOf(job, "")
		jobReason, jobMessage = o.jobReason, o.message
		if !deleted && f.Phase == manifest.PhaseFailed && (killed(f) || f.Reason == "Terminated") && endedTogether(f, job) {
			w.cause(o)
		}
	}
	w.batchJob(corev1.ConditionFalse, jobReason, jobMessage)
	w.conditions(false)
}

// deleted words the end of a pod that was deleted as a kubelet does: without a
// reason, also where the runner only knows that its batch job was ended.
func (w *writer) deleted() {
	w.s.Phase, w.s.Reason, w.s.Message = corev1.PodSucceeded, "", ""
	for _, c := range w.s.ContainerStatuses {
		if t := c.State.Terminated; t == nil || t.ExitCode != 0 {
			w.s.Phase = corev1.PodFailed
		}
	}
}

// cause writes why the batch system killed a member that reported only that it
// was killed.
func (w *writer) cause(o outcome) {
	if o.ok || o.reason == ReasonFailed {
		return
	}
	if o.reason == ReasonOOM {
		for _, list := range [][]corev1.ContainerStatus{w.s.InitContainerStatuses, w.s.ContainerStatuses} {
			for i := range list {
				if t := list[i].State.Terminated; t != nil && t.ExitCode == 137 && t.Reason == "Error" {
					t.Reason = ReasonOOM
				}
			}
		}
	}
	if w.s.Reason == "" || w.s.Reason == "Error" || w.s.Reason == "Terminated" {
		w.s.Reason = o.reason
		if w.s.Message == "" || w.file.Reason == "Terminated" {
			w.s.Message = o.message
		}
	}
	w.disrupted(o)
}

// endedTogether reports whether a member ended when its job did, rather than
// before. The two times are of two clocks, the host's and the controller's, which
// need not agree; how long each says that it ran does not depend on that. A job
// begins before its members do, so a late start only makes the difference larger.
func endedTogether(f *manifest.Status, job *backends.Job) bool {
	if f.FinishedAt.IsZero() || job.Ended.IsZero() || job.Ended.Sub(f.FinishedAt.Time).Abs() <= nearEnd {
		return true
	}
	if f.StartedAt.IsZero() || job.Started.IsZero() {
		return false
	}
	return (job.Ended.Sub(job.Started) - f.FinishedAt.Sub(f.StartedAt.Time)).Abs() <= nearEnd
}

// finishFromJob ends the pod on the batch system's word alone; what its file
// told of single containers is kept.
func (w *writer) finishFromJob(o outcome) {
	w.undisturbed() // what ended the job now is another thing
	if w.file != nil {
		w.addresses()
		w.copyContainers()
	} else {
		w.ensureStatuses()
	}
	if o.at.IsZero() {
		o.at = w.now
	}
	w.s.Phase, w.s.Reason, w.s.Message = corev1.PodFailed, o.reason, o.message
	if o.ok {
		w.s.Phase, w.s.Message = corev1.PodSucceeded, ""
	}
	for i := range w.s.InitContainerStatuses {
		c := &w.s.InitContainerStatuses[i]
		if c.State.Running != nil {
			end(c, o, w.now)
		}
		c.Ready = c.State.Terminated != nil && c.State.Terminated.ExitCode == 0
	}
	for i := range w.s.ContainerStatuses {
		c := &w.s.ContainerStatuses[i]
		if c.State.Terminated == nil {
			end(c, o, w.now)
		} else if o.ok && c.State.Terminated.ExitCode != 0 {
			w.s.Phase, w.s.Reason = corev1.PodFailed, ""
		}
		c.Ready = false
	}
	w.batchJob(corev1.ConditionFalse, o.jobReason, o.message)
	w.disrupted(o)
	w.conditions(false)
}

// disrupted tells controllers that the pod itself is not to blame.
func (w *writer) disrupted(o outcome) {
	if o.disruption != "" {
		w.set(corev1.DisruptionTarget, corev1.ConditionTrue, o.disruption, o.message)
	}
}

// end turns a container that has not ended into a terminated one.
func end(c *corev1.ContainerStatus, o outcome, now time.Time) {
	t := &corev1.ContainerStateTerminated{
		ExitCode: o.exitCode, Reason: o.container, Message: clipTo(o.message, maxMessage), ContainerID: c.ContainerID,
	}
	at := o.at
	if at.IsZero() {
		at = now
	}
	t.FinishedAt = *stamp(at)
	if r := c.State.Running; r != nil {
		t.StartedAt = r.StartedAt
	}
	c.State = corev1.ContainerState{Terminated: t}
	c.Ready = false
	c.Started = ptr(false)
}
