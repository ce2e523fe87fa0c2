package podstatus

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

const (
	// fileGrace is how long after the end of a job its status file may still
	// come: a network filesystem shows a rename some seconds later, and the file
	// alone knows the exit codes of the containers.
	fileGrace = 15 * time.Second
	// killGrace is how long a member that was killed is not reported as failed
	// while its job still seems to run. A batch system that requeues a job kills
	// the members first; that is not the end of the pod.
	killGrace = 15 * time.Second
)

// Status gives the pod's new status. It starts from what the API has, so fields
// and conditions of others stay as they are. With the same evidence it gives
// the same status again.
func Status(pod *corev1.Pod, ev Evidence, now time.Time) corev1.PodStatus {
	s := pod.Status.DeepCopy()
	if terminal(s.Phase) {
		return *s
	}
	w := &writer{pod: pod, s: s, ev: ev, now: now.Truncate(time.Second)}
	if f := ev.File; f != nil && f.UID == string(pod.UID) && !olderThanJob(f.Restart, ev.Job) {
		w.file = f
	}
	if e := ev.End; e != nil && !olderThanJob(e.Restart, ev.Job) && (w.file == nil || e.Restart >= w.file.Restart) {
		w.end = e
	}
	w.ev.Job = w.ranOut()
	w.decide()
	w.resize()
	return *s
}

// ranOut is the job, as one that ran out of memory if its launcher says that the batch
// system killed the members for that: Slurm with OverMemoryKill kills the step, and the
// job then has failed for no other reason than its batch script's exit code (measured on
// 22.05).
func (w *writer) ranOut() *backends.Job {
	job := w.ev.Job
	if job == nil || job.State != backends.StateFailed || w.end == nil || !w.end.OutOfMemory {
		return job
	}
	out := *job
	out.State, out.Reason = backends.StateOutOfMemory, ""
	return &out
}

// olderThanJob reports whether a file is of a run before the last requeue.
func olderThanJob(restart int, job *backends.Job) bool {
	return job != nil && job.State != backends.StateUnknown && restart < job.Restarts
}

func terminal(p corev1.PodPhase) bool {
	return p == corev1.PodSucceeded || p == corev1.PodFailed
}

// writer changes one status.
type writer struct {
	pod  *corev1.Pod
	s    *corev1.PodStatus
	ev   Evidence
	now  time.Time
	file *manifest.Status // current run's, or nil
	end  *manifest.End    // current run's, or nil
}

// decide picks the strongest evidence and writes what it says.
func (w *writer) decide() {
	job := w.ev.Job
	switch {
	case w.file != nil && w.file.Phase.Terminal():
		if w.mayBeRequeued() || w.whyMayCome() {
			return
		}
		w.finishFromFile()
	case job != nil && job.State.Terminal():
		if w.fileMayCome() {
			return
		}
		w.finishFromJob(w.unstarted(outcomeOf(job, w.ev.BatchLogTail)))
	case job == nil && w.end != nil:
		w.finishFromJob(outcomeOfEnd(w.end, w.ev.BatchLogTail))
	case w.ev.Lost:
		w.finishFromJob(outcomeLost())
	case w.file != nil:
		w.live()
	case job == nil || job.State == backends.StateUnknown:
		w.silent()
	case job.State == backends.StatePending:
		w.queued()
	case w.ran() && job.Restarts == 0:
		// Running by the batch system's word, but this run's file is gone from
		// sight: keep what is known.
		return
	default:
		w.allocated()
	}
}

// neverSatisfied is why Slurm cancels a job that comes after one that did not succeed.
const neverSatisfied = "DependencyNeverSatisfied"

// unstarted adds to the end of a job that never started what it waited for in vain.
func (w *writer) unstarted(o outcome) outcome {
	why := w.ev.Unmet
	if why == "" && w.ev.Job.Reason == neverSatisfied {
		why = "the batch system took what it comes after for failed, as Slurm does at times with a job that is requeued"
	}
	if why != "" && w.ev.Job.State == backends.StateCancelled && w.ev.Job.Started.IsZero() && w.file == nil && w.end == nil {
		o.reason, o.message = wellknown.ReasonPredecessor, clip(o.message+"; "+why)
	}
	return o
}

// mayBeRequeued: see killGrace.
func (w *writer) mayBeRequeued() bool {
	job := w.ev.Job
	if job == nil || job.State.Terminal() || w.end != nil || w.pod.DeletionTimestamp != nil {
		return false
	}
	if w.file.Phase != manifest.PhaseFailed || !killed(w.file) {
		return false
	}
	if job.State == backends.StateCompleting || job.State == backends.StatePending {
		return true
	}
	// The host's clock may be another than ours: what we saw ourselves counts too.
	return w.within(w.file.FinishedAt.Time, killGrace) || w.within(w.ev.FileEndSeen, killGrace)
}

// whyMayCome reports whether the batch system ended the member, as its runner knows, and
// may not have said why yet: jobs are listed before files are read, so the end of a job that
// was cancelled or preempted is often read first. It is waited for as long as killGrace.
func (w *writer) whyMayCome() bool {
	job := w.ev.Job
	if job == nil || job.State.Terminal() || w.pod.DeletionTimestamp != nil {
		return false
	}
	if w.file.Phase != manifest.PhaseFailed || w.file.Reason != "Terminated" {
		return false
	}
	return w.within(w.file.FinishedAt.Time, killGrace) || w.within(w.ev.FileEndSeen, killGrace)
}

