package jobflow

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// A step of a flow that asks for it is made early: while what it depends on still
// runs, so that its batch job waits in the queue of the batch system behind theirs.
// See provider/decisions/0004-dependencies-stay-above.md. All that is decided here is
// when to make such a Job and when to take it back: that it does not start too early is
// held by the batch system and the provider, by the exit codes.

// queuesEarly says that the flow asks for it.
func queuesEarly(f *flow.JobFlow) bool { return f.Annotations[wellknown.QueueEarly] == "true" }

// concerned says that there may be Jobs to take back or to settle, also when the flow
// does not ask for it any more.
func concerned(f *flow.JobFlow, jobs map[string]*batch.Job) bool {
	for _, job := range jobs {
		if job.Annotations[wellknown.AfterJobs] != "" {
			return true
		}
	}
	return queuesEarly(f)
}

// behind is what a step that is made early waits for.
type behind struct {
	attempts []string
	runs     []string // of the Jobs, see runOf
	cluster  string   // BatchCluster
	first    []*batch.Job
	queues   []string // that these are in
}

// runOf names the present run of a Job: a restart of it, or of a part of it, is another.
func runOf(job *batch.Job) string {
	return fmt.Sprintf("%s %s %d %d", job.Name, job.UID, job.Status.Version, job.Status.RetryCount)
}

// early says what a step would wait for at the batch system, and why it does not:
// waits for what may pass, never for what the flow is to hear of. What may pass is seen
// in Jobs and pods, and the flow is looked at again with each of them that changes.
func (o *Output) early(in Input, step *flow.Flow) (b behind, waits bool, never string) {
	d := step.DependsOn
	if d.Probe != nil {
		return b, false, "it waits for a probe, not for the end of a job"
	}
	for _, target := range d.Targets {
		name := JobName(in.Flow.Name, target)
		if slices.Contains(o.Status.CompletedJobs, name) {
			continue
		}
		job := in.Jobs[name]
		if job == nil || in.void[name] || job.DeletionTimestamp != nil {
			return b, true, ""
		}
		switch job.Status.State.Phase {
		case "", batch.Pending, batch.Running:
		default:
			return b, true, ""
		}
		if why := undecided(job); why != "" {
			return b, false, fmt.Sprintf("job %s: %s", name, why)
		}
		attempt, node := placed(job, in.Pods[name])
		if attempt == "" {
			return b, true, ""
		}
		switch cluster := in.Clusters[node]; {
		case cluster == "":
			return b, false, fmt.Sprintf("job %s does not run on a virtual node", name)
		case b.cluster != "" && b.cluster != cluster:
			return b, false, fmt.Sprintf("the jobs that it depends on run on clusters %s and %s", b.cluster, cluster)
		default:
			b.cluster = cluster
		}
		b.first, b.queues = append(b.first, job), append(b.queues, in.queueOf(job, in.Pods[name]))
		b.attempts, b.runs = append(b.attempts, attempt), append(b.runs, runOf(job))
	}
	return b, len(b.attempts) == 0, ""
}

// undecided says why the exit codes of a Job's pods alone do not decide whether it
// completes, "" when they do: then it completes if all of them are 0, and if one is not
// its batch job tells of that as well.
func undecided(job *batch.Job) string {
	total := int32(0)
	for i := range job.Spec.Tasks {
		t := &job.Spec.Tasks[i]
		total += t.Replicas
		switch {
		case t.DependsOn != nil && len(t.DependsOn.Name) > 0:
			return fmt.Sprintf("task %s depends on another", t.Name)
		case t.MinAvailable != nil && *t.MinAvailable < t.Replicas:
			return fmt.Sprintf("task %s may go on with %d of %d pods", t.Name, *t.MinAvailable, t.Replicas)
		case !alike(&job.Spec.Tasks[0].Template.Spec, &t.Template.Spec):
			return fmt.Sprintf("tasks %s and %s ask for different resources", job.Spec.Tasks[0].Name, t.Name)
		}
		if why := decisive(t.Policies); why != "" {
			return fmt.Sprintf("task %s: %s", t.Name, why)
		}
	}
	switch least := job.Spec.MinSuccess; {
	case least != nil && *least < total:
		return fmt.Sprintf("it is complete with %d of %d pods", *least, total)
	case job.Spec.MinAvailable != 0 && job.Spec.MinAvailable < total:
		return fmt.Sprintf("it may go on with %d of %d pods", job.Spec.MinAvailable, total)
	}
	return decisive(job.Spec.Policies)
}

