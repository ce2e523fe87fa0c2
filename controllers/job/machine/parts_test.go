package machine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// parted is a running job of a task "w" of two partitions of two and a task "x"
// of one, whose pods run.
func parted() *scene {
	s := newScene(batch.Running, 4)
	s.job.Spec.Tasks[0].PartitionPolicy = &batch.PartitionPolicySpec{TotalPartitions: 2, PartitionSize: 2}
	s.job.Spec.Tasks = append(s.job.Spec.Tasks, task("x", 1))
	for range 4 {
		s.add("w", corev1.PodRunning, 0)
	}
	s.add("x", corev1.PodRunning, 0)
	return s
}

func names(pods []*corev1.Pod) string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// A part of the job restarts: its pods go and come again under the same version,
// and the retry counts once, also when the controller dies before it deletes.
func TestPartialRestart(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		action bus.Action
		event  bus.Event
		do     func(*scene)
		want   string // pods deleted
		note   string
	}{
		"pod":       {bus.RestartPodAction, bus.PodFailedEvent, func(s *scene) { setPhase(s.pods[1], corev1.PodFailed, 1, s.now) }, "j-w-1", "RestartPod w/1"},
		"partition": {bus.RestartPartitionAction, bus.PodFailedEvent, func(s *scene) { setPhase(s.pods[3], corev1.PodFailed, 1, s.now) }, "j-w-2 j-w-3", "RestartPartition w/1"},
		"task":      {bus.RestartTaskAction, bus.PodFailedEvent, func(s *scene) { setPhase(s.pods[0], corev1.PodFailed, 1, s.now) }, "j-w-0 j-w-1 j-w-2 j-w-3", "RestartTask w"},
		"partition of a task without": {bus.RestartPartitionAction, bus.PodFailedEvent, func(s *scene) { setPhase(s.pods[4], corev1.PodFailed, 1, s.now) },
			"j-x-0", "RestartTask x"},
		"an evicted pod":     {bus.RestartPodAction, bus.PodEvictedEvent, func(s *scene) { terminating(s.pods[2]) }, "", "RestartPod w/2"},
		"a task's own event": {bus.RestartPodAction, bus.TaskCompletedEvent, func(s *scene) { setPhase(s.pods[4], corev1.PodSucceeded, 0, s.now) }, "j-x-0", "RestartTask x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := parted().policy(tt.action, tt.event)
			tt.do(s)
			out := s.next()
			if st := out.Status; st.State.Phase != batch.Restarting || st.RetryCount != 1 || st.Version != 0 || out.DeletePodGroup ||
				st.ControlledResources["restart-1"] != tt.note || names(out.DeletePods) != tt.want {
				t.Fatalf("%s, %d retries, version %d, notes %v, deletes %q", st.State.Phase, st.RetryCount, st.Version, st.ControlledResources, names(out.DeletePods))
			}
			s.job.Status = out.Status
			again := s.next() // as after a crash before the deletions
			if names(again.DeletePods) != tt.want || again.Status.RetryCount != 1 {
				t.Errorf("after a crash: deletes %q, %d retries", names(again.DeletePods), again.Status.RetryCount)
			}
			for _, pod := range out.DeletePods {
				terminating(pod)
			}
			for step := range 6 { // while they end, and after
				if step == 3 {
					s.pods = slices.DeleteFunc(s.pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
				}
				out = s.next()
				if out.Status.RetryCount != 1 || len(out.DeletePods) != 0 || out.Status.Version != 0 {
					t.Fatalf("step %d: %d retries, deletes %q, notices %+v", step, out.Status.RetryCount, names(out.DeletePods), out.Notices)
				}
				for _, c := range out.CreatePods {
					if c.Pod.Annotations[batch.JobRetryCountKey] != "1" {
						t.Errorf("pod %s is of retry %q", c.Pod.Name, c.Pod.Annotations[batch.JobRetryCountKey])
					}
					c.Pod.CreationTimestamp = metav1.NewTime(s.now)
					c.Pod.Status.Phase = corev1.PodRunning
					s.pods = append(s.pods, c.Pod)
				}
				s.job.Status = out.Status
			}
			if st := s.job.Status; st.State.Phase != batch.Running || st.Running != 5 || len(st.ControlledResources) != 0 {
				t.Errorf("in the end: %+v", st)
			}
		})
	}
}

