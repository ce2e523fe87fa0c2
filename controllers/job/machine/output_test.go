package machine

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

func TestPodsWaitForThePodGroup(t *testing.T) {
	t.Parallel()
	s := newScene("", 2)
	s.pg = nil
	out := s.next()
	if out.CreatePodGroup == nil || len(out.CreatePods) != 0 || out.CreatePodGroup.Status.Phase != scheduling.PodGroupPending {
		t.Fatalf("first pass: PodGroup %v, %d pods", out.CreatePodGroup, len(out.CreatePods))
	}
	for phase, want := range map[scheduling.PodGroupPhase]int{
		"": 0, scheduling.PodGroupPending: 0, scheduling.PodGroupInqueue: 2, scheduling.PodGroupRunning: 2,
		scheduling.PodGroupUnknown: 2, scheduling.PodGroupCompleted: 0,
	} {
		s.admit(phase)
		out := s.next()
		if len(out.CreatePods) != want || out.CreatePodGroup != nil {
			t.Errorf("PodGroup %q: %d pods, want %d", phase, len(out.CreatePods), want)
		}
	}
	s.admit(scheduling.PodGroupPending)
	s.pg.Status.Conditions = []scheduling.PodGroupCondition{{Type: scheduling.PodGroupUnschedulableType, Status: "True", Message: "2 GPUs short"}}
	s.job.Status.State.Phase = batch.Pending
	if out := s.next(); out.Status.State.Reason != reasonQueued || !strings.Contains(out.Status.State.Message, "2 GPUs short") {
		t.Errorf("state %+v", out.Status.State)
	}
}

func TestPodGroupOfAnOlderVersionGoesFirst(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Pending, 1)
	s.job.Status.Version = 1
	out := s.next()
	if !out.DeletePodGroup || out.CreatePodGroup != nil || len(out.CreatePods) != 0 {
		t.Fatalf("old PodGroup: %+v", out)
	}
	s.pg.DeletionTimestamp = ptr.To(metav1.NewTime(start))
	if out = s.next(); out.DeletePodGroup || out.CreatePodGroup != nil || len(out.CreatePods) != 0 {
		t.Fatalf("ending PodGroup: %+v", out)
	}
	s.pg = nil
	if out = s.next(); out.CreatePodGroup == nil || out.CreatePodGroup.Annotations[batch.JobVersion] != "1" {
		t.Fatalf("new PodGroup: %+v", out.CreatePodGroup)
	}
}

