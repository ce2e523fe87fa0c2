package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// On a Slurm that others keep full, a gang waits in its queue, where it gains age,
// if the node says so; it runs once the others have ended.
func TestWaitsInTheBatchQueue(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: a queue that others fill is Slurm's here, which cannot run or this run was told not to")
	}
	index := -1
	var nodes []struct{ Name, Partition string }
	if err := json.Unmarshal([]byte(kubectl(t, "get", "batchcluster", environment.ClusterName, "-o", "jsonpath={.spec.nodes}")), &nodes); err != nil {
		t.Fatal(err)
	}
	for i, n := range nodes {
		if n.Partition == "a100" {
			index = i
		}
	}
	if index < 0 {
		t.Fatalf("no node for partition a100: %v", nodes)
	}
	set := func(use string) string {
		patch, err := json.Marshal([]map[string]any{{"op": "add", "path": "/spec/nodes/" + string(rune('0'+index)) + "/foreignUse", "value": use}})
		if err != nil {
			t.Fatal(err)
		}
		return "-p=" + string(patch)
	}
	kubectl(t, "patch", "batchcluster", environment.ClusterName, "--type=json", set("Ignore"))
	t.Cleanup(func() {
		kubectlAfter(t, "patch", "batchcluster", environment.ClusterName, "--type=json", set("Subtract"))
	})
	takenOver(t)

	foreign := slurmRun(t, "sbatch", "--parsable", "--uid="+account.Bob, "--partition=a100", "--nodes=2", "--exclusive",
		"--time=30", "--chdir=/tmp", "--output=/dev/null", "--wrap=sleep 600")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := here(t).Slurm().Run(ctx, "scancel", foreign); err != nil {
			t.Error(err)
		}
	})
	eventually(t, time.Minute, "the foreign job runs", func() (bool, string) {
		out := slurmRun(t, "squeue", "--noheader", "--jobs="+foreign, "--format=%T")
		return out == "RUNNING", out
	})
	eventually(t, 90*time.Second, "the node tells what others hold", func() (bool, string) {
		out := kubectl(t, "get", "batchcluster", environment.ClusterName, "-o", `jsonpath={.status.nodes[?(@.partition=="a100")].foreign}`)
		return strings.Contains(out, "nvidia.com/gpu"), out
	})

	ns := namespace(t, account.Alice)
	apply(t, ns, job{Name: "waiter", Replicas: 2, GPUs: 8, Script: "echo done", Pod: onA100}.yaml())
	eventually(t, time.Minute, "the gang waits at Slurm, and its pods say so", func() (bool, string) {
		out := kubectl(t, "get", "pods", "-n", ns, "-o", `jsonpath={range .items[*]}{.status.phase}/{.status.containerStatuses[0].state.waiting.reason} {end}`)
		return strings.TrimSpace(out) == "Pending/Queued Pending/Queued", out
	})
	id := strings.Fields(kubectl(t, "get", "pods", "-n", ns, "-o", `jsonpath={.items[*].metadata.annotations.isthmus\.sh/batch-job-id}`))[0]
	if state := slurmRun(t, "squeue", "--noheader", "--jobs="+id, "--format=%T %r"); !strings.HasPrefix(state, "PENDING") || strings.Contains(state, "Held") {
		t.Errorf("batch job %s is %q, want it PENDING and not held", id, state)
	}
	slurmRun(t, "scancel", foreign)
	phase(t, ns, "waiter", "Completed", 2*time.Minute)
}

// slurmRun runs a command of Slurm, which must succeed, and gives what it prints.
func slurmRun(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := here(t).Slurm().Run(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