func TestPartialRestartsUseUpTheRetries(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Running, 2).policy(bus.RestartPodAction, bus.PodFailedEvent)
	s.add("w", corev1.PodFailed, 1)
	s.add("w", corev1.PodSucceeded, 0)
	s.job.Spec.MaxRetry = 1
	out := s.next()
	s.job.Status = out.Status
	if out = s.next(); out.Status.State.Phase != batch.Failed || len(out.DeletePods) != 0 {
		t.Errorf("%+v, deletes %q", out.Status.State, names(out.DeletePods))
	}
}

func command(action bus.Action, uid types.UID) *bus.Command {
	return &bus.Command{ObjectMeta: metav1.ObjectMeta{Name: "c-" + string(uid), UID: uid}, Action: string(action)}
}

// A row for each phase and action: what a Command does.
func TestCommands(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		from   batch.JobPhase
		action bus.Action
		want   batch.JobPhase
		// how much the version and the retries rise
		version, retries int32
	}{
		{batch.Pending, bus.AbortJobAction, batch.Aborting, 1, 0},
		{batch.Running, bus.AbortJobAction, batch.Aborting, 1, 0},
		{batch.Restarting, bus.AbortJobAction, batch.Aborting, 1, 0},
		{batch.Aborted, bus.ResumeJobAction, batch.Restarting, 1, 1},
		{batch.Aborting, bus.ResumeJobAction, batch.Restarting, 1, 1},
		{batch.Running, bus.TerminateJobAction, batch.Terminating, 1, 0},
		{batch.Pending, bus.CompleteJobAction, batch.Completing, 1, 0},
		{batch.Running, bus.RestartJobAction, batch.Restarting, 1, 1},
		{batch.Running, bus.RestartTaskAction, batch.Restarting, 1, 1},
		{batch.Running, bus.ResumeJobAction, batch.Running, 0, 0},
		{batch.Aborted, bus.AbortJobAction, batch.Aborted, 0, 0},
		{batch.Completed, bus.AbortJobAction, batch.Completed, 0, 0},
		{batch.Failed, bus.ResumeJobAction, batch.Failed, 0, 0},
		{batch.Terminated, bus.RestartJobAction, batch.Terminated, 0, 0},
		{batch.Running, "Dance", batch.Running, 0, 0},
	} {
		t.Run(fmt.Sprint(tt.from, tt.action), func(t *testing.T) {
			t.Parallel()
			s := newScene(tt.from, 1)
			s.add("w", map[bool]corev1.PodPhase{true: corev1.PodPending, false: corev1.PodRunning}[tt.from == batch.Pending], 0)
			s.commands = []*bus.Command{command(tt.action, "1"), command(bus.TerminateJobAction, "2")}
			for range 2 { // the second time as after a crash before the Command was deleted
				out := s.next()
				st := out.Status
				if st.Version != tt.version || st.RetryCount != tt.retries || out.DeleteCommand != s.commands[0] {
					t.Fatalf("%s, version %d, %d retries, deletes command %v", st.State.Phase, st.Version, st.RetryCount, out.DeleteCommand)
				}
				if s.job.Status.ControlledResources == nil && (st.State.Phase != tt.want || len(out.Notices) != 1) {
					t.Fatalf("%s, notices %+v", st.State.Phase, out.Notices)
				}
				s.job.Status = st
			}
		})
	}
}

// A Command that stays, since its deletion fails or the cache is behind, is carried
// out once: what it led to goes on, and the job runs again.
func TestCommandThatStays(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Running, 1)
	s.add("w", corev1.PodRunning, 0)
	s.commands = []*bus.Command{command(bus.RestartJobAction, "1")}
	step := func(want batch.JobPhase) {
		t.Helper()
		out := s.next()
		s.job.Status = out.Status
		if st := out.Status; st.State.Phase != want || st.Version != 1 || st.RetryCount != 1 || out.DeleteCommand != s.commands[0] {
			t.Fatalf("%s, version %d, %d retries, deletes command %v; want %s, one retry", st.State.Phase, st.Version, st.RetryCount, out.DeleteCommand, want)
		}
	}
	step(batch.Restarting)
	s.pods, s.pg = nil, nil
	step(batch.Pending)
	s.admit(scheduling.PodGroupInqueue)
	step(batch.Pending)
	s.add("w", corev1.PodRunning, 0)
	step(batch.Running)
	step(batch.Running)

	// The next one counts.
	s.commands = []*bus.Command{command(bus.RestartJobAction, "2")}
	if st := s.next().Status; st.State.Phase != batch.Restarting || st.Version != 2 || st.RetryCount != 2 {
		t.Errorf("%s, version %d, %d retries after another command", st.State.Phase, st.Version, st.RetryCount)
	}
}

