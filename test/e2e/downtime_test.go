package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// cleanup is a context for what follows a test, whose own has ended.
func cleanup(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
}

// ending is one way a pod ends while the daemon is down.
type ending struct {
	name string
	// spec are the lines of the pod's spec; WAIT in it is a shell command that
	// waits until the daemon is down, MARK a file of the pod's own.
	spec string
	// fate befalls the batch job; nil leaves it to the program.
	fate func(t *testing.T, c *testbed.Cluster, id string)
	// want and bare are what the pod shows with an accounting database and
	// without: phase/reason and code.reason.restarts of each container. An empty
	// one leaves the ending out.
	want, bare string
}

func single(script string, more ...string) string {
	return strings.Join(append(more, fmt.Sprintf(`
  containers:
  - {name: main, image: none, command: [/bin/sh, -c, %q], %s}
`, script, small)), "\n")
}

func slurmCommand(t *testing.T, c *testbed.Cluster, argv ...string) {
	t.Helper()
	if _, err := c.Run(t.Context(), argv...); err != nil {
		t.Error(err)
	}
}

func endings() []ending {
	return []ending{
		{name: "done", spec: single("WAIT; exit 0"), want: "Succeeded/ 0.Completed.0", bare: "Succeeded/ 0.Completed.0"},
		{name: "three", spec: single("WAIT; exit 3"), want: "Failed/ 3.Error.0", bare: "Failed/ 3.Error.0"},
		{name: "kills-itself", spec: single("WAIT; kill -KILL $$$$"), want: "Failed/ 137.Error.0", bare: "Failed/ 137.Error.0"},
		{
			name: "again", spec: single("WAIT; test -e MARK && exit 0; touch MARK; exit 9", "  restartPolicy: OnFailure"),
			want: "Succeeded/ 0.Completed.1", bare: "Succeeded/ 0.Completed.1",
		},
		{
			name: "pair", spec: fmt.Sprintf(`
  containers:
  - {name: main, image: none, command: [/bin/sh, -c, "WAIT; exit 0"], %[1]s}
  - {name: side, image: none, command: [/bin/sh, -c, "WAIT; exit 5"], %[1]s}
`, small),
			want: "Failed/ 0.Completed.0 5.Error.0", bare: "Failed/ 0.Completed.0 5.Error.0",
		},
		{
			name: "init", spec: fmt.Sprintf(`
  initContainers:
  - {name: first, image: none, command: [/bin/sh, -c, "WAIT; exit 4"], %[1]s}
  containers:
  - {name: main, image: none, command: [/bin/true], %[1]s}
`, small),
			want: "Failed/ 4.Error.0 PodInitializing.0", bare: "Failed/ 4.Error.0 PodInitializing.0",
		},
		{
			name: "cancelled", spec: single("exec sleep 1000"),
			fate: func(t *testing.T, c *testbed.Cluster, id string) { slurmCommand(t, c, "scancel", id) },
			want: "Failed/BatchJobCancelled 143.Error.0", bare: "Failed/Terminated 143.Error.0",
		},
		{ // the pod's runner has no time to write anything
			name: "shot", spec: single("exec sleep 1000"),
			fate: func(t *testing.T, c *testbed.Cluster, id string) {
				slurmCommand(t, c, "scancel", "--full", "--signal=KILL", id)
			},
			want: "Failed/BatchJobCancelled 143.Error.0", // Slurm does not tell the signal of what was cancelled
		},
		{
			name: "requeued", spec: single("WAIT; exit 6"),
			fate: func(t *testing.T, c *testbed.Cluster, id string) {
				slurmCommand(t, c, "scontrol", "requeue", id)
				slurmCommand(t, c, "scontrol", "update", "jobid="+id, "starttime=now+4") // it would wait for two minutes
			},
			want: "Failed/ 6.Error.1", bare: "Failed/ 6.Error.1",
		},
	}
}

// R5: the daemon is down while pods end in every way and the controller of Slurm
// forgets their jobs (MinJobAge of 10 s). When it is back each pod has the right
// exit codes, reason and restart count, with an accounting database as it is
// installed (it keeps no comments) and without.
func TestDownWhileJobsEnd(t *testing.T) {
	for name, books := range map[string]bool{"booked": true, "bare": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			downWhileJobsEnd(t, newSite(t, name, testbed.Config{Accounting: books, MinJobAge: 10 * time.Second}, nil), books)
		})
	}
}

