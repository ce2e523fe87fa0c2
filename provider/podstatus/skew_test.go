package podstatus_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
)

// shifted is the file of a member that was killed before the end of its job, as a
// host writes it whose clock differs from the batch system's.
func shifted(skew, late, before time.Duration) *manifest.Status {
	f := file(manifest.PhaseFailed, 143)
	f.StartedAt = metav1.NewTime(start.Add(late + skew))
	f.FinishedAt = metav1.NewTime(ended.Add(skew - before))
	f.Containers[0].State.Terminated.FinishedAt = f.FinishedAt
	return f
}

// TestCauseUnderSkew: a member that its job's end killed has the job's cause,
// whatever the clocks of host and controller are; one that was killed long before
// has not.
func TestCauseUnderSkew(t *testing.T) {
	causes := map[backends.State]string{
		backends.StateTimeout: podstatus.ReasonDeadline, backends.StatePreempted: podstatus.ReasonPreempted,
		backends.StateOutOfMemory: podstatus.ReasonOOM, backends.StateCancelled: podstatus.ReasonCancelled,
		backends.StateNodeFail: podstatus.ReasonNodeLost,
	}
	for name, tc := range map[string]struct {
		skew, late, before time.Duration
		taken              bool
	}{
		"the same clock":                             {0, 0, 0, true},
		"an hour ahead":                              {time.Hour, 0, 0, true},
		"an hour behind":                             {-time.Hour, 0, 0, true},
		"an hour ahead, started late":                {time.Hour, time.Minute, 20 * time.Second, true},
		"the same clock, started very late":          {0, 30 * time.Minute, 0, true},
		"killed half an hour before":                 {0, 0, 30 * time.Minute, false},
		"killed half an hour before, an hour ahead":  {time.Hour, 0, 30 * time.Minute, false},
		"killed half an hour before, an hour behind": {-time.Hour, 0, 30 * time.Minute, false},
		"killed at its start, ten minutes ahead":     {10 * time.Minute, 0, time.Hour, false},
		"killed at its start, an hour behind":        {-time.Hour, 0, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			for state, reason := range causes {
				if !tc.taken {
					reason = ""
				}
				s := podstatus.Status(newPod(), podstatus.Evidence{Job: job(state), File: shifted(tc.skew, tc.late, tc.before)}, late)
				if s.Phase != corev1.PodFailed || s.Reason != reason || s.ContainerStatuses[0].State.Terminated.ExitCode != 143 {
					t.Errorf("job %s: %s, want reason %q", state, line(s), reason)
				}
			}
		})
	}
}

// TestGraceUnderSkew: what is waited for is counted from when it was seen, where
// the time that it tells is of another clock.
func TestGraceUnderSkew(t *testing.T) {
	running := podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}
	for name, ev := range map[string]podstatus.Evidence{
		"killed, to be requeued": {Job: job(backends.StateRunning), File: file(manifest.PhaseFailed, 143)},
		"the file is to come":    {Job: job(backends.StateFailed), File: file(manifest.PhaseRunning, 0)},
	} {
		for _, skew := range []time.Duration{0, time.Hour, -time.Hour} {
			seen := ended.Add(skew)
			ev.FileEndSeen, ev.JobEndSeen = seen, seen
			for after, over := range map[time.Duration]bool{0: false, 10 * time.Second: false, 16 * time.Second: true} {
				pod := newPod()
				pod.Status = podstatus.Status(pod, running, start)
				s := podstatus.Status(pod, ev, seen.Add(after))
				if got := s.Phase == corev1.PodFailed; got != over {
					t.Errorf("%s, clocks %s apart: ended %t %s after it was seen: %s", name, skew, got, after, line(s))
				}
			}
		}
	}
}
