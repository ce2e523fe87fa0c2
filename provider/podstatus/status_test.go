package podstatus_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
)

var update = flag.Bool("update", false, "write testdata/table.golden anew")

var (
	t0    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) // job submitted
	start = t0.Add(time.Hour)
	ended = t0.Add(2 * time.Hour)
	late  = ended.Add(time.Hour) // beyond every grace
)

func newPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "w-0", Namespace: "team", UID: "u0", Generation: 2},
		Spec: corev1.PodSpec{
			NodeName: "c-gpu", RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{Name: "main", Image: "img"}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodPending, QOSClass: corev1.PodQOSGuaranteed,
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(t0.Add(-time.Minute))},
				{Type: "example.com/Foreign", Status: corev1.ConditionTrue, Reason: "Theirs"},
			},
		},
	}
}

func job(state backends.State) *backends.Job {
	j := &backends.Job{ID: "12", Key: "k", Partition: "gpu", State: state, Submitted: t0, Hosts: []string{"n1", "n2"}, Started: start}
	if state == backends.StatePending {
		j.Started, j.Hosts, j.Reason = time.Time{}, nil, "Resources"
	}
	if state.Terminal() {
		j.Ended = ended
	}
	return j
}

func file(phase manifest.Phase, exit int32) *manifest.Status {
	f := &manifest.Status{
		Version: 1, Seq: 3, UID: "u0", Host: "n1", HostIP: "10.0.0.1", Phase: phase, StartedAt: metav1.NewTime(start),
		Containers: []manifest.Container{{Name: "main", ContainerID: "host://u0/main/0"}},
	}
	c := &f.Containers[0]
	switch phase {
	case manifest.PhaseRunning:
		c.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(start)}
		c.Ready, c.Started = true, true
	case manifest.PhaseSucceeded, manifest.PhaseFailed:
		f.FinishedAt = metav1.NewTime(ended)
		reason := "Completed"
		if exit != 0 {
			reason = "Error"
		}
		c.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: exit, Reason: reason, StartedAt: metav1.NewTime(start), FinishedAt: metav1.NewTime(ended), ContainerID: "host://u0/main/0"}
	}
	return f
}

// line sums up a status.
func line(s corev1.PodStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", s.Phase)
	if s.Reason != "" {
		fmt.Fprintf(&b, "(%s)", s.Reason)
	}
	for _, c := range s.ContainerStatuses {
		switch {
		case c.State.Waiting != nil:
			fmt.Fprintf(&b, " waiting=%s", c.State.Waiting.Reason)
		case c.State.Running != nil:
			fmt.Fprintf(&b, " running ready=%v", c.Ready)
		case c.State.Terminated != nil:
			fmt.Fprintf(&b, " exit=%d:%s", c.State.Terminated.ExitCode, c.State.Terminated.Reason)
		}
		if l := c.LastTerminationState.Terminated; l != nil {
			fmt.Fprintf(&b, " last=%d:%s", l.ExitCode, l.Reason)
		}
		if c.RestartCount > 0 {
			fmt.Fprintf(&b, " restarts=%d", c.RestartCount)
		}
	}
	for _, c := range s.Conditions {
		switch c.Type {
		case wellknown.PodBatchJob:
			fmt.Fprintf(&b, " job=%s:%s", c.Status, c.Reason)
		case corev1.PodReady:
			fmt.Fprintf(&b, " ready=%s", c.Status)
		case corev1.DisruptionTarget:
			fmt.Fprintf(&b, " disrupted=%s", c.Reason)
		}
	}
	return b.String()
}