func downWhileJobsEnd(t *testing.T, s *site, books bool) {
	const atOnce = 40
	ns := namespace(t, account.Alice)
	total, right := trials(20), 0
	for begun, round := 0, 0; begun < total; round++ {
		n := min(atOnce, total-begun)
		begun += n
		right += s.round(t, ns, round, n, books)
	}
	t.Logf("R5 on real Slurm, slurmdbd %v: %d of %d pods have the right exit codes, reason and restart count after their jobs were forgotten", books, right, total)
	if right != total {
		t.Errorf("%d of %d pods are right", right, total)
	}
}

// round runs n pods through a time without a daemon and counts those that are
// right afterwards.
func (s *site) round(t *testing.T, ns string, round, n int, books bool) (right int) {
	t.Helper()
	var kinds []ending
	for _, e := range endings() {
		if !books {
			e.want = e.bare
		}
		if e.want != "" {
			kinds = append(kinds, e)
		}
	}
	dir := openMarks(t)
	down := filepath.Join(dir, "down")
	of := map[string]ending{}
	var all strings.Builder
	for i := range n {
		e := kinds[i%len(kinds)]
		name := fmt.Sprintf("%s-%d-%d", e.name, round, i)
		of[name] = e
		spec := strings.NewReplacer("WAIT", "until test -e "+down+"; do sleep 1; done", "MARK", filepath.Join(dir, name)).Replace(e.spec)
		if !strings.Contains(spec, "restartPolicy") {
			spec = "  restartPolicy: Never" + spec
		}
		fmt.Fprintf(&all, `
---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  schedulerName: volcano
  nodeSelector: {isthmus.sh/cluster: %s}
  terminationGracePeriodSeconds: 2
%s`, name, s.name, spec)
	}
	apply(t, ns, all.String())
	pods := func() map[string]*corev1.Pod {
		t.Helper()
		var list corev1.PodList
		if err := here(t).Client().List(t.Context(), &list, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
		out := map[string]*corev1.Pod{}
		for i := range list.Items {
			out[list.Items[i].Name] = &list.Items[i]
		}
		return out
	}
	ids := map[string]string{}
	eventually(t, 3*time.Minute, "every pod's first container runs", func() (bool, string) {
		var not []string
		for name, p := range pods() {
			started := false
			for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
				started = started || c.State.Running != nil
			}
			if ids[name] = p.Annotations[wellknown.BatchJobID]; !started || ids[name] == "" {
				not = append(not, fmt.Sprintf("%s %s %v", name, p.Status.Phase, p.Status.ContainerStatuses))
			}
		}
		return len(not) == 0, strings.Join(not, "\n")
	})

	s.stop(t)
	if err := os.WriteFile(down, nil, 0o644); err != nil { //nolint:gosec // the mapped users look for it
		t.Fatal(err)
	}
	for name, e := range of {
		if e.fate != nil {
			e.fate(t, s.slurm, ids[name])
		}
	}
	eventually(t, 5*time.Minute, "the controller has forgotten all jobs", func() (bool, string) {
		out, err := s.slurm.Run(t.Context(), "squeue", "--all", "--noheader", "--states=all", "--format=%i %j %T %r")
		return err == nil && strings.TrimSpace(out) == "", fmt.Sprint(out, err)
	})
	for name, p := range pods() {
		if p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodPending {
			t.Errorf("pod %s is %s while the daemon is down", name, p.Status.Phase)
		}
	}

	s.start(t)
	var wrong []string
	for deadline := time.Now().Add(2 * time.Minute); ; <-time.After(300 * time.Millisecond) {
		wrong, right = nil, 0
		for name, p := range pods() {
			if got := shows(p); got == of[name].want {
				right++
			} else {
				wrong = append(wrong, fmt.Sprintf("pod %s shows %q (%s), want %q", name, got, p.Status.Message, of[name].want))
			}
		}
		if len(wrong) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, w := range wrong {
		t.Error(w)
	}
	kubectl(t, "delete", "pods", "--all", "-n", ns)
	return right
}

// shows is what a user sees of how a pod ended.
func shows(p *corev1.Pod) string {
	out := fmt.Sprintf("%s/%s", p.Status.Phase, p.Status.Reason)
	for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		switch {
		case c.State.Terminated != nil:
			out += fmt.Sprintf(" %d.%s.%d", c.State.Terminated.ExitCode, c.State.Terminated.Reason, c.RestartCount)
		case c.State.Waiting != nil:
			out += fmt.Sprintf(" %s.%d", c.State.Waiting.Reason, c.RestartCount)
		default:
			out += " running"
		}
	}
	return out
}
