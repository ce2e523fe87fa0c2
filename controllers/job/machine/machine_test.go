package machine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// scene is a job with its objects, built by options.
type scene struct {
	job  *batch.Job
	pods []*corev1.Pod
	pg   *scheduling.PodGroup
	now  time.Time

	commands []*bus.Command
}

// newScene is a job of one task "w" with the replicas, in the phase, with an
// admitted PodGroup.
func newScene(phase batch.JobPhase, replicas int32) *scene {
	job := &batch.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "j", UID: "uid-1", CreationTimestamp: metav1.NewTime(start)},
		Spec:       batch.JobSpec{Tasks: []batch.TaskSpec{task("w", replicas)}},
	}
	job.Status.State = batch.JobState{Phase: phase, LastTransitionTime: metav1.NewTime(start)}
	s := &scene{job: job, now: start.Add(time.Minute)}
	s.admit(scheduling.PodGroupInqueue)
	return s
}

func task(name string, replicas int32) batch.TaskSpec {
	return batch.TaskSpec{Name: name, Replicas: replicas, Template: corev1.PodTemplateSpec{
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}}}
}

func (s *scene) admit(phase scheduling.PodGroupPhase) {
	s.pg = newPodGroup(Default(s.job), s.job.Status.Version, released(Default(s.job), census(Default(s.job), s.pods)))
	s.pg.Status.Phase = phase
}

// add adds the next pod of the task in the phase; code is used for Failed.
func (s *scene) add(taskName string, phase corev1.PodPhase, code int32) *corev1.Pod {
	var index int32
	for _, p := range s.pods {
		if p.Annotations[batch.TaskSpecKey] == taskName {
			index++
		}
	}
	job := Default(s.job)
	for i := range job.Spec.Tasks {
		if job.Spec.Tasks[i].Name == taskName {
			pod := newPod(job, &job.Spec.Tasks[i], index)
			pod.UID = "uid-" + "pod-" + pod.UID
			pod.CreationTimestamp = metav1.NewTime(start)
			setPhase(pod, phase, code, start.Add(time.Duration(index+1)*time.Second))
			s.pods = append(s.pods, pod)
			return pod
		}
	}
	panic("no task " + taskName)
}

func setPhase(pod *corev1.Pod, phase corev1.PodPhase, code int32, at time.Time) {
	pod.Status.Phase = phase
	pod.Spec.NodeName = "n"
	pod.Status.ContainerStatuses = nil
	if phase == corev1.PodFailed || phase == corev1.PodSucceeded {
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main",
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(at)}}}}
	}
}

func (s *scene) next() Output {
	in := Input{Job: s.job, Pods: s.pods, PodGroup: s.pg, Now: s.now, Commands: s.commands}
	in.Problems = Validate(Default(s.job), func(name string, _ []string) error {
		if name == "env" {
			return nil
		}
		return fmt.Errorf("unknown plugin")
	})
	return Next(in)
}

func (s *scene) policy(action bus.Action, event bus.Event) *scene {
	s.job.Spec.Policies = append(s.job.Spec.Policies, batch.LifecyclePolicy{Action: action, Event: event})
	return s
}

// terminating marks a pod as deleted.
func terminating(pod *corev1.Pod) {
	pod.DeletionTimestamp = ptr.To(metav1.NewTime(start.Add(40 * time.Second)))
}

