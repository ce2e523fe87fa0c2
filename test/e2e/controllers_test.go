package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// A CronJob makes a Job that runs at the batch system; suspended, it makes no more.
func TestCronJob(t *testing.T) {
	ns := namespace(t, account.Alice)
	apply(t, ns, `
apiVersion: batch.volcano.sh/v1alpha1
kind: CronJob
metadata: {name: often}
spec:
  schedule: "@every 1s"
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
`+indent("    ", specOf(job{Name: "x", Replicas: 1, Script: "echo it is time"}.yaml())))
	name := ""
	eventually(t, 2*time.Minute, "a Job is made, completes and is on record", func() (bool, string) {
		out := kubectl(t, "get", "vcjob", "-n", ns, "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.state.phase} {.metadata.annotations.volcano\.sh/cronjob-scheduled-timestamp}{"\n"}{end}`)
		first, _, _ := strings.Cut(out, "\n")
		words := strings.Fields(first)
		if len(words) == 3 {
			name = words[0]
		}
		status := kubectl(t, "get", "cronvcjob", "often", "-n", ns, "-o", "jsonpath={.status.lastScheduleTime} {.status.lastSuccessfulTime}")
		return len(words) == 3 && words[1] == "Completed" && len(strings.Fields(status)) == 2, out + status
	})
	if !strings.HasPrefix(name, "often-") {
		t.Errorf("the Job is named %q", name)
	}
	kubectl(t, "patch", "cronvcjob", "often", "-n", ns, "--type=merge", "-p", `{"spec":{"suspend":true}}`)
	kubectl(t, "delete", "cronvcjob", "often", "-n", ns)
}

// A flow of two templates: the second starts when the first has completed.
func TestJobFlow(t *testing.T) {
	ns := namespace(t, account.Alice)
	for _, name := range []string{"first", "second"} {
		apply(t, ns, "apiVersion: flow.volcano.sh/v1alpha1\nkind: JobTemplate\nmetadata: {name: "+name+"}\nspec:\n"+
			specOf(job{Name: "x", Replicas: 1, Script: "echo " + name}.yaml()))
	}
	apply(t, ns, `
apiVersion: flow.volcano.sh/v1alpha1
kind: JobFlow
metadata: {name: flow}
spec:
  jobRetainPolicy: retain
  flows:
  - name: first
  - name: second
    dependsOn: {targets: [first]}
`)
	eventually(t, 3*time.Minute, "the flow succeeds", func() (bool, string) {
		out := kubectl(t, "get", "jobflow", "flow", "-n", ns, "-o", "jsonpath={.status.state.phase} {.status.completedJobs}")
		return out == `Succeed ["flow-first","flow-second"]`, out
	})
	eventually(t, time.Minute, "the template tells its Job", func() (bool, string) {
		out := kubectl(t, "get", "jobtemplate", "first", "-n", ns, "-o", "jsonpath={.status.jobDependsOnList}")
		return out == `["flow-first"]`, out
	})
	out := kubectl(t, "get", "vcjob", "-n", ns, "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.conditions[-1:].lastTransitionTime} {.metadata.creationTimestamp}{"\n"}{end}`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		t.Fatalf("jobs: %s", out)
	}
	first, second := strings.Fields(lines[0]), strings.Fields(lines[1])
	if first[1] > second[2] { // times of RFC 3339 in UTC sort as text
		t.Errorf("the second was made at %s, before the first had completed at %s", second[2], first[1])
	}
}

// vcctl closes and opens a queue by Commands; what is beneath it follows.
func TestQueueCommands(t *testing.T) {
	ns := namespace(t, account.Alice)
	parent := "root"
	for _, name := range []string{"e2e-family", "e2e-child"} { // a parent is there first and goes last
		apply(t, ns, fmt.Sprintf("apiVersion: scheduling.volcano.sh/v1beta1\nkind: Queue\nmetadata: {name: %s}\nspec: {weight: 1, reclaimable: true, parent: %s}\n", name, parent))
		t.Cleanup(func() { kubectlAfter(t, "delete", "queue", name, "--ignore-not-found") })
		parent = name
	}
	state := func(want string) {
		t.Helper()
		eventually(t, time.Minute, "the queues are "+want, func() (bool, string) {
			out := kubectl(t, "get", "queue", "e2e-family", "e2e-child", "-o", `jsonpath={range .items[*]}{.status.state} {.metadata.annotations.volcano\.sh/closed-by-parent} {end}`)
			return strings.Join(strings.Fields(out), " ") == want, out
		})
	}
	command := func(action string) {
		t.Helper()
		apply(t, ns, fmt.Sprintf(`
apiVersion: bus.volcano.sh/v1alpha1
kind: Command
metadata: {name: %s}
action: %s
target: {apiVersion: scheduling.volcano.sh/v1beta1, kind: Queue, name: e2e-family, uid: %s}
`, strings.ToLower(action), action, kubectl(t, "get", "queue", "e2e-family", "-o", "jsonpath={.metadata.uid}")))
	}
	state("Open Open")
	command("CloseQueue")
	state("Closed Closed true")
	command("OpenQueue")
	state("Open Open")
}

// specOf is the spec of a manifest, as lines that are indented by two blanks.
func specOf(manifest string) string {
	_, spec, _ := strings.Cut(manifest, "\nspec:\n")
	return spec
}

func indent(by, text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(by + line)
	}
	return out.String()
}
