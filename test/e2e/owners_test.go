package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// workload is a Deployment or a Job of Kubernetes' own kinds with pods of ours.
func workload(apiVersion, kind, name, annotations, spec, restart, script string) string {
	return fmt.Sprintf(`
apiVersion: %s
kind: %s
metadata:
  name: %s
  annotations: {%s}
spec:
%s
  template:
    metadata: {labels: {app: %s}}
    spec:
      schedulerName: volcano
      restartPolicy: %s
      terminationGracePeriodSeconds: 2
      containers:
      - {name: main, image: none, command: [/bin/sh, -c, %q], %s}
`, apiVersion, kind, name, annotations, spec, name, restart, script, small)
}

// A Deployment and a Job of Kubernetes' own kind run on virtual nodes: their pods
// get a PodGroup by their owner, in the queue of the namespace. Two that go
// together are one batch job, replicas that do not are one each; the PodGroup goes
// when nothing is to run.
func TestOwners(t *testing.T) {
	ns := namespace(t, account.Alice)
	apply(t, ns, "apiVersion: scheduling.volcano.sh/v1beta1\nkind: Queue\nmetadata: {name: e2e-owners}\nspec: {weight: 1, reclaimable: true, parent: root}\n")
	t.Cleanup(func() { kubectlAfter(t, "delete", "queue", "e2e-owners", "--ignore-not-found") })
	kubectl(t, "annotate", "namespace", ns, "scheduling.volcano.sh/queue-name=e2e-owners")
	const min = "scheduling.volcano.sh/group-min-member"
	apply(t, ns, workload("apps/v1", "Deployment", "apart", "volcano.sh/preemptable: 'true'", "  replicas: 2\n  selector: {matchLabels: {app: apart}}", "Always", "trap 'exit 0' TERM; sleep 1000 & wait"))
	apply(t, ns, workload("apps/v1", "Deployment", "together", min+": '2'", "  replicas: 2\n  selector: {matchLabels: {app: together}}", "Always", "trap 'exit 0' TERM; sleep 1000 & wait"))
	apply(t, ns, workload("batch/v1", "Job", "steps", min+": '2'", "  parallelism: 2\n  completions: 2\n  backoffLimit: 0", "Never", "echo step"))
	jobsOf := func(app string) (ids map[string]bool, seen string) {
		out := kubectl(t, "get", "pods", "-n", ns, "-l", "app="+app, "-o", `jsonpath={range .items[*]}{.status.phase} {.metadata.annotations.isthmus\.sh/batch-job-id} {.metadata.annotations.scheduling\.k8s\.io/group-name}{"\n"}{end}`)
		ids = map[string]bool{}
		for line := range strings.Lines(out) {
			if words := strings.Fields(line); len(words) == 3 && words[0] == "Running" && strings.HasPrefix(words[2], "podgroup-") {
				ids[words[1]] = true
			}
		}
		if strings.Count(out, "Running") != 2 {
			return nil, out
		}
		return ids, out
	}
	for app, want := range map[string]int{"apart": 2, "together": 1} {
		eventually(t, 2*time.Minute, fmt.Sprintf("%s runs as %d batch jobs", app, want), func() (bool, string) {
			ids, seen := jobsOf(app)
			return len(ids) == want, seen
		})
	}
	eventually(t, 2*time.Minute, "the Job completes", func() (bool, string) {
		out := kubectl(t, "get", "job", "steps", "-n", ns, "-o", "jsonpath={.status}")
		return strings.Contains(out, `"succeeded":2`) && strings.Contains(out, `"Complete"`), out
	})
	line := `jsonpath={range .items[*]}{.metadata.ownerReferences[0].kind} {.spec.minMember} {.spec.queue} {.status.phase} {.metadata.annotations.volcano\.sh/preemptable};{end}`
	eventually(t, time.Minute, "the PodGroups say what became of their pods", func() (bool, string) {
		out := kubectl(t, "get", "podgroup", "-n", ns, "-o", line)
		return strings.Contains(out, "ReplicaSet 1 e2e-owners Running true;") && strings.Contains(out, "ReplicaSet 2 e2e-owners Running ;") &&
			strings.Contains(out, "Job 2 e2e-owners Completed ;"), out
	})
	kubectl(t, "annotate", "deployment", "apart", "-n", ns, "volcano.sh/preemptable=false", "--overwrite")
	eventually(t, time.Minute, "the PodGroup follows the Deployment", func() (bool, string) {
		out := kubectl(t, "get", "podgroup", "-n", ns, "-o", line)
		return strings.Contains(out, "ReplicaSet 1 e2e-owners Running false;"), out
	})
	kubectl(t, "scale", "deployment", "apart", "together", "-n", ns, "--replicas=0")
	kubectl(t, "delete", "job", "steps", "-n", ns)
	eventually(t, 2*time.Minute, "nothing is left", func() (bool, string) {
		out := kubectl(t, "get", "podgroups,pods", "-n", ns, "-o", "name")
		return out == "", out
	})
}