// fileMayCome: see fileGrace.
func (w *writer) fileMayCome() bool {
	job := w.ev.Job
	if w.end != nil && w.file == nil {
		return false // the launcher is through and wrote nothing of this member
	}
	if job.Started.IsZero() || job.State == backends.StateNodeFail || job.Ended.IsZero() {
		return false
	}
	return w.within(job.Ended, fileGrace) || w.within(w.ev.JobEndSeen, fileGrace)
}

// within reports whether now is less than grace away from a time that is known.
func (w *writer) within(at time.Time, grace time.Duration) bool {
	return !at.IsZero() && w.now.Sub(at).Abs() < grace
}

// killed reports whether a container of the pod was ended by a signal.
func killed(f *manifest.Status) bool {
	for _, c := range f.Containers {
		if t := c.State.Terminated; t != nil && (t.Signal != 0 || t.ExitCode == 143 || t.ExitCode == 137) {
			return true
		}
	}
	return false
}

// ran reports whether the API has seen a container of the pod run.
func (w *writer) ran() bool {
	if w.s.Phase == corev1.PodRunning {
		return true
	}
	for _, list := range [][]corev1.ContainerStatus{w.s.ContainerStatuses, w.s.InitContainerStatuses} {
		for _, c := range list {
			if c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil {
				return true
			}
		}
	}
	return false
}

// reasonMount is why a pod waits for the objects of its volumes: a reason of
// events and conditions, with a kubelet never of containers.
const reasonMount = "FailedMount"

// silent is for pods of which neither batch system nor runner says anything.
func (w *writer) silent() {
	switch {
	case w.ran() || (w.ev.Job != nil && w.ev.Job.State == backends.StateUnknown):
		return
	case w.ev.RefusedReason != "" || w.ev.RefusedMessage != "":
		w.s.Phase = corev1.PodFailed
		w.s.Reason = orElse(w.ev.RefusedReason, "Refused")
		w.s.Message = clip(w.ev.RefusedMessage)
		w.batchJob(corev1.ConditionFalse, w.s.Reason, w.s.Message)
	default:
		reason := orElse(w.ev.WaitingReason, "ContainerCreating")
		if reason == reasonMount || len(w.ev.Images) > 0 {
			reason = "ContainerCreating"
		}
		w.s.Phase = corev1.PodPending
		w.waiting(reason, clip(w.ev.WaitingMessage), false)
		w.images()
		w.batchJob(corev1.ConditionFalse, orElse(w.ev.WaitingReason, "Accepted"), clip(w.ev.WaitingMessage))
	}
	w.conditions(false)
}

// queued is for a job that waits in the batch system, for the first time or
// again after a requeue.
func (w *writer) queued() {
	reason, message := queueWords(w.ev.Job, w.ev.Behind, w.now)
	again := w.ran() || w.ev.Job.Restarts > 0
	if again {
		if reason != "Held" { // that it was held says more
			reason = "Requeued"
		}
		w.set(corev1.DisruptionTarget, corev1.ConditionTrue, reasonRequeued, "the batch system took the job off its hosts and queued it again")
	}
	w.phaseAtLeast(corev1.PodPending)
	w.waiting(reason, message, again)
	w.batchJob(corev1.ConditionFalse, reason, message)
	w.conditions(false)
}

// allocated is for a job that has hosts while the member has not reported yet.
func (w *writer) allocated() {
	job := w.ev.Job
	message := runsWords(job)
	again := job.Restarts > 0
	w.phaseAtLeast(corev1.PodPending)
	w.waiting("ContainerCreating", message, again)
	w.jobRuns(message)
	w.conditions(false)
}

// live copies a file that is not terminal.
func (w *writer) live() {
	w.addresses()
	w.copyContainers()
	w.phaseAtLeast(w.livePhase())
	w.undisturbed()
	w.s.Reason, w.s.Message = clipTo(w.file.Reason, maxReason), clip(w.file.Message)
	job := w.ev.Job
	if job != nil && job.State == backends.StateSuspended {
		for i := range w.s.ContainerStatuses {
			w.s.ContainerStatuses[i].Ready = false
		}
		for i := range w.s.InitContainerStatuses {
			w.s.InitContainerStatuses[i].Ready = false
		}
		w.batchJob(corev1.ConditionFalse, "Suspended", "batch job "+string(job.ID)+" is suspended")
	} else if job != nil && job.State != backends.StateUnknown {
		w.jobRuns(runsWords(job))
	}
	w.conditions(true)
}

// livePhase is a kubelet's: a pod runs once each of its containers has been
// started, so one that waits for its image is pending, whatever others do.
func (w *writer) livePhase() corev1.PodPhase {
	if w.file.Phase != manifest.PhaseRunning {
		return corev1.PodPending
	}
	for i := range w.s.ContainerStatuses {
		c := &w.s.ContainerStatuses[i]
		if c.State.Running == nil && c.State.Terminated == nil && c.LastTerminationState.Terminated == nil {
			return corev1.PodPending
		}
	}
	return corev1.PodRunning
}

// jobRuns writes PodBatchJob for a job that has hosts.
func (w *writer) jobRuns(message string) {
	w.batchJob(corev1.ConditionTrue, "Running", message)
	if w.s.StartTime == nil && w.ev.Job != nil && !w.ev.Job.Started.IsZero() {
		w.s.StartTime = stamp(w.ev.Job.Started)
	}
}

// phaseAtLeast never takes a pod from Running back to Pending: like a container
// in back-off, a requeued pod is Running with containers that wait.
func (w *writer) phaseAtLeast(p corev1.PodPhase) {
	if w.s.Phase == corev1.PodRunning && p == corev1.PodPending {
		return
	}
	w.s.Phase = p
}
