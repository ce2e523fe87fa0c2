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
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// trials is how many a test makes: few in an ordinary run, as many as
// ISTHMUS_TRIALS says in a long one.
func trials(few int) int {
	if n, err := strconv.Atoi(os.Getenv("ISTHMUS_TRIALS")); err == nil && n > 0 {
		return n
	}
	return few
}

// pause waits without looking at anything.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// secondDaemon starts another virtual kubelet for the same nodes, with a port of
// its own, and returns once it serves.
func secondDaemon(t *testing.T, group *process.Group, name string) *process.Process {
	t.Helper()
	first := vnode(t)
	argv := daemonArgs(t, environment.ClusterName, filepath.Join(t.TempDir(), "pki"))
	p, err := group.Start(process.Spec{Name: name, Argv: argv, Env: first.Env})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the second daemon serves", func() (bool, string) {
		if !p.Alive() {
			t.Fatalf("the second daemon ended:\n%s", process.Tail(p.Log, 15))
		}
		log := process.Tail(p.Log, 50)
		return strings.Contains(log, "serving"), log
	})
	return p
}

// R13: two daemons serve the same nodes for 30 s while gangs are submitted, some of
// which another scheduler binds; then one of them is killed, in turn the first and the second. Each gang is a trial:
// none runs twice, none is lost, nothing is left behind.
func TestTwoDaemons(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: this machine runs the local batch system, and this is about two daemons before a Slurm")
	}
	const (
		together = 10 // gangs an overlap
		members  = 2
		overlap  = 30 * time.Second
	)
	group, err := process.Open(t.TempDir(), process.Options{Tether: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := group.StopAll(5 * time.Second); err != nil {
			t.Error(err)
		}
	})
	ns := namespace(t, account.Alice)
	manyWait(t, ns)
	marks := markDir(t)
	rng := rand.New(rand.NewPCG(13, 1)) //nolint:gosec // a run that can be repeated
	total, double, lost, twice := trials(together), 0, 0, 0
	for begun, round := 0, 0; begun < total; round++ {
		second := secondDaemon(t, group, fmt.Sprintf("second-%d", round))
		var names, jobs []string
		var foreign []foreignGang
		end := time.Now().Add(overlap)
		for i := range min(together, total-begun) {
			name := fmt.Sprintf("o%d-%d", round, i)
			names = append(names, name)
			script := fmt.Sprintf(`mktemp %s/%s.$VC_TASK_INDEX.XXXXXX >/dev/null && sleep %d`, marks, name, rng.IntN(4))
			if i%3 == 1 {
				g := foreignGang{ns, name, members}
				g.bind(t, script)
				foreign = append(foreign, g)
			} else {
				jobs = append(jobs, name)
				apply(t, ns, job{Name: name, Replicas: members, Spec: "  plugins: {env: []}", Script: script}.yaml())
			}
			pause(t, time.Duration(rng.Int64N(int64(overlap/together))))
		}
		begun += len(names)
		pause(t, time.Until(end))
		killed := second
		if round%2 == 1 {
			killed = vnode(t)
		}
		if err := killed.Kill(); err != nil {
			t.Fatal(err)
		}
		for _, name := range jobs {
			phase(t, ns, name, "Completed", 5*time.Minute)
		}
		for _, g := range foreign {
			g.succeeds(t)
		}
		first := map[string]string{} // id by key
		for _, j := range batchJobs(t) {
			if id, ok := first[j.Name]; ok && id != j.ID {
				twice++
			}
			first[j.Name] = j.ID
		}
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
		for _, name := range jobs {
			kubectl(t, "delete", "vcjob", name, "-n", ns, "--wait=false")
		}
		for _, g := range foreign {
			g.remove(t)
		}
		if err := second.Stop(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		if err := here(t).Repair(t.Context()); err != nil {
			t.Fatalf("start the daemon again: %v", err)
		}
	}
	eventually(t, 3*time.Minute, "the batch queue and the staging area are empty", func() (bool, string) {
		jobs, dirs := live(batchJobs(t)), staged(t)
		return len(jobs) == 0 && len(dirs) == 0, fmt.Sprintf("jobs %v, directories %v", jobs, dirs)
	})
	t.Logf("R13 on real Slurm: %d trials, %d members ran twice, %d never; %d jobs of the second to submit stayed held", total, double, lost, twice)
	if double > 0 || lost > 0 {
		t.Errorf("%d members ran twice and %d never", double, lost)
	}
}

