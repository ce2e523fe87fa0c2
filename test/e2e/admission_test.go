package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// What is wrong with an object of the Volcano API is said at once, by policies and
// by the webhook, whose certificates the controllers made; package
// controllers/admission goes through all rules. With the webhook away everything
// else goes on: what it would have refused is told by the controllers.
func TestAdmission(t *testing.T) {
	ns := namespace(t, account.Alice)
	refused := func(what, manifest, words string) {
		t.Helper()
		out, err := tryKubectl(t, "create", "--dry-run=server", "-n", ns, "-f", manifestFile(t, manifest))
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %s %v, should say %q", what, out, err, words)
		}
	}
	circle := `
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
metadata: {name: circle}
spec:
  tasks:
  - {name: a, replicas: 1, dependsOn: {name: [b]}, template: {spec: {restartPolicy: Never, containers: [{name: c, image: none}]}}}
  - {name: b, replicas: 1, dependsOn: {name: [a]}, template: {spec: {restartPolicy: Never, containers: [{name: c, image: none}]}}}
`
	eventually(t, time.Minute, "the webhook judges", func() (bool, string) {
		out, err := tryKubectl(t, "create", "--dry-run=server", "-n", ns, "-f", manifestFile(t, circle))
		return err != nil && strings.Contains(err.Error(), "dependsOn"), fmt.Sprint(out, err)
	})
	small := job{Name: "small", Replicas: 1, Script: "true"}
	refused("a policy", strings.Replace(small.yaml(), "minAvailable: 1", "minAvailable: 2", 1), "spec.minAvailable: Invalid value: 2: must be at most the replicas of all tasks (1): lower it")
	refused("an argument of a plugin", job{Name: "x", Replicas: 1, Script: "true", Spec: "  plugins: {svc: [--nope]}"}.yaml(), "spec.plugins[svc]: Invalid value")
	refused("a queue that is not there", job{Name: "x", Replicas: 1, Script: "true", Spec: "  queue: nowhere"}.yaml(), `spec.queue: Not found: "nowhere"`)
	refused("a pod", job{Name: "x", Replicas: 1, Script: "true", Pod: "        hostname: Not_A_Name"}.yaml(), "spec.tasks[0].template.spec.hostname: Invalid value")
	refused("a queue", "apiVersion: scheduling.volcano.sh/v1beta1\nkind: Queue\nmetadata: {name: e2e-orphan}\nspec: {parent: nowhere}\n", `spec.parent: Not found: "nowhere"`)
	if out, err := tryKubectl(t, "delete", "queue", "default", "--dry-run=server"); err == nil || !strings.Contains(err.Error(), "is in every cluster and stays") {
		t.Errorf("deletion of queue default: %s %v", out, err)
	}

	// Good ones are completed, run, and may be scaled and nothing else.
	apply(t, ns, small.yaml())
	if got := kubectl(t, "get", "vcjob", "small", "-n", ns, "-o", "jsonpath={.spec.queue} {.spec.maxRetry} {.spec.tasks[0].minAvailable} {.spec.tasks[0].maxRetry}"); got != "default 3 1 3" {
		t.Errorf("the defaults are %q", got)
	}
	apply(t, ns, small.yaml()) // the same file again
	if out, err := tryKubectl(t, "patch", "vcjob", "small", "-n", ns, "--type=merge", "-p", `{"spec":{"queue":"other"}}`); err == nil || !strings.Contains(err.Error(), "spec.queue: Forbidden") {
		t.Errorf("another queue: %s %v", out, err)
	}
	phase(t, ns, "small", "Completed", 2*time.Minute)

	// Without the webhook.
	var argv []string
	for _, p := range here(t).Processes() {
		if p.Name == "controllers" {
			argv = slices.Clone(p.Argv)
		}
	}
	if err := here(t).Restart("controllers", append(slices.Clone(argv), "--webhook-bind-address=0"), nil); err != nil {
		t.Fatal(err)
	}
	restarted := false
	t.Cleanup(func() {
		if !restarted {
			if err := here(t).Restart("controllers", argv, nil); err != nil {
				t.Error(err)
			}
		}
	})
	kubectl(t, "run", "bare", "-n", ns, "--image=none", "--restart=Never", "--dry-run=server")
	apply(t, ns, circle)
	eventually(t, time.Minute, "the controllers say what is wrong", func() (bool, string) {
		out := kubectl(t, "get", "vcjob", "circle", "-n", ns, "-o", "jsonpath={.status.state}")
		return strings.Contains(out, "dependsOn"), out
	})
	apply(t, ns, job{Name: "goes-on", Replicas: 1, Script: "true"}.yaml())
	phase(t, ns, "goes-on", "Completed", 2*time.Minute)
	kubectl(t, "delete", "vcjob", "circle", "-n", ns)
	if err := here(t).Restart("controllers", argv, nil); err != nil {
		t.Fatal(err)
	}
	restarted = true
	eventually(t, time.Minute, "the webhook judges again", func() (bool, string) {
		out, err := tryKubectl(t, "create", "--dry-run=server", "-n", ns, "-f", manifestFile(t, circle))
		return err != nil && strings.Contains(err.Error(), "dependsOn"), fmt.Sprint(out, err)
	})
}