func TestPodGroupSpec(t *testing.T) {
	t.Parallel()
	s := newScene("", 3)
	s.job.Annotations = map[string]string{"volcano.sh/sla-waiting-time": "1h", corev1.LastAppliedConfigAnnotation: "{}"}
	s.job.Spec.Tasks = append(s.job.Spec.Tasks, task("gpu", 2))
	requests := corev1.ResourceList{"cpu": resource.MustParse("500m"), "nvidia.com/gpu": resource.MustParse("8")}
	s.job.Spec.Tasks[1].Template.Spec.Containers[0].Resources.Requests = requests
	s.job.Spec.Tasks[0].Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1")}
	s.job.Spec.NetworkTopology = &batch.NetworkTopologySpec{HighestTierAllowed: ptr.To(2)}
	s.job.Spec.PriorityClassName = "high"
	s.pg = nil
	pg := s.next().CreatePodGroup
	if pg.Name != "j-uid-1" || pg.Spec.MinMember != 5 || pg.Spec.MinTaskMember["w"] != 3 || pg.Spec.MinTaskMember["gpu"] != 2 ||
		pg.Spec.Queue != "default" || pg.Spec.PriorityClassName != "high" || *pg.Spec.NetworkTopology.HighestTierAllowed != 2 {
		t.Errorf("PodGroup %s %+v", pg.Name, pg.Spec)
	}
	least := *pg.Spec.MinResources
	if cpu, gpu := least["cpu"], least["nvidia.com/gpu"]; cpu.String() != "4" || gpu.String() != "16" {
		t.Errorf("minResources %v", least)
	}
	if _, ok := pg.Annotations[corev1.LastAppliedConfigAnnotation]; ok || pg.Annotations["volcano.sh/sla-waiting-time"] != "1h" {
		t.Errorf("annotations %v", pg.Annotations)
	}
	if o := pg.OwnerReferences[0]; o.UID != "uid-1" || !*o.Controller || !*o.BlockOwnerDeletion || o.Kind != "Job" || o.APIVersion != "batch.volcano.sh/v1alpha1" {
		t.Errorf("owner %+v", o)
	}

	s.job.Spec.MinAvailable = 4
	pg = s.next().CreatePodGroup
	least = *pg.Spec.MinResources
	if cpu, gpu := least["cpu"], least["nvidia.com/gpu"]; pg.Spec.MinTaskMember != nil || cpu.String() != "3500m" || gpu.String() != "8" {
		t.Errorf("with minAvailable 4: %v, minResources %v", pg.Spec.MinTaskMember, least)
	}

	s.pg = pg
	if out := s.next(); out.UpdatePodGroup != nil {
		t.Errorf("a right PodGroup is updated: %+v", out.UpdatePodGroup)
	}
	s.job.Spec.Tasks[0].Replicas = 2
	if out := s.next(); out.UpdatePodGroup == nil {
		t.Error("the PodGroup is not updated after scaling")
	}
}

func TestPod(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Pending, 1)
	s.job.Labels = map[string]string{scheduling.PodPreemptable: "true"}
	s.job.Annotations = map[string]string{scheduling.JDBMinAvailable: "1"}
	s.job.Spec.Queue = "q"
	s.job.Spec.Tasks[0].Template.Labels = map[string]string{"mine": "yes"}
	s.job.Spec.Tasks[0].Template.Annotations = map[string]string{"note": "kept"}
	s.job.Spec.Tasks[0].Template.Spec.HostNetwork = true
	s.job.Spec.Volumes = []batch.VolumeSpec{{MountPath: "/data", VolumeClaimName: "data"}, {MountPath: "/scratch", VolumeClaim: &corev1.PersistentVolumeClaimSpec{}}}
	s.admit(scheduling.PodGroupInqueue)
	pod := s.next().CreatePods[0].Pod
	wantLabels := map[string]string{"mine": "yes", "volcano.sh/preemptable": "true", "volcano.sh/task-index": "0", "volcano.sh/task-spec": "w",
		"volcano.sh/job-name": "j", "volcano.sh/job-namespace": "ns", "volcano.sh/queue-name": "q"}
	wantAnnotations := map[string]string{"note": "kept", "volcano.sh/jdb-min-available": "1", "scheduling.k8s.io/group-name": "j-uid-1",
		"volcano.sh/task-index": "0", "volcano.sh/task-spec": "w", "volcano.sh/job-name": "j", "volcano.sh/queue-name": "q",
		"volcano.sh/job-version": "0", "volcano.sh/job-retry-count": "0", "volcano.sh/template-uid": "uid-1-w"}
	sameMap(t, "labels", pod.Labels, wantLabels)
	sameMap(t, "annotations", pod.Annotations, wantAnnotations)
	if pod.Name != "j-w-0" || pod.Spec.RestartPolicy != corev1.RestartPolicyOnFailure || pod.Spec.SchedulerName != "volcano" ||
		pod.Spec.DNSPolicy != corev1.DNSClusterFirstWithHostNet || !metav1.IsControlledBy(pod, s.job) {
		t.Errorf("pod %s %+v", pod.Name, pod.Spec)
	}
	if len(pod.Spec.Volumes) != 2 || pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data" ||
		pod.Spec.Volumes[1].PersistentVolumeClaim.ClaimName != "j-pvc-1-uid-1" || pod.Spec.Containers[0].VolumeMounts[1].MountPath != "/scratch" {
		t.Errorf("volumes %+v", pod.Spec.Volumes)
	}
	if claims := Claims(Default(s.job)); len(claims) != 1 || claims[0].Name != "j-pvc-1-uid-1" {
		t.Errorf("claims %+v", claims)
	}
	if s.job.Spec.MinAvailable != 0 || s.job.Spec.Tasks[0].MinAvailable != nil {
		t.Error("the stored spec was changed")
	}
}

