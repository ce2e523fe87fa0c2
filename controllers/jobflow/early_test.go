package jobflow

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// eager is the scene of a flow that queues its steps early.
func eager() Input {
	in := scene()
	in.Flow.Annotations = map[string]string{wellknown.QueueEarly: "true"}
	in.Pods, in.Clusters = map[string][]*corev1.Pod{}, map[string]string{"n": "hpc", "other": "hpc2", "plain": ""}
	return in
}

// bound gives the pods of a Job, all bound as one gang.
func (in Input) bound(name string, change ...func(*corev1.Pod)) Input {
	job := in.Jobs[JobName("f", name)]
	var pods []*corev1.Pod
	for range 2 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{
			wellknown.QueueEarly: "true", wellknown.GangAttempt: "attempt-" + name, wellknown.GangSize: "2",
			batch.JobVersion: strconv.Itoa(int(job.Status.Version)), batch.JobRetryCountKey: strconv.Itoa(int(job.Status.RetryCount)),
		}}, Spec: corev1.PodSpec{NodeName: "n"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		pods = append(pods, p)
	}
	for _, c := range change {
		c(pods[1])
	}
	// What a Job's pods say of its queue, each of them says.
	if queue, ok := pods[1].Annotations[batch.QueueNameKey]; ok {
		pods[0].Annotations[batch.QueueNameKey] = queue
	}
	in.Pods[job.Name] = pods
	return in
}

func (in Input) edit(name string, change func(*batch.JobSpec)) Input {
	spec := in.Templates[name].Spec.DeepCopy()
	change(spec)
	in.Templates[name].Spec = *spec
	if job := in.Jobs[JobName("f", name)]; job != nil {
		job.Spec = *spec
	}
	return in
}