// decisive names a policy by which a Job may end in another way than its exit codes
// say. Those for pods that fail, are evicted or take too long are none: by them no pod
// ends with 0.
func decisive(policies []batch.LifecyclePolicy) string {
	for i := range policies {
		p := &policies[i]
		events := append(slices.Clone(p.Events), p.Event)
		switch {
		case slices.Contains(events, bus.TaskCompletedEvent), slices.Contains(events, bus.AnyEvent):
			return fmt.Sprintf("a policy ends or restarts it by event %s", bus.TaskCompletedEvent)
		case p.Action == bus.CompleteJobAction:
			return fmt.Sprintf("a policy has the action %s", p.Action)
		}
	}
	return ""
}

// alike says that two pods ask for the same, so that they are tasks of one plain job:
// of one with several components it is not certain what others wait for.
func alike(a, b *corev1.PodSpec) bool {
	asks := func(s *corev1.PodSpec) []string {
		var out []string
		for i, c := range slices.Concat(s.InitContainers, s.Containers) {
			for _, list := range []corev1.ResourceList{c.Resources.Requests, c.Resources.Limits} {
				for name, q := range list {
					out = append(out, fmt.Sprintf("%d %s %s", i, name, q.String()))
				}
			}
		}
		slices.Sort(out)
		return append(out, strconv.Itoa(len(s.InitContainers)))
	}
	return slices.Equal(asks(a), asks(b))
}

// placed gives the gang attempt in which all pods of a Job's present run were bound to
// one node, "" while they are not.
func placed(job *batch.Job, pods []*corev1.Pod) (attempt, node string) {
	total := int32(0)
	for i := range job.Spec.Tasks {
		total += job.Spec.Tasks[i].Replicas
	}
	if int(total) != len(pods) || total == 0 {
		return "", ""
	}
	for _, p := range pods {
		a := p.Annotations
		switch {
		case p.DeletionTimestamp != nil, p.Status.Phase == corev1.PodFailed, p.Spec.NodeName == "",
			a[wellknown.QueueEarly] != "true", a[wellknown.GangAttempt] == "",
			a[wellknown.GangSize] != strconv.Itoa(int(total)),
			a[batch.JobVersion] != strconv.Itoa(int(job.Status.Version)),
			a[batch.JobRetryCountKey] != strconv.Itoa(int(job.Status.RetryCount)):
			return "", ""
		case attempt == "":
			attempt, node = a[wellknown.GangAttempt], p.Spec.NodeName
		case attempt != a[wellknown.GangAttempt] || node != p.Spec.NodeName:
			return "", ""
		}
	}
	return attempt, node
}

// queueOf is the queue that a Job is in, or would be. One that names none, or the default
// one, is in that of its namespace; where it has pods, they say which that was when it
// began.
func (in Input) queueOf(job *batch.Job, pods []*corev1.Pod) string {
	if own := job.Spec.Queue; own != "" && own != scheduling.DefaultQueue {
		return own
	}
	for _, p := range pods {
		if own := p.Annotations[batch.QueueNameKey]; own != "" {
			return own
		}
	}
	return cmp.Or(in.NamespaceQueue, scheduling.DefaultQueue)
}

