package machine

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// Input is everything that a decision rests on.
type Input struct {
	// Job as it is stored; Next completes it with Default.
	Job *batch.Job
	// Problems are what Validate found in the completed job.
	Problems field.ErrorList
	// Pods are all pods that the job controls by UID.
	Pods []*corev1.Pod
	// PodGroup of the job, nil if there is none.
	PodGroup *scheduling.PodGroup
	// Taken maps names of pods that the job needs to a description of the object
	// that holds the name and is not the job's.
	Taken map[string]string
	// Trouble is why the last attempt to create an object failed, if it did.
	Trouble *Reason
	// QueueTrouble is why the job's queue takes no new job, nil when it does.
	QueueTrouble *Reason
	// Commands are the Command objects that name this job by UID, oldest first.
	Commands []*bus.Command
	// Resources are the objects made for the job beyond pods and PodGroup, as
	// status.controlledResources shows them.
	Resources map[string]string
	// Now is the time of the decision.
	Now time.Time
}

// Reason explains a phase to a user: a CamelCase word and a sentence.
type Reason struct {
	Reason  string
	Message string
}

// Output is what is to be done. The caller first creates, then writes the
// status, then deletes: a deletion whose cause is not on record yet would be
// forgotten by a crash.
type Output struct {
	// Status is the whole new status, equal to the old one when nothing changed.
	Status batch.JobStatus
	// CreatePodGroup is the PodGroup to create, nil if none.
	CreatePodGroup *scheduling.PodGroup
	// UpdatePodGroup is the new spec of the existing PodGroup, nil if it is right.
	UpdatePodGroup *scheduling.PodGroupSpec
	// StampPodGroup is the version to write on the existing PodGroup, which carries
	// none; nil if it does.
	StampPodGroup *int32
	// DeletePodGroup says that the existing PodGroup has to go.
	DeletePodGroup bool
	// CreatePods are to be created, after the job's plugins have seen them.
	CreatePods []NewPod
	// DeletePods are to be deleted, each by its UID.
	DeletePods []*corev1.Pod
	// EnsureObjects says that the objects of the plugins and of spec.volumes must
	// exist and be up to date before anything is created.
	EnsureObjects bool
	// DeleteCommand is the Command that the new status has on record.
	DeleteCommand *bus.Command
	// DeleteJob says that the job's time to live is over.
	DeleteJob bool
	// RequeueAfter is how long until time alone changes the answer; 0 means never.
	RequeueAfter time.Duration
	// Notices are what users should hear about, in order.
	Notices []Notice
}

// NewPod is a pod to be created.
type NewPod struct {
	Pod   *corev1.Pod
	Task  *batch.TaskSpec
	Index int32
}

// Notice is an event for users.
type Notice struct {
	Warning bool
	Reason
}

// takenRetry is how soon a name that another object holds is looked at again,
// in case nothing else wakes the job when it becomes free.
const takenRetry = 15 * time.Second

// Next decides about one job. It makes at most one phase transition; the status
// write that follows from it brings the job back for the next one.
func Next(in Input) Output {
	job := Default(in.Job)
	old := in.Job.Status
	if job.DeletionTimestamp != nil {
		// The garbage collector deletes what the job owns; a status is read by
		// nobody any more.
		return Output{Status: *old.DeepCopy()}
	}
	p := &pass{in: in, job: job, members: census(job, in.Pods), memory: recall(&old)}
	p.takeOver()
	p.release = released(job, p.members)
	p.out.Status = *old.DeepCopy()
	st := &p.out.Status
	if st.State.Phase == "" {
		st.State.Phase = batch.Pending
	}
	st.MinAvailable = job.Spec.MinAvailable
	valid := len(in.Problems) == 0
	why := Reason{}
	moved := old.State.Phase == ""
	if reason, did := p.command(); did {
		why, moved = reason, true
	}
	if !moved && valid && active(st.State.Phase) && !p.enough() {
		if v := p.judge(); v != nil {
			p.act(v)
			why, moved = Reason{string(v.event), v.text}, true
		}
	}
	p.doom()
	c := count(p.members, p.doomed)
	c.writeTo(st)
	// A spec that was edited to be invalid holds a running job as it is, but never
	// one that is on its way out.
	if !moved && (valid || !active(st.State.Phase)) {
		if phase, reason := p.transit(c); phase != st.State.Phase {
			st.State.Phase, why, moved = phase, reason, true
			p.doom() // a job that is done keeps none of its unfinished pods
			c = count(p.members, p.doomed)
			c.writeTo(st)
		}
	}
	if valid {
		p.grow()
	}
	p.explain(why, moved)
	p.memory.forget(p.members)
	p.memory.writeTo(st, in.Resources)
	p.record()
	p.expire()
	return p.out
}