// A timeout delays an action, counts from when it began, and is off when the
// cause is gone.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	delayed := func(e bus.Event) *scene {
		s := parted()
		s.job.Spec.Policies = []batch.LifecyclePolicy{{Action: bus.AbortJobAction, Event: e, Timeout: &metav1.Duration{Duration: time.Minute}}}
		s.job.Status = s.next().Status // the pods are counted
		return s
	}
	restarting := func(s *scene) {
		s.pods[0].Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: 9}}
	}
	for name, tt := range map[string]struct {
		event  bus.Event
		do     func(*scene)
		undo   func(*scene)
		single bool // it can not be undone
	}{
		"vanished": {event: bus.PodEvictedEvent, do: func(s *scene) { s.pods = s.pods[1:] }, undo: func(s *scene) { s.run() }},
		"evicted": {event: bus.PodEvictedEvent, do: func(s *scene) {
			s.pods[1].DeletionTimestamp = ptr.To(metav1.NewTime(s.now))
			s.pods[1].DeletionGracePeriodSeconds = ptr.To[int64](0)
		}, undo: func(s *scene) { s.run() }},
		"task failed": {event: bus.TaskFailedEvent, do: restarting, undo: func(s *scene) { s.pods[0].Status.ContainerStatuses = nil }},
		"unknown":     {event: bus.JobUnknownEvent, do: func(s *scene) { s.admit("Unknown") }, undo: func(s *scene) { s.admit("Running") }},
		"pod failed":  {event: bus.PodFailedEvent, do: func(s *scene) { setPhase(s.pods[0], corev1.PodFailed, 1, s.now) }, single: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, undone := range []bool{false, true} {
				if undone && tt.single {
					continue
				}
				s := delayed(tt.event)
				tt.do(s)
				s.step(t)
				if s.job.Status.State.Phase == batch.Aborting {
					t.Fatalf("at once: %+v", s.job.Status)
				}
				s.now = s.now.Add(40 * time.Second)
				s.step(t)
				s.pods = slices.DeleteFunc(s.pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
				s.step(t)
				if undone {
					tt.undo(s)
					s.step(t)
				}
				s.now = s.now.Add(25 * time.Second)
				s.step(t)
				if got := s.job.Status.State.Phase == batch.Aborting; got == undone {
					t.Errorf("undone %v: %+v", undone, s.job.Status)
				}
			}
		})
	}
}

// step is a pass with all that follows from it but the end of pods.
func (s *scene) step(t *testing.T) {
	t.Helper()
	out := s.next()
	for _, c := range out.CreatePods {
		c.Pod.CreationTimestamp = metav1.NewTime(s.now)
		c.Pod.Status.Phase = corev1.PodPending
		s.pods = append(s.pods, c.Pod)
	}
	s.job.Status = out.Status
	for _, p := range out.DeletePods {
		p.DeletionTimestamp = ptr.To(metav1.NewTime(s.now))
	}
}

// run lets every pending pod run.
func (s *scene) run() {
	for _, p := range s.pods {
		if p.Status.Phase == corev1.PodPending {
			setPhase(p, corev1.PodRunning, 0, s.now)
		}
	}
}

func TestJobUpdated(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Running, 2).policy(bus.RestartJobAction, bus.JobUpdatedEvent)
	s.add("w", corev1.PodRunning, 0)
	s.add("w", corev1.PodRunning, 0)
	s.job.Generation = 1
	for range 2 {
		s.step(t)
	}
	if st := s.job.Status; st.State.Phase != batch.Running || st.RetryCount != 0 {
		t.Fatalf("without an update: %+v", st)
	}
	s.job.Generation, s.job.Spec.PriorityClassName = 2, "high"
	s.step(t)
	if st := s.job.Status; st.State.Phase != batch.Restarting || st.RetryCount != 1 {
		t.Errorf("after it: %+v", st)
	}
	s.pods, s.pg = nil, nil
	for range 4 {
		s.step(t)
	}
	if st := s.job.Status; st.RetryCount != 1 {
		t.Errorf("one update restarted the job %d times", st.RetryCount)
	}
}

