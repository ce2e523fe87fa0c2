package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// example gives the path of a file of test/examples.
func example(t *testing.T, name string) string {
	t.Helper()
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "test", "examples", name)
}

// A scientist applies the example and gets one batch job, the logs of every
// member and a Completed Job.
func TestAllReduce(t *testing.T) {
	ns := namespace(t, account.Alice)
	before := len(batchJobs(t))
	kubectl(t, "apply", "-n", ns, "-f", example(t, "allreduce.yaml"))
	phase(t, ns, "allreduce", "Completed", 3*time.Minute)

	for _, member := range []string{"allreduce-master-0", "allreduce-worker-0", "allreduce-worker-1", "allreduce-worker-2"} {
		log := kubectl(t, "logs", "-n", ns, member)
		if !strings.Contains(log, "of 4") || !strings.Contains(log, "OK") {
			t.Errorf("log of %s is %q", member, log)
		}
	}
	if nodes := strings.Fields(kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={.items[*].spec.nodeName}")); len(nodes) != 4 || nodes[0] != nodes[1] || nodes[1] != nodes[2] || nodes[2] != nodes[3] {
		t.Errorf("the gang is spread over %v", nodes)
	}
	ids := map[string]bool{}
	for _, j := range batchJobs(t)[min(before, len(batchJobs(t))):] {
		id, _, _ := strings.Cut(j.ID, "+") // components of one heterogeneous job
		ids[id] = true
	}
	recorded := map[string]bool{}
	for id := range strings.FieldsSeq(kubectl(t, "get", "pods", "-n", ns, "-o", `jsonpath={.items[*].metadata.annotations.isthmus\.sh/batch-job-id}`)) {
		recorded[id] = true
	}
	if len(recorded) != 1 {
		t.Errorf("the members name %d batch jobs: %v (new at the batch system: %v)", len(recorded), recorded, ids)
	}
}