// pass is one run of Next.
type pass struct {
	in      Input
	job     *batch.Job // completed by Default, with the stored status
	members []member
	memory  memory
	release release
	doomed  map[*corev1.Pod]bool
	out     Output
}

// enough says that minSuccess is reached: then what still fails does not matter.
func (p *pass) enough() bool {
	least := p.job.Spec.MinSuccess
	if least == nil || p.job.Status.State.Phase != batch.Running {
		return false
	}
	return count(p.members, nil).succeeded >= *least
}

func (p *pass) judge() *verdict {
	hs := happenings(p.job, p.members, p.memory, p.in.PodGroup, p.in.Now)
	v, since, wait := judge(p.job, hs, p.in.Now)
	p.memory.since = since
	p.memory.generation = 0
	if namesEvent(p.job, bus.JobUpdatedEvent) {
		p.memory.generation = p.job.Generation
	}
	p.wake(wait)
	return v
}

// act starts what an action asks for. Raising the version is what makes all pods
// and the PodGroup go, a scope in the memory makes a part of the pods go: see
// doom and grow.
func (p *pass) act(v *verdict) {
	st := &p.out.Status
	p.memory.since = nil
	switch v.action {
	case bus.AbortJobAction:
		st.State.Phase = batch.Aborting
	case bus.TerminateJobAction:
		st.State.Phase = batch.Terminating
	case bus.CompleteJobAction:
		st.State.Phase = batch.Completing
	case bus.RestartJobAction, bus.ResumeJobAction:
		st.State.Phase = batch.Restarting
		st.RetryCount++
	case bus.RestartTaskAction, bus.RestartPartitionAction, bus.RestartPodAction:
		st.State.Phase = batch.Restarting
		st.RetryCount++
		p.memory.restarts = append(p.memory.restarts, scope{action: v.action, task: v.task, number: v.number, retry: st.RetryCount})
		return
	default:
		panic("machine: action " + string(v.action) + " passed validation but is not handled")
	}
	st.Version++
	p.memory.restarts = nil // all pods are of an older version
}

// doom chooses the pods to delete in the phase that was decided on.
func (p *pass) doom() {
	st := &p.out.Status
	p.doomed = map[*corev1.Pod]bool{}
	p.out.DeletePods = nil
	goesOn := active(st.State.Phase) || st.State.Phase == batch.Restarting && st.RetryCount < p.job.Spec.MaxRetry
	for i := range p.members {
		m := &p.members[i]
		if m.terminating() {
			continue
		}
		var dies bool
		switch {
		case goesOn:
			// A pod of an older version or of an earlier retry makes room for its
			// successor, and a pod that is not wanted any more was scaled away.
			dies = m.version < st.Version || p.memory.restarted(m) || !m.wanted && len(p.in.Problems) == 0
		default:
			// Pods that ended by themselves stay for their logs and exit codes.
			dies = !m.finished()
		}
		if dies {
			p.doomed[m.pod] = true
			p.out.DeletePods = append(p.out.DeletePods, m.pod)
		}
	}
	if pg := p.in.PodGroup; pg != nil && pg.DeletionTimestamp == nil {
		p.out.DeletePodGroup = versionOf(pg.Annotations) < st.Version
	}
}

