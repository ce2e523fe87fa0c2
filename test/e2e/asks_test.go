package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// A gang's licences and switches are asked of Slurm. While it holds all licences that
// are left, the next gang waits at the scheduler, which counts them, and one that the
// cluster does not have is refused by name.
func TestLicensesAndSwitches(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: licences are Slurm's, which cannot run here or this run was told not to")
	}
	const fluent = "licenses.isthmus.sh/fluent"
	ns := namespace(t, account.Alice)
	with := func(j job, resource, annotations string) string {
		text := strings.ReplaceAll(j.yaml(), "memory: 64Mi", "memory: 64Mi"+resource)
		return strings.Replace(text, "    template:\n", "    template:\n      metadata: {annotations: {"+annotations+"}}\n", 1)
	}
	eventually(t, time.Minute, "the nodes offer licences", func() (bool, string) {
		out := kubectl(t, "get", "nodes", environment.ClusterName+"-a100", environment.ClusterName+"-h100", "-o", `jsonpath={.items[*].status.allocatable.licenses\.isthmus\.sh/fluent}`)
		return out == "4 4", out
	})
	apply(t, ns, with(job{Name: "first", Replicas: 2, Script: "exec sleep 900", Pod: onA100}, ", "+fluent+": 2", `isthmus.sh/switches: "1@2m"`))
	phase(t, ns, "first", "Running", 2*time.Minute)
	id := kubectl(t, "get", "pod", "first-task-0", "-n", ns, "-o", `jsonpath={.metadata.annotations.isthmus\.sh/batch-job-id}`)
	shown := slurmRun(t, "scontrol", "--oneliner", "show", "job", id)
	if !strings.Contains(shown, " Licenses=fluent:4 ") {
		t.Errorf("Slurm knows of no 4 licences: %s", shown)
	}
	if !strings.Contains(shown, "Switches=1@00:02:00") {
		t.Errorf("Slurm knows of no switches: %s", shown)
	}
	apply(t, ns, with(job{Name: "second", Replicas: 1, Script: "echo mine", Pod: onA100}, ", "+fluent+": 1", ""))
	eventually(t, 2*time.Minute, "the second waits for licences", func() (bool, string) {
		out := kubectl(t, "get", "podgroup", "-n", ns, "-o", "jsonpath={.items[*].status.conditions[*].message}")
		return strings.Contains(out, fluent), out
	})
	apply(t, ns, with(job{Name: "unknown", Replicas: 1, Script: "echo no", Pod: onA100}, "", "isthmus.sh/licenses: nastran"))
	eventually(t, 2*time.Minute, "one that there is none of is refused", func() (bool, string) {
		out := kubectl(t, "get", "events", "-n", ns, "--field-selector", "reason=InvalidSpec", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(out, "metadata.annotations[isthmus.sh/licenses]") && strings.Contains(out, "it has fluent"), out
	})
	kubectl(t, "delete", "vcjob", "first", "unknown", "-n", ns)
	phase(t, ns, "second", "Completed", 2*time.Minute)
}

// Pods with shares of a GPU ask Slurm for shares, not for GPUs, see one GPU and run beside
// each other; one that asks for more shares than a host has waits at the scheduler.
func TestShards(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: shares of GPUs are Slurm's, which cannot run here or this run was told not to")
	}
	ns := namespace(t, account.Alice)
	with := func(j job, shares int) string {
		return strings.ReplaceAll(j.yaml(), "memory: 64Mi", fmt.Sprintf("memory: 64Mi, isthmus.sh/gpu-shard: %d", shares))
	}
	offered := func(resource string) int {
		out := kubectl(t, "get", "node", environment.ClusterName+"-h100", "-o", "jsonpath={.status.allocatable."+strings.ReplaceAll(resource, ".", `\.`)+"}")
		n, _ := strconv.Atoi(out)
		return n
	}
	eventually(t, time.Minute, "the node offers shares", func() (bool, string) {
		n := offered("isthmus.sh/gpu-shard")
		return n > 0, strconv.Itoa(n)
	})
	const see = `echo "sees [$CUDA_VISIBLE_DEVICES]"; exec sleep 900`
	for _, name := range []string{"one", "other"} {
		apply(t, ns, with(job{Name: name, Replicas: 1, Script: see, Pod: onH100}, 2))
		phase(t, ns, name, "Running", 2*time.Minute)
		eventually(t, time.Minute, "it sees one GPU", func() (bool, string) {
			log := strings.TrimSpace(kubectl(t, "logs", "-n", ns, name+"-task-0"))
			return regexp.MustCompile(`^sees \[[0-9]+\]$`).MatchString(log), log
		})
		id := kubectl(t, "get", "pod", name+"-task-0", "-n", ns, "-o", `jsonpath={.metadata.annotations.isthmus\.sh/batch-job-id}`)
		shown := slurmRun(t, "scontrol", "--oneliner", "show", "job", id)
		if asked := regexp.MustCompile(` TresPerNode=(\S+)`).FindStringSubmatch(shown); asked == nil || asked[1] != "gres:shard:2" && asked[1] != "gres/shard:2" {
			t.Errorf("Slurm was asked for %q, want two shares alone: %s", asked, shown)
		}
	}
	apply(t, ns, with(job{Name: "many", Replicas: 1, Script: "echo no", Pod: onH100}, 33))
	eventually(t, 2*time.Minute, "no host has so many", func() (bool, string) {
		out := kubectl(t, "get", "podgroup", "-n", ns, "-o", "jsonpath={.items[*].status.conditions[*].message}")
		return strings.Contains(out, "isthmus.sh/gpu-shard"), out
	})
	kubectl(t, "delete", "vcjob", "one", "other", "many", "-n", ns)
}