// R3: after the last of some faults all gangs come to their end. A trial submits
// gangs around a fault of a few seconds: the controller of Slurm is stopped, the
// API server or the daemon is killed, or the site is reached over SSH and its login
// node cuts all connections and takes no more.
func TestConvergence(t *testing.T) {
	slurm := here(t).Slurm()
	if slurm == nil {
		t.Skip("SKIP: this machine runs the local batch system, which has no controller to stop")
	}
	ns := namespace(t, account.Alice)
	marks := markDir(t)
	rng := rand.New(rand.NewPCG(3, 1)) //nolint:gosec // a run that can be repeated
	member := func(name string) *process.Process {
		for _, p := range here(t).Processes() {
			if strings.HasPrefix(p.Name, name) {
				return p
			}
		}
		t.Fatalf("no process is named %s", name)
		return nil
	}
	login, keyFile := loginNode(t)
	over, back := overSSH(t, login, keyFile)
	none := func() {}
	faults := []struct {
		name          string
		before, after func() // the trial
		begin, end    func()
	}{
		{"slurmctld stopped", none, none, func() {
			if err := slurm.StopController(); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := slurm.StartController(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"API server killed", none, none, func() {
			if err := member("kube-apiserver").Kill(); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := here(t).Repair(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"daemon killed", none, none, func() {
			if err := vnode(t).Kill(); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := here(t).Repair(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"SSH cut", over, back, func() {
			if err := login.Halt(); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := login.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
	}
	total := trials(len(faults))
	var took []time.Duration
	of := map[string]time.Duration{} // the longest by fault
	for trial := range total {
		fault := faults[trial%len(faults)]
		fault.before()
		var names []string
		submit := func() {
			name := fmt.Sprintf("c%d-%d", trial, len(names))
			names = append(names, name)
			file := filepath.Join(t.TempDir(), "job.yaml")
			text := job{Name: name, Replicas: 2, Spec: "  plugins: {env: []}",
				Script: fmt.Sprintf(`mktemp %s/%s.$VC_TASK_INDEX.XXXXXX >/dev/null && sleep 2`, marks, name)}.yaml()
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			// An API server that was just started refuses all that a policy with
			// parameters looks at, until it knows the parameters' kind.
			eventually(t, 2*time.Minute, "the API server takes "+name, func() (bool, string) {
				out, err := tryKubectl(t, "apply", "-n", ns, "-f", file)
				return err == nil, fmt.Sprint(out, err)
			})
		}
		for range 3 {
			submit()
			pause(t, time.Duration(rng.IntN(500))*time.Millisecond)
		}
		fault.begin()
		if fault.name != "API server killed" {
			submit()
		}
		pause(t, time.Duration(1000+rng.IntN(4000))*time.Millisecond)
		fault.end()
		since := time.Now()
		for _, name := range names {
			phase(t, ns, name, "Completed", 5*time.Minute)
		}
		took = append(took, time.Since(since))
		of[fault.name] = max(of[fault.name], took[trial])
		for _, name := range names {
			once(t, marks, name, 2)
			kubectl(t, "delete", "vcjob", name, "-n", ns, "--wait=false")
		}
		fault.after()
	}
	eventually(t, 3*time.Minute, "the batch queue and the staging area are empty", func() (bool, string) {
		jobs, dirs := live(batchJobs(t)), staged(t)
		return len(jobs) == 0 && len(dirs) == 0, fmt.Sprintf("jobs %v, directories %v", jobs, dirs)
	})
	slices.Sort(took)
	t.Logf("R3 on real Slurm: %d trials, all gangs ended after the fault within %.1f s (median), %.1f s (99 of 100), each with 2 s of work; longest by fault: %v",
		total, took[len(took)/2].Seconds(), took[(len(took)*99+99)/100-1].Seconds(), of)
}
