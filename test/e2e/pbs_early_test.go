package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// The steps of flows that ask for it wait at PBS behind those before them, and the second
// of one whose first fails never starts.
func testQueuedEarlyOnPBS(t *testing.T) {
	ns := namespace(t, account.Alice)
	dir := markDir(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	wait := "until [ -e " + file("go") + " ]; do sleep 0.2; done; "
	for name, script := range map[string]string{
		"good1": wait + "touch " + file("good"), "good2": "test -e " + file("good"),
		"bad1": wait + "exit 3", "bad2": "touch " + file("never"),
	} {
		apply(t, ns, "apiVersion: flow.volcano.sh/v1alpha1\nkind: JobTemplate\nmetadata: {name: "+name+"}\nspec:\n"+specOf(job{Name: "x", Replicas: 1, Script: script}.yaml()))
	}
	for _, name := range []string{"good", "bad"} {
		apply(t, ns, fmt.Sprintf("apiVersion: flow.volcano.sh/v1alpha1\nkind: JobFlow\nmetadata: {name: %[1]s, annotations: {isthmus.sh/queue-early: \"true\"}}\n"+
			"spec: {jobRetainPolicy: retain, flows: [{name: %[1]s1}, {name: %[1]s2, dependsOn: {targets: [%[1]s1]}}]}\n", name))
	}
	jobOf := func(step string) string {
		return kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name="+step, "-o", `jsonpath={.items[*].metadata.annotations.isthmus\.sh/batch-job-id}`)
	}
	for _, name := range []string{"good", "bad"} {
		eventually(t, 3*time.Minute, "the second of "+name+" waits at PBS for the first", func() (bool, string) {
			first, second := jobOf(name+"-"+name+"1"), jobOf(name+"-"+name+"2")
			if first == "" || second == "" {
				return false, fmt.Sprintf("batch jobs %q and %q", first, second)
			}
			out, err := here(t).PBS().Run(t.Context(), "qstat", "-f", "-w", second)
			return err == nil && strings.Contains(out, "job_state = H\n") && strings.Contains(out, "Hold_Types = s\n") && strings.Contains(out, "depend = afterok:"+first+"@"), fmt.Sprint(out, err)
		})
	}
	eventually(t, time.Minute, "the pod tells what it waits for", func() (bool, string) {
		out := kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name=good-good2", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="isthmus.sh/BatchJob")].message}`)
		return strings.Contains(out, "Dependency, for batch job ") && strings.Contains(out, " of Job good-good1"), out
	})
	cache, err := checkout.CacheDir() // the environment has built the program there
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "it is explained what the second waits for", func() (bool, string) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(cache, "programs", "isthmus"), "explain", "job", "good-good2", "-n", ns, "--kubeconfig", here(t).Kubeconfig) //nolint:gosec // our own program
		out, err := cmd.CombinedOutput()
		return err == nil && strings.Contains(string(out), "starts after "+ns+"/good-good1 has completed"), fmt.Sprint(string(out), err)
	})
	if err := os.WriteFile(file("go"), nil, 0o644); err != nil { //nolint:gosec // the pods' user looks for it
		t.Fatal(err)
	}
	for name, want := range map[string]string{"good": `Succeed ["good-good1","good-good2"]`, "bad": "Failed "} {
		eventually(t, 4*time.Minute, "flow "+name+" ends", func() (bool, string) {
			out := kubectl(t, "get", "jobflow", name, "-n", ns, "-o", "jsonpath={.status.state.phase} {.status.completedJobs}")
			return out == want, out + "\n" + kubectl(t, "get", "vcjob,pods", "-n", ns, "-o", "wide") + kubectl(t, "get", "events", "-n", ns)
		})
	}
	eventually(t, 2*time.Minute, "the second of the flow that failed is taken back", func() (bool, string) {
		out := kubectl(t, "get", "vcjob,pods", "-n", ns, "-l", "volcano.sh/job-name=bad-bad2", "--ignore-not-found", "-o", "name") +
			kubectl(t, "get", "vcjob", "bad-bad2", "-n", ns, "--ignore-not-found", "-o", "name")
		return out == "", out
	})
	if _, err := os.Stat(file("never")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the second of a flow ran, and the first had failed: %v", err)
	}
}