// rivals says why a Job of a queue could be given the room of one that it waits for, ""
// when it could not: it is of another queue or priority.
func rivals(job *batch.Job, own string, first *batch.Job, other string) string {
	if own != other {
		return fmt.Sprintf("it is of queue %s, and job %s of queue %s, which may have to make room for it", own, first.Name, other)
	}
	for _, j := range []*batch.Job{job, first} {
		for i := range j.Spec.Tasks {
			class := cmp.Or(j.Spec.Tasks[i].Template.Spec.PriorityClassName, j.Spec.PriorityClassName)
			if class != cmp.Or(first.Spec.Tasks[0].Template.Spec.PriorityClassName, first.Spec.PriorityClassName) {
				return fmt.Sprintf("it and job %s have other priorities than one", first.Name)
			}
		}
	}
	return ""
}

// queueBehind makes a Job one that waits.
func (in Input) queueBehind(job *batch.Job, b behind) (why string) {
	own := in.queueOf(job, nil)
	for i, first := range b.first {
		if why := rivals(job, own, first, b.queues[i]); why != "" {
			return why
		}
	}
	for i := range job.Spec.Tasks {
		s := &job.Spec.Tasks[i].Template.Spec
		if have, ok := s.NodeSelector[wellknown.Cluster]; ok && have != b.cluster {
			return fmt.Sprintf("task %s is to run on cluster %s, and what it depends on runs on %s", job.Spec.Tasks[i].Name, have, b.cluster)
		}
		if s.NodeSelector == nil {
			s.NodeSelector = map[string]string{}
		}
		s.NodeSelector[wellknown.Cluster] = b.cluster
	}
	job.Annotations[wellknown.After] = strings.Join(b.attempts, ",")
	job.Annotations[wellknown.AfterJobs] = strings.Join(b.runs, "\n")
	return ""
}

// voids finds the Jobs that were made early and have to be taken back: what they wait
// for was restarted, ended badly, or did not succeed as the batch system sees it. None
// of them has started, as far as its pods tell. Those that have nothing to wait for any
// more are settled.
func voids(in Input) (void map[string]bool, settled []*batch.Job) {
	void = map[string]bool{}
	if !concerned(in.Flow, in.Jobs) {
		return void, nil
	}
	for name, job := range in.Jobs {
		waits := job.Annotations[wellknown.AfterJobs]
		switch pods := in.Pods[name]; {
		case slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.Status.Reason == wellknown.ReasonPredecessor }):
			void[name] = true
		case waits == "":
		case slices.ContainsFunc(pods, started):
			// The batch system let it start, so all that it waited for has ended well
			// there, whatever has become of the objects that told of it.
			settled = append(settled, job)
		default:
			over, lost := true, false
			for run := range strings.SplitSeq(waits, "\n") {
				goesOn, completed := in.asItWas(run)
				over, lost = over && completed, lost || !goesOn && !completed
			}
			switch {
			case lost:
				void[name] = true
			case over:
				settled = append(settled, job)
			}
		}
	}
	slices.SortFunc(settled, func(a, b *batch.Job) int { return strings.Compare(a.Name, b.Name) })
	return void, settled
}

// asItWas looks at the run of a Job that another waits for, see runOf: whether it goes
// on, or has completed. It does neither when it was restarted, ended badly, or is gone.
func (in Input) asItWas(run string) (goesOn, completed bool) {
	name, _, _ := strings.Cut(run, " ")
	job := in.Jobs[name]
	if job == nil {
		// One that completed has completed, whoever deleted it.
		return false, slices.Contains(in.Flow.Status.CompletedJobs, name)
	}
	if runOf(job) != run {
		return false, false
	}
	switch job.Status.State.Phase {
	case "", batch.Pending, batch.Running:
		return true, false
	case batch.Completed:
		return false, true
	}
	return false, false
}

// started says that some container of a pod has run on its virtual node: it does not
// say so of one that waits in the queue of the batch system.
func started(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodSucceeded ||
		slices.ContainsFunc(slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses), func(c corev1.ContainerStatus) bool {
			return c.State.Running != nil || c.State.Terminated != nil && !c.State.Terminated.StartedAt.IsZero() || c.LastTerminationState.Terminated != nil
		})
}