func TestTransitions(t *testing.T) {
	t.Parallel()
	const P, R, S, F = corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed
	tests := map[string]struct {
		from  batch.JobPhase
		pods  []corev1.PodPhase // of task w
		edit  func(*scene)
		want  batch.JobPhase
		check func(*testing.T, Output)
	}{
		"a new job is pending":                          {from: "", want: batch.Pending},
		"pending stays below minAvailable":              {from: batch.Pending, pods: []corev1.PodPhase{R, P}, want: batch.Pending},
		"pending runs at minAvailable":                  {from: batch.Pending, pods: []corev1.PodPhase{R, R}, want: batch.Running},
		"pending counts ended pods":                     {from: batch.Pending, pods: []corev1.PodPhase{S, F}, want: batch.Running},
		"pending with lower minAvailable runs":          {from: batch.Pending, pods: []corev1.PodPhase{R, P}, edit: func(s *scene) { s.job.Spec.MinAvailable = 1 }, want: batch.Running},
		"running keeps its phase at zero replicas":      {from: batch.Running, edit: func(s *scene) { s.job.Spec.Tasks[0].Replicas = 0 }, want: batch.Running},
		"running completes at minSuccess":               {from: batch.Running, pods: []corev1.PodPhase{S, R}, edit: minSuccess(1), want: batch.Completed, check: deletes(1)},
		"minSuccess wins over a failure policy":         {from: batch.Running, pods: []corev1.PodPhase{S, F}, edit: both(minSuccess(1), withPolicy(bus.AbortJobAction, bus.PodFailedEvent)), want: batch.Completed},
		"all succeeded completes":                       {from: batch.Running, pods: []corev1.PodPhase{S, S}, want: batch.Completed, check: deletes(0)},
		"a task below its minimum fails":                {from: batch.Running, pods: []corev1.PodPhase{S, F}, want: batch.Failed},
		"minSuccess not reached fails":                  {from: batch.Running, pods: []corev1.PodPhase{S, F}, edit: both(minSuccess(2), minAvailable(1)), want: batch.Failed},
		"enough succeeded for a low minAvailable":       {from: batch.Running, pods: []corev1.PodPhase{S, F}, edit: minAvailable(1), want: batch.Completed},
		"too few succeeded for a low minAvailable":      {from: batch.Running, pods: []corev1.PodPhase{F, F}, edit: minAvailable(1), want: batch.Failed},
		"running goes back to pending":                  {from: batch.Running, pods: []corev1.PodPhase{R, P}, want: batch.Pending},
		"running stays with a tolerable number pending": {from: batch.Running, pods: []corev1.PodPhase{R, P}, edit: minAvailable(1), want: batch.Running},
		"running goes on while one runs":                {from: batch.Running, pods: []corev1.PodPhase{R, F}, want: batch.Running},
		"abort":                                         {from: batch.Running, pods: []corev1.PodPhase{R, F}, edit: withPolicy(bus.AbortJobAction, bus.PodFailedEvent), want: batch.Aborting, check: killed},
		"abort a pending job":                           {from: batch.Pending, pods: []corev1.PodPhase{P, F}, edit: withPolicy(bus.AbortJobAction, bus.PodFailedEvent), want: batch.Aborting, check: killed},
		"terminate":                                     {from: batch.Running, pods: []corev1.PodPhase{R, F}, edit: withPolicy(bus.TerminateJobAction, bus.PodFailedEvent), want: batch.Terminating, check: killed},
		"complete when a task completes": {from: batch.Running, pods: []corev1.PodPhase{S, S},
			edit: both(withPolicy(bus.CompleteJobAction, bus.TaskCompletedEvent), otherTask(R)), want: batch.Completing, check: killed},
		"restart": {from: batch.Running, pods: []corev1.PodPhase{R, F}, edit: withPolicy(bus.RestartJobAction, bus.PodFailedEvent), want: batch.Restarting,
			check: func(t *testing.T, o Output) {
				if o.Status.RetryCount != 1 || o.Status.Version != 1 || len(o.DeletePods) != 2 || !o.DeletePodGroup {
					t.Errorf("retryCount %d version %d deletes %d deletePodGroup %v", o.Status.RetryCount, o.Status.Version, len(o.DeletePods), o.DeletePodGroup)
				}
			}},
		"restart a pending job": {from: batch.Pending, pods: []corev1.PodPhase{P, F}, edit: withPolicy(bus.RestartJobAction, bus.PodFailedEvent), want: batch.Restarting,
			check: restarts(1, 2)},
		"restart a task of a pending job":      {from: batch.Pending, pods: []corev1.PodPhase{P, F}, edit: withPolicy(bus.RestartTaskAction, bus.PodFailedEvent), want: batch.Restarting, check: restarts(0, 2)},
		"restart a pod of a pending job":       {from: batch.Pending, pods: []corev1.PodPhase{P, F}, edit: withPolicy(bus.RestartPodAction, bus.PodFailedEvent), want: batch.Restarting, check: restarts(0, 1)},
		"restart a partition of a pending job": {from: batch.Pending, pods: []corev1.PodPhase{P, F}, edit: both(inPartitions, withPolicy(bus.RestartPartitionAction, bus.PodFailedEvent)), want: batch.Restarting, check: restarts(0, 1)},
		"terminate a pending job":              {from: batch.Pending, pods: []corev1.PodPhase{P, F}, edit: withPolicy(bus.TerminateJobAction, bus.PodFailedEvent), want: batch.Terminating, check: killed},
		"complete a pending job":               {from: batch.Pending, pods: []corev1.PodPhase{P, F}, edit: withPolicy(bus.CompleteJobAction, bus.PodFailedEvent), want: batch.Completing, check: killed},
		"the last restart keeps what ended": {from: batch.Running, pods: []corev1.PodPhase{R, F},
			edit: both(withPolicy(bus.RestartJobAction, bus.PodFailedEvent), func(s *scene) { s.job.Spec.MaxRetry = 1 }), want: batch.Restarting, check: deletes(1)},
		"restarting fails at maxRetry":               {from: batch.Restarting, pods: []corev1.PodPhase{F}, edit: version(1, 3), want: batch.Failed},
		"restarting waits for the old pods":          {from: batch.Restarting, pods: []corev1.PodPhase{R, R}, edit: version(1, 1), want: batch.Restarting, check: deletes(2)},
		"restarting is pending when they are gone":   {from: batch.Restarting, edit: version(1, 1), want: batch.Pending},
		"restarting is pending when enough are gone": {from: batch.Restarting, pods: []corev1.PodPhase{R}, edit: both(version(1, 1), minAvailable(1)), want: batch.Pending},
		"aborting waits":                             {from: batch.Aborting, pods: []corev1.PodPhase{R}, edit: version(1, 0), want: batch.Aborting, check: deletes(1)},
		"aborted":                                    {from: batch.Aborting, pods: []corev1.PodPhase{S, F}, edit: version(1, 0), want: batch.Aborted, check: deletes(0)},
		"terminated":                                 {from: batch.Terminating, pods: []corev1.PodPhase{F}, edit: version(1, 0), want: batch.Terminated},
		"completed by action":                        {from: batch.Completing, pods: []corev1.PodPhase{S}, edit: version(1, 0), want: batch.Completed},
		"eviction is an event":                       {from: batch.Running, pods: []corev1.PodPhase{R, R}, edit: both(withPolicy(bus.RestartJobAction, bus.PodEvictedEvent), evict(0)), want: batch.Restarting},
		"a pod that is simply gone was evicted": {from: batch.Running, pods: []corev1.PodPhase{R},
			edit: both(withPolicy(bus.AbortJobAction, bus.PodEvictedEvent), countedBefore("w", R, 2)), want: batch.Aborting},
		"deleting a succeeded pod evicts nothing": {from: batch.Running, pods: []corev1.PodPhase{S, R}, edit: both(withPolicy(bus.AbortJobAction, bus.AnyEvent), evict(0)), want: batch.Running},
		"any event":                 {from: batch.Running, pods: []corev1.PodPhase{R, F}, edit: withPolicy(bus.TerminateJobAction, bus.AnyEvent), want: batch.Terminating},
		"a pending pod is no event": {from: batch.Running, pods: []corev1.PodPhase{R, P}, edit: both(minAvailable(1), withPolicy(bus.TerminateJobAction, bus.AnyEvent)), want: batch.Running},
		"exit code matches":         {from: batch.Running, pods: []corev1.PodPhase{R, F}, edit: exitCode(7, bus.TerminateJobAction), want: batch.Terminating},
		"exit code differs":         {from: batch.Running, pods: []corev1.PodPhase{R, F}, edit: exitCode(8, bus.TerminateJobAction), want: batch.Running},
		"task policy comes first": {from: batch.Running, pods: []corev1.PodPhase{R, F}, edit: func(s *scene) {
			s.policy(bus.AbortJobAction, bus.PodFailedEvent)
			s.job.Spec.Tasks[0].Policies = []batch.LifecyclePolicy{{Action: bus.CompleteJobAction, Event: bus.PodFailedEvent}}
		}, want: batch.Completing},
		"the PodGroup is unknown": {from: batch.Running, pods: []corev1.PodPhase{R, R}, edit: both(withPolicy(bus.AbortJobAction, bus.JobUnknownEvent), func(s *scene) { s.admit(scheduling.PodGroupUnknown) }), want: batch.Aborting},
		"containers that restart fail a task": {from: batch.Running, pods: []corev1.PodPhase{R, R}, edit: both(withPolicy(bus.AbortJobAction, bus.TaskFailedEvent), func(s *scene) {
			s.pods[0].Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: 4}}
		}), want: batch.Aborting},
		"an event of an older version is no event": {from: batch.Running, pods: []corev1.PodPhase{F, R}, edit: both(withPolicy(bus.AbortJobAction, bus.PodFailedEvent), version(2, 0)), want: batch.Running},
		"a finished job stays":                     {from: batch.Completed, pods: []corev1.PodPhase{F, F}, edit: withPolicy(bus.RestartJobAction, bus.AnyEvent), want: batch.Completed},
		"a failed job stays":                       {from: batch.Failed, pods: []corev1.PodPhase{S, S}, want: batch.Failed},
		"an aborted job stays":                     {from: batch.Aborted, want: batch.Aborted},
		"an invalid job waits":                     {from: batch.Running, pods: []corev1.PodPhase{S, S}, edit: func(s *scene) { s.job.Spec.MinAvailable = 9 }, want: batch.Running},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(test.from, max(2, int32(len(test.pods))))
			for _, phase := range test.pods {
				s.add("w", phase, map[corev1.PodPhase]int32{F: 7}[phase])
			}
			if test.edit != nil {
				test.edit(s)
			}
			out := s.next()
			if out.Status.State.Phase != test.want {
				t.Fatalf("phase %s (%s: %s), want %s", out.Status.State.Phase, out.Status.State.Reason, out.Status.State.Message, test.want)
			}
			if test.check != nil {
				test.check(t, out)
			}
		})
	}
}