func sameMap(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: %s is %q, want %q", what, k, got[k], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d keys, want %d: %v", what, len(got), len(want), got)
	}
}

func TestScaleDownDeletesTheHighestIndexes(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Running, 3)
	for range 3 {
		s.add("w", corev1.PodRunning, 0)
	}
	s.policy(bus.AbortJobAction, bus.PodEvictedEvent)
	s.job.Status = s.next().Status
	s.job.Spec.Tasks[0].Replicas = 1
	out := s.next()
	if len(out.DeletePods) != 2 || out.DeletePods[0].Name != "j-w-1" || out.Status.State.Phase != batch.Running || out.Status.Terminating != 2 {
		t.Fatalf("deletes %d, status %+v", len(out.DeletePods), out.Status)
	}
	s.job.Status, s.pods = out.Status, s.pods[:1]
	if out = s.next(); out.Status.State.Phase != batch.Running || out.Status.Running != 1 {
		t.Fatalf("after scaling: %+v", out.Status)
	}
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	for _, phase := range []batch.JobPhase{batch.Completed, batch.Failed, batch.Terminated} {
		s := newScene(phase, 1)
		if out := s.next(); out.DeleteJob || out.RequeueAfter != 0 {
			t.Errorf("%s without TTL: %v %s", phase, out.DeleteJob, out.RequeueAfter)
		}
		s.job.Spec.TTLSecondsAfterFinished = ptr.To[int32](0)
		if out := s.next(); !out.DeleteJob {
			t.Errorf("%s with TTL 0 is kept", phase)
		}
		s.job.Spec.TTLSecondsAfterFinished = ptr.To[int32](90)
		if out := s.next(); out.DeleteJob || out.RequeueAfter != 30*time.Second {
			t.Errorf("%s after 60 of 90 seconds: %v %s", phase, out.DeleteJob, out.RequeueAfter)
		}
	}
	s := newScene(batch.Aborted, 1)
	s.job.Spec.TTLSecondsAfterFinished = ptr.To[int32](0)
	if s.next().DeleteJob {
		t.Error("an aborted job can be resumed and has no TTL")
	}
}

func TestPolicyTimeout(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Pending, 1)
	s.add("w", corev1.PodPending, 0)
	s.job.Spec.Policies = []batch.LifecyclePolicy{{Action: bus.AbortJobAction, Event: bus.PodPendingEvent, Timeout: &metav1.Duration{Duration: 100 * time.Second}}}
	if out := s.next(); out.Status.State.Phase != batch.Pending || out.RequeueAfter != 40*time.Second {
		t.Fatalf("too early: %s, again in %s", out.Status.State.Phase, out.RequeueAfter)
	}
	s.now = start.Add(100 * time.Second)
	if out := s.next(); out.Status.State.Phase != batch.Aborting {
		t.Fatalf("in time: %s", out.Status.State.Phase)
	}
	s.pods[0].Status.Phase = corev1.PodRunning
	if out := s.next(); out.Status.State.Phase != batch.Running {
		t.Fatalf("a running pod: %s", out.Status.State.Phase)
	}
}