// TestTable holds every job state against every kind of file, for a pod that
// waited and for one that ran, in a golden file to be read by people.
func TestTable(t *testing.T) {
	states := []backends.State{
		"", backends.StatePending, backends.StateRunning, backends.StateSuspended, backends.StateCompleting,
		backends.StateCompleted, backends.StateFailed, backends.StateCancelled, backends.StateTimeout,
		backends.StateOutOfMemory, backends.StateNodeFail, backends.StatePreempted, backends.StateUnknown,
	}
	files := []struct {
		name string
		f    *manifest.Status
	}{
		{"no file", nil}, {"starting", file(manifest.PhaseStarting, 0)}, {"running", file(manifest.PhaseRunning, 0)},
		{"succeeded", file(manifest.PhaseSucceeded, 0)}, {"failed 3", file(manifest.PhaseFailed, 3)}, {"killed", file(manifest.PhaseFailed, 143)},
	}
	var got strings.Builder
	for _, before := range []string{"waited", "ran"} {
		for _, state := range states {
			for _, f := range files {
				pod := newPod()
				if before == "ran" {
					pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}, start)
				}
				ev := podstatus.Evidence{File: f.f}
				name := "absent"
				if state != "" {
					ev.Job, name = job(state), string(state)
				}
				s := podstatus.Status(pod, ev, late)
				fmt.Fprintf(&got, "%-7s %-11s %-9s -> %s\n", before, name, f.name, line(s))
				if again := podstatus.Status(&corev1.Pod{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec, Status: s}, ev, late.Add(time.Minute)); line(again) != line(s) {
					t.Errorf("%s %s %s: a second look gives %s, the first gave %s", before, name, f.name, line(again), line(s))
				}
			}
		}
	}
	path := filepath.Join("testdata", "table.golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		g, w := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
		for i := range min(len(g), len(w)) {
			if g[i] != w[i] {
				t.Errorf("line %d\n got %s\nwant %s", i+1, g[i], w[i])
			}
		}
		t.Fatal("the table differs from testdata/table.golden; if that is meant, run with -update")
	}
}

