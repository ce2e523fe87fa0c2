package podstatus_test

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
)

// The user owns the status file: whatever is in it must give a status that the
// API server takes.
func TestHostileFiles(t *testing.T) {
	for _, ip := range []string{"", "x", "0.0.0.0", "fe80::1%eth0", "1.2.3.4\n", "999.1.1.1"} {
		f := file(manifest.PhaseRunning, 0)
		f.HostIP = ip
		if s := podstatus.Status(newPod(), podstatus.Evidence{Job: job(backends.StateRunning), File: f}, start); s.PodIP != "" || len(s.HostIPs) > 0 {
			t.Errorf("address %q became %q", ip, s.PodIP)
		}
	}
	huge := make([]byte, 1<<20)
	for i := range huge {
		huge[i] = 'x'
	}
	f := file(manifest.PhaseFailed, 1)
	f.Message, f.Reason = string(huge), string(huge)
	f.Containers[0].State.Terminated.Message = string(huge)
	f.Containers[0].RestartCount = -5
	f.Containers = append(f.Containers, manifest.Container{Name: "not-in-spec"})
	s := podstatus.Status(newPod(), podstatus.Evidence{Job: job(backends.StateFailed), File: f, BatchLogTail: string(huge)}, late)
	body, err := json.Marshal(s)
	if err != nil || len(body) > 16<<10 {
		t.Errorf("the status has %d bytes, %v", len(body), err)
	}
	if len(s.ContainerStatuses) != 1 || s.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("containers are %+v", s.ContainerStatuses)
	}
}

// TestTransitions drives pods through random evidence and holds what the API
// server validates: no container leaves a terminated state against the restart
// policy, no phase changes back, and what is written once is not written again.
func TestTransitions(t *testing.T) {
	states := []backends.State{
		backends.StatePending, backends.StateRunning, backends.StateSuspended, backends.StateCompleting, backends.StateUnknown,
		backends.StateCompleted, backends.StateFailed, backends.StateCancelled, backends.StateTimeout, backends.StateOutOfMemory,
		backends.StateNodeFail, backends.StatePreempted,
	}
	rapid.Check(t, func(t *rapid.T) {
		pod := newPod()
		pod.Spec.RestartPolicy = rapid.SampledFrom([]corev1.RestartPolicy{corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure, corev1.RestartPolicyAlways}).Draw(t, "policy")
		pod.Spec.InitContainers = []corev1.Container{{Name: "init"}}
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "second"})
		now := t0
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "seconds")) * time.Second)
			ev := podstatus.Evidence{Lost: rapid.IntRange(0, 20).Draw(t, "lost") == 0}
			if rapid.Bool().Draw(t, "has job") {
				j := job(rapid.SampledFrom(states).Draw(t, "state"))
				j.Restarts = rapid.IntRange(0, 2).Draw(t, "restarts")
				j.ExitCode, j.Signal = rapid.IntRange(-1, 300).Draw(t, "code"), rapid.IntRange(-1, 70).Draw(t, "signal")
				if j.State.Terminal() {
					j.Ended = now.Add(-time.Duration(rapid.IntRange(0, 60).Draw(t, "since")) * time.Second)
				}
				ev.Job = j
			}
			if rapid.Bool().Draw(t, "has file") {
				ev.File = &manifest.Status{
					UID: "u0", Restart: rapid.IntRange(0, 2).Draw(t, "file restart"), HostIP: rapid.SampledFrom([]string{"", "10.0.0.1", "::1", "bad"}).Draw(t, "ip"),
					Phase:      rapid.SampledFrom([]manifest.Phase{manifest.PhaseStarting, manifest.PhaseRunning, manifest.PhaseSucceeded, manifest.PhaseFailed, "odd"}).Draw(t, "phase"),
					Message:    rapid.String().Draw(t, "message"),
					FinishedAt: metav1.NewTime(now),
				}
				ev.File.InitContainers = []manifest.Container{anyContainer(t, "init", now)}
				ev.File.Containers = []manifest.Container{anyContainer(t, "main", now), anyContainer(t, "second", now)}
			}
			if rapid.IntRange(0, 4).Draw(t, "end") == 0 {
				ev.End = &manifest.End{ExitCode: rapid.IntRange(-3, 400).Draw(t, "end code"), Restart: rapid.IntRange(0, 2).Draw(t, "end restart")}
			}
			next := podstatus.Status(pod, ev, now)
			check(t, pod, next)
			patch, changed, err := podstatus.Patch(pod, next)
			if err != nil || changed != (len(patch) > 0) {
				t.Fatalf("patch: %v", err)
			}
			pod.Status = next
			if again := podstatus.Status(pod, ev, now); !same(t, next, again) {
				t.Fatalf("the same evidence twice:\n%s\n%s", line(next), line(again))
			}
		}
	})
}

func anyContainer(t *rapid.T, name string, now time.Time) manifest.Container {
	c := manifest.Container{Name: name, RestartCount: int32(rapid.IntRange(-1, 3).Draw(t, "count")), Ready: rapid.Bool().Draw(t, "ready"), Started: rapid.Bool().Draw(t, "started")}
	switch rapid.IntRange(0, 3).Draw(t, "container state") {
	case 0:
		c.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}
	case 1:
		c.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now)}
	case 2:
		c.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: int32(rapid.IntRange(0, 2).Draw(t, "exit")), FinishedAt: metav1.NewTime(now)}
	}
	return c
}

func same(t *rapid.T, a, b corev1.PodStatus) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	if errX != nil || errY != nil {
		t.Fatal(errX, errY)
	}
	return string(x) == string(y)
}

func check(t *rapid.T, pod *corev1.Pod, next corev1.PodStatus) {
	old := pod.Status
	if (old.Phase == corev1.PodSucceeded || old.Phase == corev1.PodFailed) && next.Phase != old.Phase {
		t.Fatalf("phase %s became %s", old.Phase, next.Phase)
	}
	if old.Phase == corev1.PodRunning && next.Phase == corev1.PodPending {
		t.Fatal("a running pod became pending")
	}
	switch next.Phase {
	case corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed:
	default:
		t.Fatalf("phase %q", next.Phase)
	}
	for _, o := range old.ContainerStatuses {
		for _, n := range next.ContainerStatuses {
			if o.Name != n.Name {
				continue
			}
			if n.RestartCount < o.RestartCount {
				t.Fatalf("restart count of %s went from %d to %d", n.Name, o.RestartCount, n.RestartCount)
			}
			if o.State.Terminated == nil || n.State.Terminated != nil || pod.Spec.RestartPolicy == corev1.RestartPolicyAlways ||
				(pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && o.State.Terminated.ExitCode != 0) {
				continue
			}
			t.Fatalf("container %s left its terminated state under policy %s", n.Name, pod.Spec.RestartPolicy)
		}
	}
	if next.PodIP != "" {
		if _, err := netip.ParseAddr(next.PodIP); err != nil {
			t.Fatal(err)
		}
	}
	if !utf8.ValidString(next.Message) {
		t.Fatalf("message %q", next.Message)
	}
	if next.QOSClass != old.QOSClass {
		t.Fatal("the QoS class changed")
	}
}
