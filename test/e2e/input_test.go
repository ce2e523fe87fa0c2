package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// told waits until the events of a namespace hold all words.
func told(t *testing.T, ns string, words ...string) {
	t.Helper()
	eventually(t, 45*time.Second, fmt.Sprintf("an event says %q", words), func() (bool, string) {
		out := kubectl(t, "get", "events", "-n", ns, "-o", "jsonpath={range .items[*]}{.reason}: {.message}\n{end}")
		for _, w := range words {
			if !strings.Contains(out, w) {
				return false, out
			}
		}
		return true, out
	})
}

// Wrong input gives an event that names what to do; what can be mended later
// starts once it is.
func TestWrongInput(t *testing.T) {
	t.Run("no account mapping", func(t *testing.T) {
		ns := namespace(t, "")
		apply(t, ns, job{Name: "who", Replicas: 1, Script: "id -un"}.yaml())
		told(t, ns, "spec.accounts", ns)
		kubectl(t, "label", "namespace", ns, "test-user="+account.Bob)
		phase(t, ns, "who", "Completed", 2*time.Minute)
		if got := strings.TrimSpace(kubectl(t, "logs", "-n", ns, "who-task-0")); got != account.Bob {
			t.Errorf("the job ran as %q", got)
		}
	})
	t.Run("missing ConfigMap", func(t *testing.T) {
		ns := namespace(t, account.Alice)
		apply(t, ns, job{Name: "needs", Replicas: 1, Script: `echo "$WORD"`,
			Extra: "          env: [{name: WORD, valueFrom: {configMapKeyRef: {name: later, key: word}}}]"}.yaml())
		told(t, ns, "later")
		kubectl(t, "create", "configmap", "later", "-n", ns, "--from-literal=word=hello")
		phase(t, ns, "needs", "Completed", 2*time.Minute)
		if got := kubectl(t, "logs", "-n", ns, "needs-task-0"); got != "hello\n" {
			t.Errorf("log is %q", got)
		}
	})
	t.Run("image entrypoint on runtime host", func(t *testing.T) {
		ns := namespace(t, account.Alice)
		apply(t, ns, `
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
metadata: {name: image}
spec:
  minAvailable: 1
  tasks:
  - name: task
    replicas: 1
    template:
      metadata: {annotations: {isthmus.sh/runtime: host}}
      spec:
        restartPolicy: Never
        containers: [{name: main, image: "docker.io/library/busybox:1", resources: {requests: {cpu: 1}}}]
`)
		told(t, ns, "spec.containers[0].command")
	})
	t.Run("unknown partition", func(t *testing.T) {
		kubectl(t, "patch", "batchcluster", environment.ClusterName, "--type=json",
			`-p=[{"op": "add", "path": "/spec/nodes/-", "value": {"name": "testbed-nope", "partition": "nope"}}]`)
		t.Cleanup(func() {
			kubectlAfter(t, "patch", "batchcluster", environment.ClusterName, "--type=json", `-p=[{"op": "remove", "path": "/spec/nodes/2"}]`)
			kubectlAfter(t, "delete", "node", "testbed-nope", "--ignore-not-found")
		})
		eventually(t, 45*time.Second, "the BatchCluster names the partition and those there are", func() (bool, string) {
			out := kubectl(t, "get", "batchcluster", environment.ClusterName, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].message}`)
			return strings.Contains(out, `"nope"`) && strings.Contains(out, "a100, h100"), out
		})
	})
	t.Run("unreachable host", func(t *testing.T) {
		if here(t).Slurm() == nil {
			t.Skip("SKIP: this machine runs the local batch system, which has no hosts to lose")
		}
		host := here(t).Slurm().HostNames()[0]
		if err := here(t).Slurm().StopHost(host); err != nil {
			t.Fatal(err)
		}
		// Slurm finds out by itself within SlurmdTimeout; an administrator says it at once.
		if _, err := here(t).Slurm().Run(t.Context(), "scontrol", "update", "NodeName="+host, "State=DOWN", "Reason=unreachable"); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "the node counts the host out", func() (bool, string) {
			out := kubectl(t, "get", "node", "testbed-a100", "-o", `jsonpath={.status.allocatable.nvidia\.com/gpu} {.status.conditions[?(@.type=="PartitionUsable")].message}`)
			return strings.HasPrefix(out, "8 ") && strings.Contains(out, "1 are not"), out
		})
		if err := here(t).Slurm().StartHost(t.Context(), host); err != nil {
			t.Fatal(err)
		}
		// Where Slurm has returned the host to service by itself this is refused.
		_, resumeErr := here(t).Slurm().Run(t.Context(), "scontrol", "update", "NodeName="+host, "State=RESUME")
		eventually(t, time.Minute, "the node counts the host in again", func() (bool, string) {
			out := kubectl(t, "get", "node", "testbed-a100", "-o", `jsonpath={.status.allocatable.nvidia\.com/gpu}`)
			return out == "16", fmt.Sprint(out, resumeErr)
		})
	})
}

// kubectlAfter is kubectl for clean-up, when the test's own context has ended.
func kubectlAfter(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if out, err := here(t).KubectlCommand(ctx, args...).CombinedOutput(); err != nil {
		t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
