package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// The steps of flows that ask for it wait at Slurm behind those before them. None of
// them starts before what it depends on has completed: also when that fails, and when
// it is restarted.
func TestQueueEarly(t *testing.T) {
	slurm := here(t).Slurm()
	if slurm == nil {
		t.Skip("SKIP: the dependencies are Slurm's, which cannot run here or this run was told not to")
	}
	ns := namespace(t, account.Alice)
	dir, err := os.MkdirTemp("", "isthmus-early-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // the pods' user writes there
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	wait := "until [ -e " + file("go") + " ]; do sleep 0.2; done; "
	for name, j := range map[string]job{
		"good1": {Script: wait + "sleep 1; touch " + file("good")},
		"good2": {Script: "test -e " + file("good")},
		"bad1":  {Script: wait + "exit 3"},
		"bad2":  {Script: "touch " + file("never")},
		// Its first run fails, and it is restarted for that.
		"again1": {Script: "if [ -e " + file("first") + " ]; then sleep 2; touch " + file("again") + "; exit 0; fi; touch " + file("first") + "; " + wait + "exit 4",
			Spec: "  maxRetry: 3\n  policies: [{event: PodFailed, action: RestartJob}]"},
		"again2": {Script: "test -e " + file("again")},
	} {
		j.Name, j.Replicas = "x", 1
		apply(t, ns, "apiVersion: flow.volcano.sh/v1alpha1\nkind: JobTemplate\nmetadata: {name: "+name+"}\nspec:\n"+specOf(j.yaml()))
	}
	for _, name := range []string{"good", "bad", "again"} {
		apply(t, ns, fmt.Sprintf(`
apiVersion: flow.volcano.sh/v1alpha1
kind: JobFlow
metadata:
  name: %[1]s
  annotations: {isthmus.sh/queue-early: "true"}
spec:
  jobRetainPolicy: retain
  flows:
  - name: %[1]s1
  - name: %[1]s2
    dependsOn: {targets: [%[1]s1]}
`, name))
	}
	jobOf := func(step string) string {
		return kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name="+step, "-o", `jsonpath={.items[*].metadata.annotations.isthmus\.sh/batch-job-id}`)
	}
	ids := map[string]string{}
	for _, name := range []string{"good", "bad", "again"} {
		eventually(t, 3*time.Minute, "the second of "+name+" waits at Slurm for the first", func() (bool, string) {
			first, second := jobOf(name+"-"+name+"1"), jobOf(name+"-"+name+"2")
			if first == "" || second == "" {
				return false, fmt.Sprintf("batch jobs %q and %q", first, second)
			}
			ids[name] = second
			out, err := slurm.Run(t.Context(), "squeue", "--noheader", "--jobs="+second, "--format=%T %r %E")
			return err == nil && strings.HasPrefix(out, "PENDING Dependency ") && strings.Contains(out, "afterok:"+first), fmt.Sprint(out, err)
		})
	}
	eventually(t, time.Minute, "the pod tells what it waits for", func() (bool, string) {
		out := kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name=good-good2", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="isthmus.sh/BatchJob")].message}`)
		return strings.Contains(out, "Dependency, for batch job ") && strings.Contains(out, " of Job good-good1"), out
	})
	if err := os.WriteFile(file("go"), nil, 0o644); err != nil { //nolint:gosec // the pods' user looks for it
		t.Fatal(err)
	}
	for name, want := range map[string]string{"good": `Succeed ["good-good1","good-good2"]`, "bad": "Failed ", "again": `Succeed ["again-again1","again-again2"]`} {
		eventually(t, 4*time.Minute, "flow "+name+" ends", func() (bool, string) {
			out := kubectl(t, "get", "jobflow", name, "-n", ns, "-o", "jsonpath={.status.state.phase} {.status.completedJobs}")
			return out == want, out + "\n" + kubectl(t, "get", "vcjob,pods", "-n", ns, "-o", "wide") + kubectl(t, "get", "events", "-n", ns)
		})
	}
	for _, name := range []string{"bad", "again"} {
		eventually(t, time.Minute, "the job that waited for a run that failed has ended", func() (bool, string) {
			out, err := slurm.Run(t.Context(), "scontrol", "show", "job", ids[name], "--oneliner")
			return strings.Contains(out, "JobState=CANCELLED") && strings.Contains(out, " NodeList= ") || strings.Contains(out, "JobState=CANCELLED") && strings.Contains(out, " NodeList=(null) ") || err != nil && strings.Contains(err.Error(), "Invalid job id"), fmt.Sprint(out, err)
		})
	}
	eventually(t, 2*time.Minute, "the second of a flow that failed is taken back", func() (bool, string) {
		out := kubectl(t, "get", "vcjob", "bad-bad2", "-n", ns, "--ignore-not-found", "-o", "name")
		return out == "", out
	})
	if _, err := os.Stat(file("never")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the second of a flow ran, and the first had failed: %v", err)
	}
	if out := kubectl(t, "get", "vcjob", "good-good2", "-n", ns, "-o", `jsonpath={.metadata.annotations.isthmus\.sh/after}`); out != "" {
		t.Errorf("job good-good2 is said to come after %q, which has completed", out)
	}
}