func TestHistoryAndRunningDuration(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Pending, 1)
	pod := s.add("w", corev1.PodRunning, 0)
	s.job.Status = s.next().Status
	s.now = s.now.Add(90 * time.Second)
	setPhase(pod, corev1.PodSucceeded, 0, s.now)
	s.job.Status = s.next().Status
	st := s.job.Status
	if st.State.Phase != batch.Completed || st.RunningDuration.Duration != 90*time.Second || len(st.Conditions) != 2 {
		t.Fatalf("status %+v", st)
	}
	if st.TaskStatusCount["w"].Phase[corev1.PodSucceeded] != 1 || st.Succeeded != 1 || st.MinAvailable != 1 {
		t.Errorf("counts %+v", st)
	}
	before := st
	if out := s.next(); len(out.Notices) != 0 || out.Status.State != before.State || len(out.Status.Conditions) != 2 {
		t.Errorf("a pass without news: %+v", out)
	}
}

func TestTakenNamesAreWaitedFor(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Pending, 2)
	in := Input{Job: s.job, PodGroup: s.pg, Now: s.now, Taken: map[string]string{"j-w-0": "owned by Job j (UID other)"}}
	out := Next(in)
	if len(out.CreatePods) != 1 || out.CreatePods[0].Pod.Name != "j-w-1" || out.RequeueAfter == 0 {
		t.Fatalf("creates %+v", out.CreatePods)
	}
	if st := out.Status.State; st.Reason != reasonTaken || !strings.Contains(st.Message, "j-w-0") || !strings.Contains(st.Message, "UID other") {
		t.Errorf("state %+v", st)
	}
	if len(out.Notices) != 1 || !out.Notices[0].Warning {
		t.Errorf("notices %+v", out.Notices)
	}
}

