package machine

import (
	"fmt"
	"maps"
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

// What a job hands on, row by row of CONTRACT.md: where something is written in the
// job, and where it is found.
func TestHandedOn(t *testing.T) {
	t.Parallel()
	mark := func(on map[string]string, key string) string { return key + "=" + on[key] }
	all := func(on map[string]string, keys []string) string {
		var out []string
		for _, k := range keys {
			out = append(out, mark(on, k))
		}
		return strings.Join(out, " ")
	}
	carriedOnes := map[string]string{}
	for _, key := range carried() {
		carriedOnes[key] = "v"
	}
	const everyCarried = "volcano.sh/preemptable=v volcano.sh/cooldown-time=v volcano.sh/revocable-zone=v volcano.sh/jdb-min-available=v volcano.sh/jdb-max-unavailable=v"
	for name, tt := range map[string]struct {
		edit func(*batch.Job)
		get  func(*corev1.Pod, *scheduling.PodGroup) string
		want string
	}{
		"topologyPolicy": {func(j *batch.Job) {
			j.Spec.Tasks[0].TopologyPolicy = batch.SingleNumaNode
			j.Spec.Tasks[0].Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("2")}
		}, func(p *corev1.Pod, _ *scheduling.PodGroup) string {
			return mark(p.Annotations, scheduling.NumaPolicyKey)
		},
			"volcano.sh/numa-topology-policy=single-numa-node"},
		"networkTopology, hard by default": {func(j *batch.Job) { j.Spec.NetworkTopology = &batch.NetworkTopologySpec{HighestTierAllowed: ptr.To(2)} },
			topologyOf, "hard 2 "},
		"networkTopology, soft and by name": {func(j *batch.Job) {
			j.Spec.NetworkTopology = &batch.NetworkTopologySpec{Mode: batch.SoftNetworkTopologyMode, HighestTierName: "rack"}
		}, topologyOf, "soft - rack"},
		"no networkTopology": {func(*batch.Job) {}, topologyOf, "none"},
		"runningEstimate": {func(j *batch.Job) { j.Spec.RunningEstimate = &metav1.Duration{Duration: 90 * time.Minute} },
			func(_ *corev1.Pod, g *scheduling.PodGroup) string {
				return mark(g.Annotations, "isthmus.sh/running-estimate")
			},
			"isthmus.sh/running-estimate=1h30m0s"},
		"priorityClassName": {func(j *batch.Job) { j.Spec.PriorityClassName = "high" },
			func(p *corev1.Pod, g *scheduling.PodGroup) string {
				return p.Spec.PriorityClassName + " " + g.Spec.PriorityClassName
			}, "high high"},
		"priorityClassName of a template": {func(j *batch.Job) {
			j.Spec.PriorityClassName, j.Spec.Tasks[0].Template.Spec.PriorityClassName = "high", "low"
		}, func(p *corev1.Pod, g *scheduling.PodGroup) string {
			return p.Spec.PriorityClassName + " " + g.Spec.PriorityClassName
		}, "low high"},
		"schedulerName": {func(j *batch.Job) { j.Spec.SchedulerName = "mine" }, func(p *corev1.Pod, _ *scheduling.PodGroup) string { return p.Spec.SchedulerName }, "mine"},
		"carried annotations on pods": {func(j *batch.Job) { j.Annotations = maps.Clone(carriedOnes) },
			func(p *corev1.Pod, _ *scheduling.PodGroup) string { return all(p.Annotations, carried()) }, everyCarried},
		"carried annotations on the PodGroup": {func(j *batch.Job) { j.Annotations = maps.Clone(carriedOnes) },
			func(_ *corev1.Pod, g *scheduling.PodGroup) string { return all(g.Annotations, carried()) }, everyCarried},
		"carried labels on pods": {func(j *batch.Job) { j.Labels = maps.Clone(carriedOnes) },
			func(p *corev1.Pod, _ *scheduling.PodGroup) string { return all(p.Labels, carried()) }, everyCarried},
		"job-forwarding": {func(j *batch.Job) { j.Annotations = map[string]string{batch.JobForwardingKey: "true"} },
			func(p *corev1.Pod, g *scheduling.PodGroup) string {
				return mark(p.Annotations, batch.JobForwardingKey) + " " + mark(p.Labels, batch.JobForwardingKey) + " " + mark(g.Annotations, batch.JobForwardingKey)
			}, "volcano.sh/job-forwarding=true volcano.sh/job-forwarding=true volcano.sh/job-forwarding=true"},
		"queue-allocation-gate": {func(j *batch.Job) {
			j.Spec.Tasks[0].Template.Annotations = map[string]string{"scheduling.volcano.sh/queue-allocation-gate": "true"}
			j.Spec.Tasks[0].Template.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "mine"}}
		}, func(p *corev1.Pod, _ *scheduling.PodGroup) string { return fmt.Sprint(p.Spec.SchedulingGates) },
			"[{mine} {scheduling.volcano.sh/queue-allocation-gate}]"},
		"partition-id": {func(j *batch.Job) {
			j.Spec.Tasks[0].PartitionPolicy = &batch.PartitionPolicySpec{TotalPartitions: 2, PartitionSize: 1}
		}, func(p *corev1.Pod, _ *scheduling.PodGroup) string {
			return mark(p.Labels, batch.TaskPartitionID) + " " + mark(p.Annotations, batch.TaskPartitionID)
		}, "volcano.sh/partition-id=0 volcano.sh/partition-id=0"},
		"version and retries": {func(j *batch.Job) { j.Status.Version, j.Status.RetryCount = 3, 2 }, func(p *corev1.Pod, g *scheduling.PodGroup) string {
			return mark(p.Annotations, batch.JobVersion) + " " + mark(p.Annotations, batch.JobRetryCountKey) + " " + mark(g.Annotations, batch.JobVersion)
		}, "volcano.sh/job-version=3 volcano.sh/job-retry-count=2 volcano.sh/job-version=3"},
		"a claim of its own": {func(j *batch.Job) {
			j.Spec.Volumes = []batch.VolumeSpec{{MountPath: "/a", VolumeClaimName: "data"}, {MountPath: "/b", VolumeClaim: &corev1.PersistentVolumeClaimSpec{}}}
		}, func(p *corev1.Pod, _ *scheduling.PodGroup) string {
			return p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName + " " + p.Spec.Volumes[1].PersistentVolumeClaim.ClaimName + " " + p.Spec.Containers[0].VolumeMounts[1].MountPath
		}, "data j-pvc-1-uid-1 /b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(batch.Pending, 2)
			tt.edit(s.job)
			s.admit(scheduling.PodGroupInqueue)
			out := s.next()
			if len(out.CreatePods) != 2 {
				t.Fatalf("%d pods, %+v", len(out.CreatePods), out.Status.State)
			}
			if got := tt.get(out.CreatePods[0].Pod, s.pg); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func topologyOf(_ *corev1.Pod, g *scheduling.PodGroup) string {
	nt := g.Spec.NetworkTopology
	if nt == nil {
		return "none"
	}
	tier := "-"
	if nt.HighestTierAllowed != nil {
		tier = fmt.Sprint(*nt.HighestTierAllowed)
	}
	return fmt.Sprintf("%s %s %s", nt.Mode, tier, nt.HighestTierName)
}

// Every count of the status is what the pods say, and they add up.
func TestCounts(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Running, 6)
	for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown} {
		s.add("w", phase, 1)
	}
	terminating(s.pods[2])
	s.job.Spec.MinAvailable = 1
	st := s.next().Status
	if st.Pending != 1 || st.Running != 1 || st.Succeeded != 1 || st.Failed != 1 || st.Unknown != 1 || st.Terminating != 1 || st.MinAvailable != 1 {
		t.Errorf("%+v", st)
	}
	want := map[corev1.PodPhase]int32{corev1.PodPending: 1, corev1.PodRunning: 1, corev1.PodSucceeded: 1, corev1.PodFailed: 1, corev1.PodUnknown: 1}
	if got := st.TaskStatusCount["w"].Phase; !maps.Equal(got, want) {
		t.Errorf("taskStatusCount %v, want %v", got, want)
	}
}