func TestStatus(t *testing.T) {
	ran := func(p *corev1.Pod) {
		p.Status = podstatus.Status(p, podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}, start)
	}
	requeued := job(backends.StatePending)
	requeued.Restarts = 1
	again := job(backends.StateRunning)
	again.Restarts = 1
	secondRun := file(manifest.PhaseRunning, 0)
	secondRun.Restart = 1
	countedOn := file(manifest.PhaseRunning, 0)
	countedOn.Restart, countedOn.Containers[0].RestartCount = 1, 1
	justEnded := job(backends.StateFailed)
	tests := map[string]struct {
		prepare func(*corev1.Pod)
		ev      podstatus.Evidence
		now     time.Time
		want    string
	}{
		"the provider waits": {
			ev: podstatus.Evidence{WaitingReason: "WaitingForMembers", WaitingMessage: "1 of 2"}, now: t0,
			want: "Pending waiting=WaitingForMembers job=False:WaitingForMembers ready=False",
		},
		"a volume's object is missing": { // a kubelet says it in events, not as a container's reason
			ev: podstatus.Evidence{WaitingReason: "FailedMount", WaitingMessage: "no such ConfigMap"}, now: t0,
			want: "Pending waiting=ContainerCreating job=False:FailedMount ready=False",
		},
		"refused": {
			ev: podstatus.Evidence{RefusedReason: "InvalidSpec", RefusedMessage: "no command"}, now: t0,
			want: "Failed(InvalidSpec) job=False:InvalidSpec ready=False",
		},
		"a running pod is not refused any more": {
			prepare: ran, ev: podstatus.Evidence{RefusedReason: "InvalidSpec"}, now: t0,
			want: "Running running ready=true ready=True job=True:Running",
		},
		"held before release": {
			ev: podstatus.Evidence{Job: &backends.Job{ID: "12", State: backends.StatePending, Held: true, Reason: "JobHeldUser"}}, now: t0,
			want: "Pending waiting=Submitted job=False:Submitted ready=False",
		},
		"held by an administrator": {
			ev: podstatus.Evidence{Job: &backends.Job{ID: "12", State: backends.StatePending, Held: true, Reason: "JobHeldAdmin"}}, now: t0,
			want: "Pending waiting=Held job=False:Held ready=False",
		},
		"never": {
			ev: podstatus.Evidence{Job: &backends.Job{ID: "12", State: backends.StatePending, Never: true, Reason: "PartitionTimeLimit"}}, now: t0,
			want: "Pending waiting=Blocked job=False:Blocked ready=False",
		},
		"requeued: the pod goes on to run, its container waits again": {
			prepare: ran, ev: podstatus.Evidence{Job: requeued, File: file(manifest.PhaseFailed, 143)}, now: ended,
			want: "Running waiting=Requeued last=143:Requeued restarts=1 job=False:Requeued ready=False disrupted=RequeuedByBatchSystem",
		},
		"requeued and held": {
			prepare: ran, ev: podstatus.Evidence{Job: &backends.Job{ID: "12", State: backends.StatePending, Held: true, Reason: "JobHeldUser", Restarts: 1}, File: file(manifest.PhaseFailed, 143)}, now: ended,
			want: "Running waiting=Held last=143:Requeued restarts=1 job=False:Held ready=False disrupted=RequeuedByBatchSystem",
		},
		"requeued and running again, file not there yet": {
			prepare: ran, ev: podstatus.Evidence{Job: again, File: file(manifest.PhaseFailed, 143)}, now: ended,
			want: "Running waiting=ContainerCreating last=143:Requeued restarts=1 job=True:Running ready=False",
		},
		"second run reports": {
			prepare: ran, ev: podstatus.Evidence{Job: again, File: secondRun}, now: ended,
			want: "Running running ready=true restarts=1 job=True:Running ready=True",
		},
		"second run counts on from the first": {
			prepare: ran, ev: podstatus.Evidence{Job: again, File: countedOn}, now: ended,
			want: "Running running ready=true restarts=1 job=True:Running ready=True",
		},
		"killed while the job seems to run: it may be requeued": {
			prepare: ran, ev: podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseFailed, 143)}, now: ended.Add(2 * time.Second),
			want: "Running running ready=true ready=True job=True:Running",
		},
		"killed because it was deleted": {
			prepare: func(p *corev1.Pod) { ran(p); p.DeletionTimestamp = &metav1.Time{Time: ended} },
			ev:      podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseFailed, 143)}, now: ended.Add(2 * time.Second),
			want: "Failed exit=143:Error job=False:Ended ready=False",
		},
		"the file may still come": {
			prepare: ran, ev: podstatus.Evidence{Job: justEnded, File: file(manifest.PhaseRunning, 0)}, now: ended.Add(5 * time.Second),
			want: "Running running ready=true ready=True job=True:Running",
		},
		"the launcher failed before any member": {
			ev: podstatus.Evidence{Job: justEnded, End: &manifest.End{ExitCode: 1}, BatchLogTail: "podrun: no srun"}, now: ended.Add(time.Second),
			want: "Failed(BatchJobFailed) exit=1:Error job=False:Failed ready=False",
		},
		"lost": {
			prepare: ran, ev: podstatus.Evidence{Lost: true}, now: late,
			want: "Failed(BatchJobLost) exit=137:ContainerStatusUnknown job=False:Lost ready=False",
		},
		"gone from the queue with an end": {
			prepare: ran, ev: podstatus.Evidence{End: &manifest.End{ExitCode: 0}}, now: late,
			want: "Succeeded exit=0:Completed job=False:Completed ready=False",
		},
		"an end of an earlier run says nothing": {
			prepare: ran, ev: podstatus.Evidence{Job: again, End: &manifest.End{ExitCode: 1}}, now: late,
			want: "Running waiting=ContainerCreating last=143:Requeued restarts=1 job=True:Running ready=False",
		},
		"a foreign file is ignored": {
			ev: podstatus.Evidence{Job: job(backends.StateRunning), File: &manifest.Status{UID: "other", Phase: manifest.PhaseFailed}}, now: start,
			want: "Pending waiting=ContainerCreating job=True:Running ready=False",
		},
		"nothing known of a pod that ran changes nothing": {
			prepare: ran, ev: podstatus.Evidence{WaitingReason: "Retrying"}, now: late,
			want: "Running running ready=true ready=True job=True:Running",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := newPod()
			if tc.prepare != nil {
				tc.prepare(pod)
			}
			s := podstatus.Status(pod, tc.ev, tc.now)
			if fields(line(s)) != fields(tc.want) {
				t.Errorf("got  %s\nwant %s", line(s), tc.want)
			}
		})
	}
}