// A gang that does not fit waits whole, says what is short, and starts by
// itself when room appears. Nothing of it reaches Slurm before.
func TestGangWaitsWhole(t *testing.T) {
	ns := namespace(t, account.Alice)
	apply(t, ns, job{Name: "holder", Replicas: 2, GPUs: 8, Script: "exec sleep 600", Pod: onA100}.yaml())
	phase(t, ns, "holder", "Running", time.Minute)
	before := len(batchJobs(t))

	apply(t, ns, job{Name: "waiter", Replicas: 2, GPUs: 8, Script: "echo done", Pod: onA100}.yaml())
	eventually(t, 30*time.Second, "the PodGroup says what is short", func() (bool, string) {
		msg := kubectl(t, "get", "podgroup", "-n", ns, "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Unschedulable")].message}`)
		return strings.Contains(msg, "nvidia.com/gpu") && strings.Contains(msg, "16"), msg
	})
	eventually(t, 30*time.Second, "an event says it too", func() (bool, string) {
		out := kubectl(t, "get", "events", "-n", ns, "--field-selector", "type=Warning")
		return strings.Contains(out, "nvidia.com/gpu"), out
	})
	if nodes := strings.TrimSpace(kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name=waiter", "-o", "jsonpath={.items[*].spec.nodeName}")); nodes != "" {
		t.Errorf("a member of a gang that does not fit is bound to %s", nodes)
	}
	if got := len(batchJobs(t)); got != before {
		t.Errorf("%d batch jobs, %d before the waiting gang came", got, before)
	}
	kubectl(t, "delete", "vcjob", "holder", "-n", ns)
	phase(t, ns, "waiter", "Completed", 2*time.Minute)
}

// onA100 and onH100 keep a Job on one of the two virtual nodes.
const (
	onA100 = "        nodeSelector: {isthmus.sh/partition: a100}"
	onH100 = "        nodeSelector: {isthmus.sh/partition: h100}"
)

// Deleting a Job cancels its batch job and empties the staging area.
func TestDelete(t *testing.T) {
	ns := namespace(t, account.Alice)
	apply(t, ns, job{Name: "long", Replicas: 2, Script: "exec sleep 600"}.yaml())
	phase(t, ns, "long", "Running", time.Minute)
	id := strings.Fields(kubectl(t, "get", "pods", "-n", ns, "-o", `jsonpath={.items[*].metadata.annotations.isthmus\.sh/batch-job-id}`))[0]
	kubectl(t, "delete", "vcjob", "long", "-n", ns)
	eventually(t, 30*time.Second, "the batch job is cancelled", func() (bool, string) {
		for _, j := range live(batchJobs(t)) {
			if j.ID == id {
				return false, j.State
			}
		}
		return true, ""
	})
	eventually(t, 30*time.Second, "the pods are gone", func() (bool, string) {
		out := kubectl(t, "get", "pods", "-n", ns, "-o", "name")
		return strings.TrimSpace(out) == "", out
	})
	eventually(t, time.Minute, "the staging area holds nothing of it", func() (bool, string) {
		left := staged(t)
		return len(left) == 0, strings.Join(left, " ")
	})
}

// A member's exit code reaches the Job, whose policy decides.
func TestExitCode(t *testing.T) {
	ns := namespace(t, account.Bob)
	apply(t, ns, job{Name: "fails", Replicas: 2, Script: `test "$VC_TASK_INDEX" = 1 && exit 42; exec sleep 600`,
		Spec: "  plugins: {env: []}\n  policies: [{event: PodFailed, action: AbortJob}]"}.yaml())
	phase(t, ns, "fails", "Aborted", 2*time.Minute)
	code := kubectl(t, "get", "pod", "fails-task-1", "-n", ns, "-o", "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}")
	if code != "42" {
		t.Errorf("exit code %q, want 42", code)
	}
	if user := kubectl(t, "get", "pod", "fails-task-1", "-n", ns, "-o", `jsonpath={.metadata.annotations.isthmus\.sh/batch-user}`); user != account.Bob {
		t.Errorf("the job ran as %q, the namespace is mapped to %s", user, account.Bob)
	}
}

// kubectl logs works while the container runs and after.
func TestLogs(t *testing.T) {
	ns := namespace(t, account.Alice)
	apply(t, ns, job{Name: "talk", Replicas: 1, Script: `for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 1; done`}.yaml())
	eventually(t, time.Minute, "the container runs", func() (bool, string) {
		p := kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={.items[*].status.phase}")
		return p == "Running", p
	})
	followed := kubectl(t, "logs", "-f", "-n", ns, "talk-task-0")
	if strings.Count(followed, "line ") != 8 || !strings.HasSuffix(followed, "line 8\n") {
		t.Errorf("logs -f gave %q", followed)
	}
	phase(t, ns, "talk", "Completed", time.Minute)
	if got := kubectl(t, "logs", "--tail=2", "-n", ns, "talk-task-0"); got != "line 7\nline 8\n" {
		t.Errorf("logs --tail=2 gave %q", got)
	}
	if got := kubectl(t, "logs", "--tail=0", "-n", ns, "talk-task-0"); got != "" {
		t.Errorf("logs --tail=0 gave %q", got)
	}
	if got := kubectl(t, "logs", "--limit-bytes=4", "-n", ns, "talk-task-0"); got != "line" {
		t.Errorf("logs --limit-bytes=4 gave %q", got)
	}
	stamped := strings.Fields(kubectl(t, "logs", "--timestamps", "--tail=3", "-n", ns, "talk-task-0"))
	if len(stamped) != 9 {
		t.Fatalf("logs --timestamps gave %v", stamped)
	}
	since := kubectl(t, "logs", "--since-time="+stamped[6], "-n", ns, "talk-task-0")
	if since != "line 8\n" {
		t.Errorf("logs --since-time=%s gave %q", stamped[6], since)
	}
	if _, err := tryKubectl(t, "logs", "-n", ns, "talk-task-0", "-c", "nope"); err == nil {
		t.Error("logs of an unknown container is no error")
	}
}