// Resuming a job uses up a retry: the last one fails it.
func TestResumeUsesUpARetry(t *testing.T) {
	t.Parallel()
	s := newScene(batch.Aborted, 1)
	s.job.Spec.MaxRetry, s.job.Status.RetryCount = 2, 1
	s.commands = []*bus.Command{command(bus.ResumeJobAction, "1")}
	s.job.Status = s.next().Status
	if st := s.job.Status; st.State.Phase != batch.Restarting || st.RetryCount != 2 {
		t.Fatalf("%+v", st)
	}
	s.commands, s.pg = nil, nil
	if st := s.next().Status; st.State.Phase != batch.Failed || st.State.Reason != reasonTooMuch {
		t.Errorf("%+v", st)
	}
}

// From each phase to its last one, only when nothing of the job runs or ends any more,
// and with what ended by itself kept.
func TestOnTheWayOut(t *testing.T) {
	t.Parallel()
	for phase, last := range map[batch.JobPhase]batch.JobPhase{batch.Aborting: batch.Aborted, batch.Completing: batch.Completed, batch.Terminating: batch.Terminated} {
		for _, open := range []string{"pending", "running", "terminating"} {
			s := newScene(phase, 3)
			kept := []*corev1.Pod{s.add("w", corev1.PodSucceeded, 0), s.add("w", corev1.PodFailed, 1)}
			third := s.add("w", map[string]corev1.PodPhase{"pending": corev1.PodPending, "running": corev1.PodRunning, "terminating": corev1.PodRunning}[open], 0)
			if open == "terminating" {
				terminating(third)
			}
			s.job.Status.Version = 1
			out := s.next()
			if out.Status.State.Phase != phase || out.Status.Terminating != 1 || slices.ContainsFunc(out.DeletePods, func(p *corev1.Pod) bool { return slices.Contains(kept, p) }) {
				t.Errorf("%s with a pod %s: %+v, deletes %q", phase, open, out.Status, names(out.DeletePods))
			}
			s.pods = s.pods[:2]
			if out = s.next(); out.Status.State.Phase != last || len(out.DeletePods) != 0 || out.Status.Succeeded != 1 || out.Status.Failed != 1 {
				t.Errorf("%s without it: %+v, deletes %q", phase, out.Status, names(out.DeletePods))
			}
		}
	}
}