// fields compares summaries without regard to the order of conditions.
func fields(s string) string {
	words := strings.Fields(s)
	counts := map[string]int{}
	for _, w := range words {
		counts[w]++
	}
	b, err := json.Marshal(counts)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestTerminalNeverChanges(t *testing.T) {
	pod := newPod()
	pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateCompleted), File: file(manifest.PhaseSucceeded, 0)}, late)
	if pod.Status.Phase != corev1.PodSucceeded {
		t.Fatalf("phase %s", pod.Status.Phase)
	}
	for _, ev := range []podstatus.Evidence{
		{Job: job(backends.StateFailed)}, {Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}, {Lost: true},
		{RefusedReason: "x"}, {WaitingReason: "y"}, {},
	} {
		s := podstatus.Status(pod, ev, late)
		if _, changed, err := podstatus.Patch(pod, s); changed || err != nil {
			t.Errorf("%+v changes a terminal status: %v", ev, err)
		}
	}
}

func TestMessages(t *testing.T) {
	j := job(backends.StatePending)
	j.Estimated = t0.Add(47 * time.Minute)
	s := podstatus.Status(newPod(), podstatus.Evidence{Job: j}, t0)
	want := "batch job 12 waits in partition gpu: Resources, estimated start 2026-03-01 12:50 UTC"
	if got := s.ContainerStatuses[0].State.Waiting.Message; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	s = podstatus.Status(newPod(), podstatus.Evidence{Job: job(backends.StateFailed), BatchLogTail: "srun: error: boom"}, late)
	if !strings.Contains(s.Message, "srun: error: boom") || !strings.Contains(s.Message, "12") {
		t.Errorf("message %q does not explain", s.Message)
	}
}

func TestPatch(t *testing.T) {
	pod := newPod()
	s := podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}, start)
	patch, changed, err := podstatus.Patch(pod, s)
	if err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	for _, word := range []string{"Foreign", "qosClass", "PodScheduled\",\"status"} {
		if strings.Contains(string(patch), `"`+word+`"`) && word != "Foreign" {
			t.Errorf("the patch touches %s: %s", word, patch)
		}
	}
	if !strings.Contains(string(patch), `"metadata":{"uid":"u0"}`) {
		t.Errorf("the patch has no UID: %s", patch)
	}
	// Meanwhile another writer adds a condition and changes its own.
	server := pod.DeepCopy()
	server.Status.Conditions[1].Reason = "Changed"
	server.Status.Conditions = append(server.Status.Conditions, corev1.PodCondition{Type: "example.com/New", Status: corev1.ConditionTrue})
	before, err := json.Marshal(server)
	if err != nil {
		t.Fatal(err)
	}
	after, err := strategicpatch.StrategicMergePatch(before, patch, corev1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	var got corev1.Pod
	if err := json.Unmarshal(after, &got); err != nil {
		t.Fatal(err)
	}
	found := map[corev1.PodConditionType]string{}
	for _, c := range got.Status.Conditions {
		found[c.Type] = c.Reason
	}
	if _, ok := found["example.com/New"]; !ok || found["example.com/Foreign"] != "Changed" {
		t.Errorf("foreign conditions were lost: %v", found)
	}
	if got.Status.PodIP != "10.0.0.1" || got.Status.HostIPs[0].IP != "10.0.0.1" || got.Status.Phase != corev1.PodRunning ||
		got.Status.ObservedGeneration != 2 || got.Status.StartTime == nil {
		t.Errorf("status is %+v", got.Status)
	}
	if _, changed, err := podstatus.Patch(&got, podstatus.Status(&got, podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}, late)); changed || err != nil {
		t.Errorf("the same evidence an hour later changes something: %v", err)
	}
}

func TestTransitionTimes(t *testing.T) {
	pod := newPod()
	pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StatePending)}, t0)
	later := podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}, start)
	for _, c := range later.Conditions {
		want := start
		switch c.Type {
		case corev1.PodScheduled:
			want = t0.Add(-time.Minute)
		case corev1.PodInitialized:
			want = t0
		case "example.com/Foreign":
			continue
		}
		if !c.LastTransitionTime.Time.Equal(want) {
			t.Errorf("%s changed at %s, want %s", c.Type, c.LastTransitionTime, want)
		}
	}
}