// When a step is made early, and why not.
func TestEarly(t *testing.T) {
	t.Parallel()
	running := func() Input { return eager().with("a", batch.Running) }
	pod := func(change func(*corev1.Pod)) Input { return running().bound("a", change) }
	spec := func(change func(*batch.JobSpec)) Input { return running().bound("a").edit("a", change) }
	for name, tt := range map[string]struct {
		in     Input
		create string
		notice string // a part of what the flow is told
	}{
		"the whole gang is bound": {running().bound("a"), "f-b f-c", ""},
		"it waits in the queue":   {eager().with("a", batch.Pending).bound("a"), "f-b f-c", ""},
		"not asked for":           {func() Input { in := running().bound("a"); in.Flow.Annotations = nil; return in }(), "", ""},
		"asked not to": {func() Input {
			in := running().bound("a")
			in.Flow.Annotations[wellknown.QueueEarly] = "false"
			return in
		}(), "", ""},
		"no pods yet":              {running(), "", ""},
		"one is not bound":         {pod(func(p *corev1.Pod) { p.Spec.NodeName = "" }), "", ""},
		"one failed":               {pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), "", ""},
		"one is being deleted":     {pod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), "", ""},
		"one is of another gang":   {pod(func(p *corev1.Pod) { p.Annotations[wellknown.GangAttempt] = "x" }), "", ""},
		"one is of an earlier run": {pod(func(p *corev1.Pod) { p.Annotations[batch.JobRetryCountKey] = "7" }), "", ""},
		"one is on another node":   {pod(func(p *corev1.Pod) { p.Spec.NodeName = "other" }), "", ""},
		"one may end well if told": {pod(func(p *corev1.Pod) { delete(p.Annotations, wellknown.QueueEarly) }), "", ""},
		"the job is restarting":    {eager().with("a", batch.Restarting).bound("a"), "", ""},
		"not on a virtual node":    {func() Input { in := running().bound("a"); in.Clusters = nil; return in }(), "", "does not run on a virtual node"},
		"half of two":              {eager().with("a", batch.Completed).with("b", batch.Running).bound("b").with("c", batch.Pending), "", ""},
		"both of two":              {eager().with("a", batch.Completed).with("b", batch.Running).bound("b").with("c", batch.Pending).bound("c"), "f-d", ""},
		"one of two has completed": {eager().with("a", batch.Completed).with("b", batch.Running).bound("b").with("c", batch.Completed), "f-d", ""},
		"two clusters":             {eager().with("a", batch.Completed).with("b", batch.Running).bound("b").with("c", batch.Running).bound("c", func(p *corev1.Pod) { p.Spec.NodeName = "n" }).elsewhere("c"), "", "run on clusters hpc and hpc2"},
		"a probe": {func() Input {
			in := running().bound("a")
			in.step("b").DependsOn.Probe = &flow.Probe{TaskStatusList: []flow.TaskStatus{{TaskName: "w", Phase: "Succeeded"}}}
			return in
		}(), "f-c", "a probe"},
		"a policy on completion": {spec(func(s *batch.JobSpec) {
			s.Policies = []batch.LifecyclePolicy{{Event: bus.TaskCompletedEvent, Action: bus.RestartJobAction}}
		}), "", "TaskCompleted"},
		"a policy on anything": {spec(func(s *batch.JobSpec) {
			s.Tasks[0].Policies = []batch.LifecyclePolicy{{Events: []bus.Event{bus.AnyEvent}, Action: bus.RestartJobAction}}
		}), "", "a policy"},
		"a policy that completes": {spec(func(s *batch.JobSpec) {
			s.Policies = []batch.LifecyclePolicy{{Event: bus.PodFailedEvent, Action: bus.CompleteJobAction}}
		}), "", "CompleteJob"},
		"a policy on failure": {spec(func(s *batch.JobSpec) {
			s.Policies = []batch.LifecyclePolicy{{Event: bus.PodFailedEvent, Action: bus.RestartJobAction}}
		}), "f-b f-c", ""},
		"half of it is enough":   {spec(func(s *batch.JobSpec) { s.MinSuccess = ptr.To[int32](1) }), "", "complete with 1 of 2"},
		"it may begin with half": {spec(func(s *batch.JobSpec) { s.MinAvailable = 1 }), "", "go on with 1 of 2"},
		"a task may":             {spec(func(s *batch.JobSpec) { s.Tasks[0].MinAvailable = ptr.To[int32](1) }), "", "task w may go on with 1 of 2"},
		"tasks that are different": {spec(func(s *batch.JobSpec) {
			s.Tasks = append(s.Tasks, batch.TaskSpec{Name: "v", Replicas: 1, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}}}}})
		}), "", "different resources"},
		"a task that waits":                      {spec(func(s *batch.JobSpec) { s.Tasks[0].DependsOn = &batch.DependsOn{Name: []string{"v"}} }), "", "depends on another"},
		"another priority":                       {running().bound("a").edit("b", func(s *batch.JobSpec) { s.PriorityClassName = "high" }), "f-c", "other priorities"},
		"a task of another":                      {spec(func(s *batch.JobSpec) { s.Tasks[0].Template.Spec.PriorityClassName = "low" }), "", "other priorities"},
		"another queue":                          {running().bound("a").edit("b", func(s *batch.JobSpec) { s.Queue = "p" }), "f-c", "of queue p"},
		"no queue, and one":                      {running().bound("a").edit("b", func(s *batch.JobSpec) { s.Queue = "" }), "f-c", "of queue default"},
		"the namespace's queue, and the same":    {running().bound("a").edit("b", func(s *batch.JobSpec) { s.Queue = "" }).inNamespaceOf("q"), "f-b f-c", ""},
		"the namespace's queue, and another":     {running().bound("a").edit("b", func(s *batch.JobSpec) { s.Queue = "default" }).inNamespaceOf("p"), "f-c", "of queue p, and job f-a of queue q"},
		"both the namespace's":                   {running().edit("a", func(s *batch.JobSpec) { s.Queue = "" }).bound("a", inQueue("p")).edit("b", func(s *batch.JobSpec) { s.Queue = "" }).edit("c", func(s *batch.JobSpec) { s.Queue = "p" }).inNamespaceOf("p"), "f-b f-c", ""},
		"it began before the namespace had that": {running().edit("a", func(s *batch.JobSpec) { s.Queue = "" }).bound("a", inQueue("old")).edit("b", func(s *batch.JobSpec) { s.Queue = "" }).inNamespaceOf("p"), "", "job f-a of queue old"},
		"the step is for elsewhere": {running().bound("a").edit("b", func(s *batch.JobSpec) {
			s.Tasks[0].Template.Spec.NodeSelector = map[string]string{wellknown.Cluster: "hpc2"}
		}), "f-c", "to run on cluster hpc2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := Next(tt.in)
			if got := created(out); got != tt.create {
				t.Errorf("made %q, want %q", got, tt.create)
			}
			if text := fmt.Sprint(out.Notices); tt.notice != "" && !strings.Contains(text, tt.notice) || tt.notice == "" && strings.Contains(text, "NotQueuedEarly") {
				t.Errorf("told %s, want %q", text, tt.notice)
			}
		})
	}
	out := Next(running().bound("a"))
	job := out.Create[0]
	if job.Annotations[wellknown.After] != "attempt-a" || job.Annotations[wellknown.AfterJobs] != "f-a u-x 0 0" || job.Annotations[wellknown.QueueEarly] != "true" ||
		job.Spec.Tasks[0].Template.Spec.NodeSelector[wellknown.Cluster] != "hpc" {
		t.Errorf("the job is %+v", job)
	}
}