func TestDependsOn(t *testing.T) {
	t.Parallel()
	chain := func(iteration batch.Iteration) *scene {
		s := newScene("", 2)
		s.job.Spec.Tasks = append(s.job.Spec.Tasks, task("x", 1), task("y", 1))
		s.job.Spec.Tasks[2].DependsOn = &batch.DependsOn{Name: []string{"w", "x"}, Iteration: iteration}
		s.pg = nil
		return s
	}
	admitted := func(t *testing.T, s *scene) {
		t.Helper()
		s.pg = s.next().CreatePodGroup
		s.pg.Status.Phase = "Inqueue"
	}
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		s := chain("")
		admitted(t, s)
		if s.pg.Spec.MinMember != 3 || len(s.pg.Spec.MinTaskMember) != 2 {
			t.Errorf("the gang waits for pods that wait for it: %+v", s.pg.Spec)
		}
		s.step(t)
		if names(s.pods) != "j-w-0 j-w-1 j-x-0" {
			t.Fatalf("created %q", names(s.pods))
		}
		setPhase(s.pods[0], corev1.PodRunning, 0, s.now)
		setPhase(s.pods[2], corev1.PodRunning, 0, s.now)
		s.pods[2].Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Ready: true}}
		out := s.next()
		if len(out.CreatePods) != 0 {
			t.Fatalf("too early: %v", out.CreatePods[0].Pod.Name)
		}
		setPhase(s.pods[1], corev1.PodRunning, 0, s.now)
		out = s.next()
		if len(out.CreatePods) != 1 || out.CreatePods[0].Pod.Name != "j-y-0" || out.UpdatePodGroup == nil || out.UpdatePodGroup.MinMember != 4 {
			t.Fatalf("creates %d, PodGroup %+v", len(out.CreatePods), out.UpdatePodGroup)
		}
		s.step(t)
		setPhase(s.pods[0], corev1.PodFailed, 1, s.now)
		if out := s.next(); len(out.DeletePods) != 0 || len(out.CreatePods) != 0 {
			t.Errorf("what was released is taken back: %+v", out)
		}
	})
	t.Run("any", func(t *testing.T) {
		t.Parallel()
		s := chain(batch.IterationAny)
		admitted(t, s)
		s.step(t)
		setPhase(s.pods[2], corev1.PodSucceeded, 0, s.now)
		s.step(t)
		if !strings.Contains(names(s.pods), "j-y-0") {
			t.Errorf("created %q", names(s.pods))
		}
	})
	t.Run("the reason", func(t *testing.T) {
		t.Parallel()
		s := chain("")
		admitted(t, s)
		s.step(t)
		for _, p := range s.pods {
			setPhase(p, corev1.PodRunning, 0, s.now)
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main"}} // not ready
		}
		s.step(t)
		if st := s.job.Status.State; st.Reason != reasonDepends || !strings.Contains(st.Message, "task y waits for task w, of which 0 of 2 pods are ready") {
			t.Errorf("%+v", st)
		}
	})
	t.Run("lost", func(t *testing.T) {
		t.Parallel()
		s := chain("")
		s.job.Spec.Tasks = append(s.job.Spec.Tasks, task("z", 1))
		s.job.Spec.Tasks[3].DependsOn = &batch.DependsOn{Name: []string{"y"}}
		admitted(t, s)
		s.step(t)
		for _, p := range s.pods {
			setPhase(p, corev1.PodFailed, 3, s.now)
		}
		s.step(t)
		if st := s.job.Status.State; st.Phase != batch.Failed || st.Reason != reasonDependLost || !strings.Contains(st.Message, "exited with code 3") {
			t.Errorf("%+v", st)
		}
	})
}

func TestPartitions(t *testing.T) {
	t.Parallel()
	s := parted()
	s.job.Spec.Tasks[0].PartitionPolicy.MinPartitions = 1
	s.job.Spec.Tasks[0].PartitionPolicy.NetworkTopology = &batch.NetworkTopologySpec{HighestTierAllowed: ptr.To(1)}
	s.admit("Running")
	if s.pods[3].Labels[batch.TaskPartitionID] != "1" || s.pods[4].Labels[batch.TaskPartitionID] != "" {
		t.Errorf("labels %v and %v", s.pods[3].Labels, s.pods[4].Labels)
	}
	spec := s.pg.Spec
	if spec.MinMember != 3 || spec.MinTaskMember["w"] != 2 || len(spec.SubGroupPolicy) != 1 {
		t.Fatalf("%+v", spec)
	}
	g := spec.SubGroupPolicy[0]
	if g.Name != "w" || *g.SubGroupSize != 2 || *g.MinSubGroups != 1 || g.LabelSelector.MatchLabels[batch.TaskSpecKey] != "w" ||
		g.MatchLabelKeys[0] != batch.TaskPartitionID || *g.NetworkTopology.HighestTierAllowed != 1 || g.NetworkTopology.Mode != "hard" {
		t.Errorf("%+v", g)
	}
	if out := s.next(); out.UpdatePodGroup != nil {
		t.Errorf("an update without a change: %+v", out.UpdatePodGroup)
	}
}