// keptOut says that the queue does not take the job. One that has begun goes on,
// whatever becomes of its queue.
func (p *pass) keptOut() bool {
	return p.in.PodGroup == nil && p.in.QueueTrouble != nil && p.out.Status.Version == 0 && len(p.in.Pods) == 0
}

// grow creates what a job that is to run lacks.
func (p *pass) grow() {
	st := &p.out.Status
	if !active(st.State.Phase) {
		return
	}
	pg := p.in.PodGroup
	switch {
	case p.keptOut():
		return
	case pg == nil:
		p.out.CreatePodGroup = newPodGroup(p.job, st.Version, p.release)
		p.out.EnsureObjects = true
		return
	case pg.DeletionTimestamp != nil || versionOf(pg.Annotations) != st.Version:
		return // the old one has to be gone first
	}
	if want := podGroupSpec(p.job, p.release); !samePodGroup(&pg.Spec, &want) {
		p.out.UpdatePodGroup = &want
		p.out.EnsureObjects = true
	}
	if !admitted(pg) {
		return
	}
	held := map[string]bool{}
	for i := range p.members {
		held[p.members[i].pod.Name] = true
	}
	for i := range p.job.Spec.Tasks {
		task := &p.job.Spec.Tasks[i]
		if !p.release.tasks[task.Name] {
			continue
		}
		for index := range task.Replicas {
			name := PodName(p.job.Name, task.Name, index)
			if held[name] {
				continue
			}
			if _, taken := p.in.Taken[name]; taken {
				continue
			}
			p.out.CreatePods = append(p.out.CreatePods, NewPod{Pod: newPod(p.job, task, index), Task: task, Index: index})
		}
	}
	if len(p.out.CreatePods) > 0 {
		p.out.EnsureObjects = true
	}
	if len(p.in.Taken) > 0 {
		p.wake(takenRetry)
	}
}

// admitted says that the scheduler let the PodGroup into its queue.
func admitted(pg *scheduling.PodGroup) bool {
	switch pg.Status.Phase {
	case scheduling.PodGroupInqueue, scheduling.PodGroupRunning, scheduling.PodGroupUnknown:
		return true
	}
	return false
}

// record stamps a phase transition.
func (p *pass) record() {
	st, old := &p.out.Status, &p.in.Job.Status
	if st.State.Phase == old.State.Phase {
		return
	}
	now := metav1.NewTime(p.in.Now.Truncate(time.Second))
	st.State.LastTransitionTime = now
	st.Conditions = append(st.Conditions, batch.JobCondition{Status: st.State.Phase, LastTransitionTime: &now})
	if n := len(st.Conditions) - maxConditions; n > 0 {
		st.Conditions = st.Conditions[n:]
	}
	if Finished(st.State.Phase) || st.State.Phase == batch.Aborted {
		for i := range st.Conditions {
			if c := &st.Conditions[i]; c.Status == batch.Running && c.LastTransitionTime != nil {
				st.RunningDuration = &metav1.Duration{Duration: now.Sub(c.LastTransitionTime.Time)}
				break
			}
		}
	}
}

// maxConditions bounds the history of phases in the status.
const maxConditions = 64

// expire ends a finished job's life when its time is over.
func (p *pass) expire() {
	ttl := p.job.Spec.TTLSecondsAfterFinished
	// Only a finish that is on record counts: its time is in the stored status.
	stored := &p.in.Job.Status.State
	if ttl == nil || !Finished(stored.Phase) || stored.LastTransitionTime.IsZero() {
		return
	}
	rest := stored.LastTransitionTime.Add(time.Duration(*ttl) * time.Second).Sub(p.in.Now)
	if rest <= 0 {
		p.out.DeleteJob = true
		return
	}
	p.wake(rest)
}

func (p *pass) wake(after time.Duration) {
	if after > 0 && (p.out.RequeueAfter == 0 || after < p.out.RequeueAfter) {
		p.out.RequeueAfter = after
	}
}
