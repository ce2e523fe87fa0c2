package machine

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// The PodGroups of Volcano's controllers carry no version. That of a job which was
// restarted or resumed before is not deleted under its pods, and gets the version;
// one that a kill should have taken is.
func TestTakingOverAPodGroup(t *testing.T) {
	t.Parallel()
	const R, S, F = corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed
	for name, tt := range map[string]struct {
		phase   batch.JobPhase
		version int32
		pods    []corev1.PodPhase
		old     bool // the pods are of the version before
		action  bus.Action
		deleted bool
		stamped int32 // -1 for not at all
		want    batch.JobPhase
	}{
		"running, never restarted":              {phase: batch.Running, pods: []corev1.PodPhase{R, R}, stamped: 0, want: batch.Running},
		"running, restarted once":               {phase: batch.Running, version: 1, pods: []corev1.PodPhase{R, R}, stamped: 1, want: batch.Running},
		"running, restarted often":              {phase: batch.Running, version: 7, pods: []corev1.PodPhase{R, R}, stamped: 7, want: batch.Running},
		"pending, resumed":                      {phase: batch.Pending, version: 2, pods: []corev1.PodPhase{corev1.PodPending, corev1.PodPending}, stamped: 2, want: batch.Pending},
		"it completes":                          {phase: batch.Running, version: 1, pods: []corev1.PodPhase{S, S}, stamped: 1, want: batch.Completed},
		"it fails":                              {phase: batch.Running, version: 1, pods: []corev1.PodPhase{F, S}, stamped: 1, want: batch.Failed},
		"completed before":                      {phase: batch.Completed, version: 1, pods: []corev1.PodPhase{S, S}, stamped: -1, want: batch.Completed},
		"failed before":                         {phase: batch.Failed, version: 3, pods: []corev1.PodPhase{F, S}, stamped: -1, want: batch.Failed},
		"it restarts at once":                   {phase: batch.Running, version: 1, pods: []corev1.PodPhase{R, F}, action: bus.RestartJobAction, deleted: true, stamped: 1, want: batch.Restarting},
		"it is aborted at once":                 {phase: batch.Running, version: 1, pods: []corev1.PodPhase{R, F}, action: bus.AbortJobAction, deleted: true, stamped: 1, want: batch.Aborting},
		"a part of it restarts at once":         {phase: batch.Running, version: 1, pods: []corev1.PodPhase{R, F}, action: bus.RestartPodAction, stamped: 1, want: batch.Restarting},
		"stopped while it restarted":            {phase: batch.Restarting, version: 2, old: true, pods: []corev1.PodPhase{R, R}, deleted: true, stamped: 1, want: batch.Restarting},
		"stopped while a part of it restarted":  {phase: batch.Restarting, version: 2, pods: []corev1.PodPhase{R}, stamped: 2, want: batch.Restarting},
		"stopped while it was aborted":          {phase: batch.Aborting, version: 1, old: true, pods: []corev1.PodPhase{R, R}, deleted: true, stamped: 0, want: batch.Aborting},
		"suspended, and the PodGroup left over": {phase: batch.Aborted, version: 1, deleted: true, stamped: 0, want: batch.Aborted},
		"terminated, and left over":             {phase: batch.Terminated, version: 1, deleted: true, stamped: -1, want: batch.Terminated},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(tt.phase, 2)
			s.job.Status.Version = tt.version
			if tt.old {
				s.job.Status.Version--
			}
			for _, phase := range tt.pods {
				s.add("w", phase, map[corev1.PodPhase]int32{F: 1}[phase])
			}
			s.job.Status.Version = tt.version
			if tt.action != "" {
				s.policy(tt.action, bus.PodFailedEvent)
			}
			if len(tt.pods) == 1 { // the other one is still ending
				terminating(s.add("w", R, 0))
			}
			s.admit(scheduling.PodGroupRunning)
			delete(s.pg.Annotations, batch.JobVersion)
			out := s.next()
			if out.Status.State.Phase != tt.want || out.DeletePodGroup != tt.deleted || out.CreatePodGroup != nil || len(out.CreatePods) > 0 {
				t.Errorf("%+v, deletes the PodGroup: %v, creates %d pods", out.Status.State, out.DeletePodGroup, len(out.CreatePods))
			}
			switch {
			case tt.stamped < 0 && out.StampPodGroup != nil:
				t.Errorf("stamps %d on what is over", *out.StampPodGroup)
			case tt.stamped >= 0 && (out.StampPodGroup == nil || *out.StampPodGroup != tt.stamped):
				t.Errorf("stamps %v, want %d", out.StampPodGroup, tt.stamped)
			}
			if _, changed := s.pg.Annotations[batch.JobVersion]; changed {
				t.Error("the object that was given was changed")
			}
			if tt.want == tt.phase && !tt.deleted && len(out.DeletePods) > 0 {
				t.Errorf("deletes %s", names(out.DeletePods))
			}
		})
	}
}
