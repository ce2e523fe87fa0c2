package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// vnode finds the virtual kubelet's process.
func vnode(t *testing.T) *process.Process {
	t.Helper()
	for _, p := range here(t).Processes() {
		if strings.HasPrefix(p.Name, "vnode") {
			return p
		}
	}
	t.Fatal("no process is named vnode")
	return nil
}

// The daemon is killed 25 times while jobs are submitted and run: no gang runs
// twice, none is lost, nothing is left at the batch system or in the staging area.
func TestKillDuringSubmitAndRun(t *testing.T) {
	kills := 25
	if testing.Short() {
		kills = 10
	}
	killDuringSubmitAndRun(t, kills)
}

func killDuringSubmitAndRun(t *testing.T, kills int) {
	if n, err := strconv.Atoi(os.Getenv("ISTHMUS_KILLS")); err == nil && n > 0 {
		kills = n
	}
	ns := namespace(t, account.Alice)
	marks := t.TempDir()
	for d := marks; d != filepath.Dir(d) && strings.HasPrefix(d, os.TempDir()) && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil { //nolint:gosec // the mapped users write their marks here
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	const members = 2
	var names []string
	for i := range kills {
		name := fmt.Sprintf("k%d", i)
		names = append(names, name)
		// Each start of a member leaves a file of its own.
		script := fmt.Sprintf(`mktemp %s/%s.$VC_TASK_INDEX.XXXXXX >/dev/null && sleep 2`, marks, name)
		apply(t, ns, job{Name: name, Replicas: members, Script: script, CPU: "1", Spec: "  plugins: {env: []}"}.yaml())
		select {
		case <-time.After(time.Duration(rng.IntN(1200)) * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
		if err := vnode(t).Kill(); err != nil {
			t.Fatalf("kill -9: %v", err)
		}
		if err := here(t).Repair(t.Context()); err != nil {
			t.Fatalf("start the daemon again: %v", err)
		}
	}
	for _, name := range names {
		phase(t, ns, name, "Completed", 5*time.Minute)
	}
	double, lost := 0, 0
	for _, name := range names {
		for i := range members {
			files, err := filepath.Glob(filepath.Join(marks, fmt.Sprintf("%s.%d.*", name, i)))
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case len(files) == 0:
				lost++
			case len(files) > 1:
				double++
			}
		}
	}
	kubectl(t, "delete", "vcjob", "--all", "-n", ns)
	eventually(t, 3*time.Minute, "the batch queue and the staging area are empty", func() (bool, string) {
		jobs, dirs := live(batchJobs(t)), staged(t)
		return len(jobs) == 0 && len(dirs) == 0, fmt.Sprintf("jobs %v, directories %v", jobs, dirs)
	})
	t.Logf("%d kill -9: %d double runs, %d lost, 0 leaked", kills, double, lost)
	if double > 0 || lost > 0 {
		t.Errorf("%d members ran twice and %d never", double, lost)
	}
}

// Slurm's controller is away for 30 s: no pod fails or is evicted, the node
// says so, new work waits, and everything converges afterwards.
func TestSlurmOutage(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: this machine runs the local batch system, which has no controller to stop")
	}
	ns := namespace(t, account.Alice)
	apply(t, ns, job{Name: "through", Replicas: 2, Script: "sleep 40"}.yaml())
	phase(t, ns, "through", "Running", time.Minute)
	uids := kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={.items[*].metadata.uid}")

	if err := here(t).Slurm().StopController(); err != nil {
		t.Fatal(err)
	}
	down := time.Now()
	eventually(t, 30*time.Second, "the node shows the outage", func() (bool, string) {
		out := kubectl(t, "get", "nodes", "-l", "isthmus.sh/virtual-node", "-o",
			`jsonpath={range .items[*]}{.status.conditions[?(@.type=="BatchSystemReachable")].status}/{.status.conditions[?(@.type=="Ready")].status} {end}`)
		return strings.TrimSpace(out) == "False/True False/True", out
	})
	apply(t, ns, job{Name: "during", Replicas: 1, Script: "echo late"}.yaml())
	for time.Since(down) < 30*time.Second {
		phases := strings.Fields(kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={.items[*].status.phase}"))
		if slices.Contains(phases, "Failed") {
			t.Fatalf("a pod failed in the outage: %v", phases)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(time.Second):
		}
	}
	if err := here(t).Slurm().StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	phase(t, ns, "through", "Completed", 2*time.Minute)
	phase(t, ns, "during", "Completed", 2*time.Minute)
	after := strings.Fields(kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name=through", "-o", "jsonpath={.items[*].metadata.uid}"))
	for _, uid := range after {
		if !strings.Contains(uids, uid) {
			t.Errorf("pod %s is new: one of %s was evicted", uid, uids)
		}
	}
}