// inNamespaceOf says which queue is the namespace's.
func (in Input) inNamespaceOf(queue string) Input {
	in.NamespaceQueue = queue
	return in
}

// inQueue says of a Job's pods which queue they were made in.
func inQueue(queue string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations[batch.QueueNameKey] = queue }
}

// elsewhere moves a Job's pods to another cluster.
func (in Input) elsewhere(name string) Input {
	for _, p := range in.Pods[JobName("f", name)] {
		p.Spec.NodeName = "other"
	}
	return in
}

// made adds the Job of a step as a flow makes it early.
func (in Input) made(name string) Input {
	for _, job := range Next(in).Create {
		if job.Name == JobName("f", name) {
			job.UID, job.Status.State.Phase = "u-early", batch.Pending
			in.Jobs[job.Name] = job
			return in
		}
	}
	panic("job " + name + " is not made")
}

// When one that was made early is taken back, and when it is like any other.
func TestTakenBack(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(in Input, a, b *batch.Job)
		gone   bool
		settle bool
		phase  flow.Phase
	}{
		"nothing happened":              {func(Input, *batch.Job, *batch.Job) {}, false, false, flow.Running},
		"it completed":                  {func(_ Input, a, _ *batch.Job) { a.Status.State.Phase = batch.Completed }, false, true, flow.Running},
		"it failed":                     {func(_ Input, a, _ *batch.Job) { a.Status.State.Phase = batch.Failed }, true, false, flow.Failed},
		"it is ended":                   {func(_ Input, a, _ *batch.Job) { a.Status.State.Phase = batch.Terminating }, true, false, flow.Running},
		"it restarts":                   {func(_ Input, a, _ *batch.Job) { a.Status.State.Phase, a.Status.RetryCount = batch.Restarting, 1 }, true, false, flow.Running},
		"it was restarted":              {func(_ Input, a, _ *batch.Job) { a.Status.Version = 1 }, true, false, flow.Running},
		"a pod was":                     {func(_ Input, a, _ *batch.Job) { a.Status.RetryCount = 1 }, true, false, flow.Running},
		"another of its name":           {func(_ Input, a, _ *batch.Job) { a.UID = "u-y" }, true, false, flow.Running},
		"it was deleted":                {func(in Input, a, _ *batch.Job) { delete(in.Jobs, a.Name) }, true, false, flow.Pending},
		"deleted when done":             {func(in Input, a, _ *batch.Job) { done(in, a); delete(in.Jobs, a.Name) }, false, true, flow.Running},
		"its own pods gave up":          {func(in Input, _, b *batch.Job) { gaveUp(in, b) }, true, false, flow.Running},
		"also when settled":             {func(in Input, a, b *batch.Job) { done(in, a); b.Annotations = nil; gaveUp(in, b) }, true, false, flow.Running},
		"deleted when it had started":   {func(in Input, a, b *batch.Job) { delete(in.Jobs, a.Name); begun(in, b, corev1.PodRunning) }, false, true, flow.Pending},
		"deleted when it had succeeded": {func(in Input, a, b *batch.Job) { delete(in.Jobs, a.Name); begun(in, b, corev1.PodSucceeded) }, false, true, flow.Pending},
		"restarted when it had started": {func(in Input, a, b *batch.Job) { a.Status.Version = 1; begun(in, b, corev1.PodRunning) }, false, true, flow.Running},
		"deleted when it had failed by itself": {func(in Input, a, b *batch.Job) {
			delete(in.Jobs, a.Name)
			begun(in, b, corev1.PodFailed)
		}, false, true, flow.Pending},
		"deleted before it started": {func(in Input, a, b *batch.Job) {
			delete(in.Jobs, a.Name)
			in.Pods[b.Name] = []*corev1.Pod{{Status: corev1.PodStatus{Phase: corev1.PodPending,
				ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "Pending"}}}}}}}
		}, true, false, flow.Pending},
		"not asked for any more": {func(in Input, a, _ *batch.Job) { in.Flow.Annotations, a.Status.Version = nil, 1 }, true, false, flow.Running},
		"failed by itself": {func(_ Input, a, b *batch.Job) {
			a.Status.State.Phase, b.Status.State.Phase = batch.Completed, batch.Failed
		}, false, true, flow.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := eager().with("a", batch.Running).bound("a").made("b")
			a, b := in.Jobs["f-a"], in.Jobs["f-b"]
			tt.change(in, a, b)
			out := Next(in)
			gone, settle := false, false
			for _, j := range out.Delete {
				gone = gone || j.Name == "f-b"
			}
			for _, j := range out.Settle {
				settle = settle || j.Name == "f-b"
			}
			if gone != tt.gone || settle != tt.settle || out.Status.State.Phase != tt.phase {
				t.Errorf("taken back %v, settled %v, flow %s; want %v, %v, %s", gone, settle, out.Status.State.Phase, tt.gone, tt.settle, tt.phase)
			}
			if strings.Contains(created(out), "f-b") {
				t.Error("made again while the one before is there")
			}
		})
	}
}