func deletes(n int) func(*testing.T, Output) {
	return func(t *testing.T, o Output) {
		if len(o.DeletePods) != n {
			t.Errorf("deletes %d pods, want %d", len(o.DeletePods), n)
		}
	}
}

// restarts is one retry, a version, and pods that go; the PodGroup goes with a version.
func restarts(version int32, pods int) func(*testing.T, Output) {
	return func(t *testing.T, o Output) {
		if o.Status.RetryCount != 1 || o.Status.Version != version || len(o.DeletePods) != pods || o.DeletePodGroup != (version > 0) {
			t.Errorf("%d retries, version %d, deletes %q, PodGroup deleted %v", o.Status.RetryCount, o.Status.Version, names(o.DeletePods), o.DeletePodGroup)
		}
	}
}

// inPartitions puts each pod into a partition of its own.
func inPartitions(s *scene) {
	task := &s.job.Spec.Tasks[0]
	task.PartitionPolicy = &batch.PartitionPolicySpec{TotalPartitions: task.Replicas, PartitionSize: 1}
}

func killed(t *testing.T, o Output) {
	if o.Status.Version != 1 || o.Status.RetryCount != 0 || !o.DeletePodGroup || len(o.DeletePods) != 1 || o.Status.Terminating != 1 {
		t.Errorf("version %d retries %d deletePodGroup %v deletes %d terminating %d", o.Status.Version, o.Status.RetryCount, o.DeletePodGroup, len(o.DeletePods), o.Status.Terminating)
	}
	if len(o.Notices) != 1 || !strings.Contains(o.Notices[0].Message, "says") {
		t.Errorf("notices %+v", o.Notices)
	}
}