func TestTroubleIsShownOnce(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Pending, 1)
	in := Input{Job: s.job, PodGroup: s.pg, Now: s.now, Trouble: &Reason{"FailedCreate", "quota"}}
	out := Next(in)
	if out.Status.State.Reason != "FailedCreate" || len(out.Notices) != 1 {
		t.Fatalf("%+v %+v", out.Status.State, out.Notices)
	}
	in.Job = s.job.DeepCopy()
	in.Job.Status = out.Status
	if out = Next(in); len(out.Notices) != 0 {
		t.Errorf("told again: %+v", out.Notices)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	policies := func(p ...batch.LifecyclePolicy) func(*batch.Job) {
		return func(j *batch.Job) { j.Spec.Policies = p }
	}
	tests := map[string]struct {
		edit func(*batch.Job)
		want string // part of the only error, empty for none
	}{
		"the smallest job":  {func(*batch.Job) {}, ""},
		"no task":           {func(j *batch.Job) { j.Spec.Tasks = nil }, "spec.tasks: Required"},
		"duplicate names":   {func(j *batch.Job) { j.Spec.Tasks = append(j.Spec.Tasks, task("w", 1)) }, `spec.tasks[1].name: Duplicate value: "w"`},
		"minAvailable":      {func(j *batch.Job) { j.Spec.MinAvailable = 3 }, "spec.minAvailable: Invalid value: 3: must be between 0 and the replicas of all tasks (2)"},
		"task minAvailable": {func(j *batch.Job) { j.Spec.Tasks[0].MinAvailable = ptr.To[int32](3); j.Spec.MinAvailable = 1 }, "spec.tasks[0].minAvailable: Invalid value: 3: must be between 0 and replicas (2)"},
		"minSuccess":        {func(j *batch.Job) { j.Spec.MinSuccess = ptr.To[int32](3) }, "spec.minSuccess"},
		"no container":      {func(j *batch.Job) { j.Spec.Tasks[0].Template.Spec.Containers = nil }, "spec.tasks[0].template.spec.containers"},
		"dependsOn nobody":  {func(j *batch.Job) { j.Spec.Tasks[0].DependsOn = &batch.DependsOn{Name: []string{"x"}} }, `spec.tasks[0].dependsOn.name[0]: Not found: "x"`},
		"dependsOn itself":  {func(j *batch.Job) { j.Spec.Tasks[0].DependsOn = &batch.DependsOn{Name: []string{"w"}} }, "spec.tasks[0].dependsOn: Invalid value: \"w\": the task depends on itself"},
		"dependsOn in a circle": {func(j *batch.Job) {
			j.Spec.Tasks = append(j.Spec.Tasks, task("x", 1), task("y", 1))
			j.Spec.Tasks[1].DependsOn = &batch.DependsOn{Name: []string{"w", "y"}}
			j.Spec.Tasks[2].DependsOn = &batch.DependsOn{Name: []string{"x"}}
		}, "spec.tasks[1].dependsOn"},
		"iteration": {func(j *batch.Job) { j.Spec.Tasks[0].DependsOn = &batch.DependsOn{Iteration: "some"} }, "spec.tasks[0].dependsOn.iteration: Unsupported"},
		"partitions": {func(j *batch.Job) {
			j.Spec.Tasks[0].PartitionPolicy = &batch.PartitionPolicySpec{TotalPartitions: 2, PartitionSize: 2}
		}, `spec.tasks[0].partitionPolicy: Invalid value: "2 x 2": totalPartitions x partitionSize must be replicas (2)`},
		"minPartitions": {func(j *batch.Job) {
			j.Spec.Tasks[0].PartitionPolicy = &batch.PartitionPolicySpec{TotalPartitions: 2, PartitionSize: 1, MinPartitions: 3}
		}, "spec.tasks[0].partitionPolicy.minPartitions"},
		"topologyPolicy":    {func(j *batch.Job) { j.Spec.Tasks[0].TopologyPolicy = batch.Restricted }, "whole number of CPUs for topologyPolicy restricted"},
		"no such policy":    {func(j *batch.Job) { j.Spec.Tasks[0].TopologyPolicy = "tight" }, "spec.tasks[0].topologyPolicy: Unsupported"},
		"plugin":            {func(j *batch.Job) { j.Spec.Plugins = map[string][]string{"nope": {"a"}} }, "spec.plugins[nope]: Invalid value"},
		"name too long":     {func(j *batch.Job) { j.Name = strings.Repeat("x", 64) }, "metadata.name"},
		"too many replicas": {func(j *batch.Job) { j.Spec.Tasks[0].Replicas = 200_000; j.Spec.MinAvailable = 1 }, "at most 100000"},
		"volume":            {func(j *batch.Job) { j.Spec.Volumes = []batch.VolumeSpec{{MountPath: "/x"}} }, "spec.volumes[0].volumeClaimName: Required"},
		"both tiers": {func(j *batch.Job) {
			j.Spec.NetworkTopology = &batch.NetworkTopologySpec{HighestTierAllowed: ptr.To(1), HighestTierName: "a"}
		}, "spec.networkTopology.highestTierName"},
		"event and exit code": {policies(batch.LifecyclePolicy{Action: bus.AbortJobAction, Event: bus.PodFailedEvent, ExitCode: ptr.To[int32](1)}), "spec.policies[0].exitCode"},
		"neither":             {policies(batch.LifecyclePolicy{Action: bus.AbortJobAction}), "spec.policies[0].event: Required"},
		"exit code 0":         {policies(batch.LifecyclePolicy{Action: bus.AbortJobAction, ExitCode: ptr.To[int32](0)}), "must not be 0"},
		"duplicate event":     {policies(batch.LifecyclePolicy{Action: bus.AbortJobAction, Event: bus.PodFailedEvent}, batch.LifecyclePolicy{Action: bus.RestartJobAction, Events: []bus.Event{bus.PodFailedEvent}}), "spec.policies[1].event: Duplicate"},
		"duplicate code":      {policies(batch.LifecyclePolicy{Action: bus.AbortJobAction, ExitCode: ptr.To[int32](1)}, batch.LifecyclePolicy{Action: bus.RestartJobAction, ExitCode: ptr.To[int32](1)}), "spec.policies[1].exitCode: Duplicate"},
		"any is alone":        {policies(batch.LifecyclePolicy{Action: bus.AbortJobAction, Events: []bus.Event{bus.AnyEvent, bus.PodFailedEvent}}), "must be the only event"},
		"internal action":     {policies(batch.LifecyclePolicy{Action: bus.SyncJobAction, Event: bus.PodFailedEvent}), "spec.policies[0].action"},
		"internal event":      {policies(batch.LifecyclePolicy{Action: bus.AbortJobAction, Event: bus.OutOfSyncEvent}), "spec.policies[0].event: Unsupported"},
		"every action of the API": {policies(
			batch.LifecyclePolicy{Action: bus.AbortJobAction, Event: bus.PodFailedEvent, Timeout: &metav1.Duration{Duration: 1}},
			batch.LifecyclePolicy{Action: bus.RestartJobAction, Event: bus.PodEvictedEvent, Timeout: &metav1.Duration{Duration: 1}},
			batch.LifecyclePolicy{Action: bus.RestartTaskAction, Event: bus.PodPendingEvent, Timeout: &metav1.Duration{Duration: 1}},
			batch.LifecyclePolicy{Action: bus.RestartPodAction, Event: bus.JobUnknownEvent, Timeout: &metav1.Duration{Duration: 1}},
			batch.LifecyclePolicy{Action: bus.RestartPartitionAction, Event: bus.TaskCompletedEvent},
			batch.LifecyclePolicy{Action: bus.TerminateJobAction, Event: bus.TaskFailedEvent, Timeout: &metav1.Duration{Duration: 1}},
			batch.LifecyclePolicy{Action: bus.CompleteJobAction, Event: bus.JobUpdatedEvent},
			batch.LifecyclePolicy{Action: bus.ResumeJobAction, ExitCode: ptr.To[int32](3)}), ""},
		"PodPending no timeout": {policies(batch.LifecyclePolicy{Action: bus.AbortJobAction, Event: bus.PodPendingEvent}), "spec.policies[0].timeout: Required"},
		"timeout of JobUpdated": {policies(batch.LifecyclePolicy{Action: bus.AbortJobAction, Event: bus.JobUpdatedEvent, Timeout: &metav1.Duration{Duration: 1}}), "spec.policies[0].timeout"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := newScene("", 2).job
			test.edit(job)
			errs := Validate(Default(job), func(string, []string) error { return errors.New("no such job plugin") })
			if test.want == "" {
				if len(errs) > 0 {
					t.Fatalf("errors: %v", errs)
				}
				return
			}
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), test.want) {
				t.Fatalf("errors %v, want one with %q", errs, test.want)
			}
			out := Next(Input{Job: job, Problems: errs, Now: start})
			if st := out.Status.State; st.Phase != batch.Pending || st.Reason != reasonInvalid || !strings.Contains(st.Message, test.want) ||
				out.CreatePodGroup != nil || len(out.CreatePods) != 0 || len(out.Notices) != 1 || !out.Notices[0].Warning {
				t.Errorf("state %+v, notices %+v", st, out.Notices)
			}
		})
	}
}

func TestNextIsTheSameForAnyOrderOfPods(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Running, 3)
	s.add("w", corev1.PodFailed, 3)
	s.add("w", corev1.PodFailed, 4)
	s.add("w", corev1.PodRunning, 0)
	s.job.Spec.Policies = []batch.LifecyclePolicy{
		{Action: bus.AbortJobAction, ExitCode: ptr.To[int32](4)}, {Action: bus.TerminateJobAction, ExitCode: ptr.To[int32](3)}}
	first := s.next()
	slices.Reverse(s.pods)
	if second := s.next(); second.Status.State != first.Status.State || first.Status.State.Phase != batch.Terminating {
		t.Errorf("%+v and %+v", first.Status.State, second.Status.State)
	}
}