func done(in Input, a *batch.Job) {
	a.Status.State.Phase = batch.Completed
	in.Flow.Status.CompletedJobs = []string{a.Name}
	in.Flow.Status.JobStatusList = []flow.JobStatus{{Name: a.Name, State: batch.Completed}}
}

// begun has one of a Job's pods started.
func begun(in Input, b *batch.Job, phase corev1.PodPhase) {
	state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	if phase != corev1.PodRunning {
		state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{StartedAt: metav1.Unix(1, 0)}}
	}
	in.Pods[b.Name] = []*corev1.Pod{{Status: corev1.PodStatus{Phase: corev1.PodPending}}, {Status: corev1.PodStatus{Phase: phase,
		ContainerStatuses: []corev1.ContainerStatus{{State: state}}}}}
}

func gaveUp(in Input, b *batch.Job) {
	b.Status.State.Phase = batch.Failed
	in.Pods[b.Name] = []*corev1.Pod{{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: wellknown.ReasonPredecessor}}}
}

// Whatever the Jobs come to: one that was made early stays only while what it waits
// for is the run that it was made for, or completed as that; none that has started is
// taken back; and none is both taken back and settled.
func TestEarlyModel(t *testing.T) {
	t.Parallel()
	phases := []batch.JobPhase{"", batch.Pending, batch.Running, batch.Restarting, batch.Completing, batch.Completed, batch.Terminating, batch.Terminated, batch.Aborting, batch.Aborted, batch.Failed}
	rapid.Check(t, func(t *rapid.T) {
		in := eager().with("a", batch.Running).bound("a").made("b")
		a := in.Jobs["f-a"]
		a.Status.State.Phase = rapid.SampledFrom(phases).Draw(t, "phase")
		a.Status.Version, a.Status.RetryCount = int32(rapid.IntRange(0, 1).Draw(t, "version")), int32(rapid.IntRange(0, 1).Draw(t, "retry"))
		switch rapid.IntRange(0, 2).Draw(t, "its pods") {
		case 1:
			gaveUp(in, in.Jobs["f-b"])
		case 2:
			begun(in, in.Jobs["f-b"], rapid.SampledFrom([]corev1.PodPhase{corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed}).Draw(t, "pod"))
			if rapid.Bool().Draw(t, "gone") {
				delete(in.Jobs, "f-a")
			}
			if out := Next(in); len(out.Delete) > 0 || len(out.Settle) != 1 {
				t.Fatalf("it has started, and a is %+v: taken back %v, settled %v", a.Status, out.Delete, out.Settle)
			}
			return
		}
		same := a.Status.Version == 0 && a.Status.RetryCount == 0
		goesOn := a.Status.State.Phase == "" || a.Status.State.Phase == batch.Pending || a.Status.State.Phase == batch.Running
		stays := same && (goesOn || a.Status.State.Phase == batch.Completed) && in.Pods["f-b"] == nil
		out := Next(in)
		if taken := len(out.Delete) > 0; taken == stays {
			t.Fatalf("a is %+v: taken back %v", a.Status, taken)
		}
		if len(out.Delete) > 0 && len(out.Settle) > 0 || len(out.Settle) > 0 && a.Status.State.Phase != batch.Completed {
			t.Fatalf("a is %+v: settled", a.Status)
		}
	})
}