func both(edits ...func(*scene)) func(*scene) {
	return func(s *scene) {
		for _, e := range edits {
			e(s)
		}
	}
}

func minSuccess(n int32) func(*scene)   { return func(s *scene) { s.job.Spec.MinSuccess = &n } }
func minAvailable(n int32) func(*scene) { return func(s *scene) { s.job.Spec.MinAvailable = n } }
func evict(i int) func(*scene)          { return func(s *scene) { terminating(s.pods[i]) } }

func withPolicy(a bus.Action, e bus.Event) func(*scene) {
	return func(s *scene) { s.policy(a, e) }
}

func exitCode(code int32, a bus.Action) func(*scene) {
	return func(s *scene) {
		s.job.Spec.Policies = []batch.LifecyclePolicy{{Action: a, ExitCode: &code}}
	}
}

// version raises the job's version above that of the pods and the PodGroup.
func version(v, retries int32) func(*scene) {
	return func(s *scene) { s.job.Status.Version, s.job.Status.RetryCount = v, retries }
}

func otherTask(phase corev1.PodPhase) func(*scene) {
	return func(s *scene) {
		s.job.Spec.Tasks = append(s.job.Spec.Tasks, task("x", 1))
		s.admit(scheduling.PodGroupRunning)
		s.add("x", phase, 0)
	}
}

func countedBefore(taskName string, phase corev1.PodPhase, n int32) func(*scene) {
	return func(s *scene) {
		s.job.Status.TaskStatusCount = map[string]batch.TaskState{taskName: {Phase: map[corev1.PodPhase]int32{phase: n}}}
	}
}
