package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// own are the environments of tests that have one, by the name of the test.
var own sync.Map

// here is the environment of a test and of its subtests.
func here(t *testing.T) *environment.Environment {
	top, _, _ := strings.Cut(t.Name(), "/")
	if e, ok := own.Load(top); ok {
		return e.(*environment.Environment)
	}
	return shared
}

// on gives t an environment of its own with another batch system, beside the
// other tests that have one.
func on(t *testing.T, batch string) {
	t.Helper()
	t.Parallel()
	if shared.Batch == batch {
		return
	}
	dir, err := os.MkdirTemp("", "isthmus-e2e-"+batch+"-")
	if err != nil {
		t.Fatal(err)
	}
	e, err := environment.Start(t.Context(), environment.Config{
		Dir: filepath.Join(dir, "env"), Batch: batch, Progress: t.Output(), Cluster: tune,
	})
	if err != nil {
		t.Fatalf("start the environment: %v", err)
	}
	own.Store(t.Name(), e)
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Errorf("stop the environment: %v", err)
		}
		if t.Failed() {
			t.Logf("logs are kept in %s", dir)
			return
		}
		_ = os.RemoveAll(dir) // only logs of a run that passed
	})
}

// PBS (a stand-in) without job history, which is how it is installed: all that
// the user of a real Slurm sees, and the daemon killed in the middle of it.
func TestPBS(t *testing.T) {
	on(t, environment.BatchPBS)
	t.Run("gang", TestAllReduce)
	t.Run("waits whole", TestGangWaitsWhole)
	t.Run("delete", TestDelete)
	t.Run("exit code", TestExitCode)
	t.Run("logs", TestLogs)
	t.Run("unlike members", testUnlikeMembers)
	t.Run("killed by the site", testCancelledBySite)
	t.Run("queued early", testQueuedEarlyOnPBS)
	t.Run("hostile values", TestHostileValues)
	t.Run("hostile names", TestHostileNames)
	t.Run("streams", func(t *testing.T) {
		runStreams(t, "exec", "terminal", "cp", "attach", "port-forward", "top", "daemon")
	})
	t.Run("over SSH", testPBSOverSSH)
	t.Run("outage", testPBSOutage)
	t.Run("kill", func(t *testing.T) { killDuringSubmitAndRun(t, 15) })
}

func TestTorque(t *testing.T) {
	on(t, environment.BatchTorque)
	t.Run("gang", TestAllReduce)
	t.Run("delete", TestDelete)
	t.Run("exit code", TestExitCode)
	t.Run("unlike members", testUnlikeMembers)
}

// Two roles with different needs are one batch job, on more than one host.
func testUnlikeMembers(t *testing.T) {
	ns := namespace(t, account.Alice)
	before := len(batchJobs(t))
	apply(t, ns, `
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
metadata: {name: roles}
spec:
  minAvailable: 3
  schedulerName: volcano
  tasks:
  - name: head
    replicas: 1
    template:
      spec:
        restartPolicy: Never
        containers:
        - {name: main, image: none, command: [/bin/sh, -c, 'echo head sees ${CUDA_VISIBLE_DEVICES:-no} devices; sleep 5'], resources: {requests: {cpu: "2"}, limits: {cpu: "2"}}}
  - name: work
    replicas: 2
    template:
      spec:
        restartPolicy: Never
        containers:
        - {name: main, image: none, command: [/bin/sh, -c, 'echo worker sees $CUDA_VISIBLE_DEVICES; sleep 5'], resources: {requests: {cpu: "1", nvidia.com/gpu: 8}, limits: {cpu: "1", nvidia.com/gpu: 8}}}
`)
	phase(t, ns, "roles", "Running", time.Minute)
	if n := len(live(batchJobs(t))) - before; n != 1 {
		t.Errorf("the gang is %d batch jobs, want 1", n)
	}
	phase(t, ns, "roles", "Completed", time.Minute)
	if got := kubectl(t, "logs", "-n", ns, "roles-head-0"); got != "head sees no devices\n" {
		t.Errorf("the head's log is %q", got)
	}
	hosts := map[string]bool{}
	for _, member := range []string{"roles-work-0", "roles-work-1"} {
		if got := kubectl(t, "logs", "-n", ns, member); got != "worker sees 0,1,2,3,4,5,6,7\n" {
			t.Errorf("the log of %s is %q", member, got)
		}
		hosts[kubectl(t, "get", "pod", "-n", ns, member, "-o", `jsonpath={.metadata.annotations.isthmus\.sh/batch-node}`)] = true
	}
	if len(hosts) != 2 {
		t.Errorf("two members with all GPUs of a host each ran on %v", hosts)
	}
}

// An administrator's qdel ends the pods, with a reason.
func testCancelledBySite(t *testing.T) {
	ns := namespace(t, account.Alice)
	apply(t, ns, job{Name: "doomed", Replicas: 2, Script: "exec sleep 600"}.yaml())
	phase(t, ns, "doomed", "Running", time.Minute)
	id := strings.Fields(kubectl(t, "get", "pods", "-n", ns, "-o", `jsonpath={.items[*].metadata.annotations.isthmus\.sh/batch-job-id}`))[0]
	if _, err := here(t).PBS().Run(t.Context(), "qdel", id); err != nil {
		t.Fatal(err)
	}
	phase(t, ns, "doomed", "Failed", 2*time.Minute)
	if got := kubectl(t, "get", "pod", "doomed-task-1", "-n", ns, "-o", "jsonpath={.status.phase}"); got != "Failed" {
		t.Errorf("the pod is %s", got)
	}
}

// The server is away: no pod fails, new work waits, all converges afterwards.
func testPBSOutage(t *testing.T) {
	ns := namespace(t, account.Alice)
	apply(t, ns, job{Name: "through", Replicas: 2, Script: "sleep 15"}.yaml())
	phase(t, ns, "through", "Running", time.Minute)
	if err := here(t).PBS().Control(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the node shows the outage", func() (bool, string) {
		out := kubectl(t, "get", "nodes", "-l", "isthmus.sh/virtual-node", "-o",
			`jsonpath={range .items[*]}{.status.conditions[?(@.type=="BatchSystemReachable")].status}/{.status.conditions[?(@.type=="Ready")].status} {end}`)
		return strings.TrimSpace(out) == "False/True False/True", out
	})
	apply(t, ns, job{Name: "during", Replicas: 1, Script: "echo late"}.yaml())
	// The job ends while nobody can ask for it.
	marks := 0
	eventually(t, time.Minute, "the job has ended on its host", func() (bool, string) {
		ends, err := filepath.Glob(filepath.Join(here(t).Staging, account.Alice, "pbs", "*.end"))
		if err != nil {
			t.Fatal(err)
		}
		if marks == 0 {
			marks = len(ends) + 1
		}
		return len(ends) >= marks, strings.Join(ends, " ")
	})
	if phases := kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={.items[*].status.phase}"); strings.Contains(phases, "Failed") {
		t.Errorf("a pod failed in the outage: %s", phases)
	}
	if err := here(t).PBS().Control(t.Context(), "back"); err != nil {
		t.Fatal(err)
	}
	phase(t, ns, "through", "Completed", 2*time.Minute)
	phase(t, ns, "during", "Completed", 2*time.Minute)
}
