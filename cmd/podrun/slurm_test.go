package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	backendslurm "github.com/isthmus-hpc/isthmus/backends/slurm"
	localrunner "github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	testusers "github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm/slurmtest"
)

// slurmBench is a bench whose gangs run in a real Slurm cluster.
type slurmBench struct {
	*bench
	cluster *slurm.Cluster
}

// startSlurm starts a cluster for the cases of one test.
func startSlurm(t *testing.T) *slurm.Cluster {
	t.Helper()
	return slurmtest.Start(t, slurm.Config{Name: "podrun", KillWait: 10 * time.Second})
}

func (b *slurmBench) command(args ...string) string {
	b.t.Helper()
	cmd := b.bench.command()
	cmd.Path, cmd.Args = "/usr/bin/"+args[0], args
	cmd.Env = append(b.cluster.Env(), b.env...)
	cmd.Dir = b.dir()
	cmd.Stdin = strings.NewReader(strings.Replace(backends.LaunchScript, " .\n", " "+strings.Join(append(b.args, "."), " ")+"\n", 1))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		b.t.Fatalf("%v: %v: %s", args, err, errs.String())
	}
	return strings.TrimSpace(out.String())
}

// submit submits the staged gang as backends/slurm does.
func (b *slurmBench) submit(components ...manifest.Component) string {
	b.t.Helper()
	g := manifest.Gang{}
	name := filepath.Join(b.dir(), "gang.json")
	data, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(data, &g)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	g.Launcher, g.Components = "slurm", components
	if data, err = json.Marshal(g); err == nil {
		err = os.WriteFile(name, data, 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	args := []string{"sbatch", "--parsable", "--job-name=g1", "--requeue", "--open-mode=append", "--output=batch.log", "--chdir=" + b.dir()}
	for i, c := range components {
		if i > 0 {
			args = append(args, ":")
		}
		args = append(args, fmt.Sprintf("--ntasks=%d", c.Tasks), fmt.Sprintf("--cpus-per-task=%d", c.CPUs), "--mem-per-cpu=100")
		for kind, n := range c.GPUs {
			args = append(args, fmt.Sprintf("--gpus-per-task=%s:%d", kind, n))
		}
	}
	b.showBatchLog()
	id := b.command(args...)
	b.t.Cleanup(func() {
		if b.t.Failed() {
			b.command("scancel", id)
		}
	})
	return id
}

func TestSlurm(t *testing.T) {
	cluster := startSlurm(t)
	t.Run("cases", func(t *testing.T) { // parallel cases end before the cluster does
		for name, run := range map[string]func(*testing.T, *slurmBench){
			"plain": slurmPlain, "heterogeneous": slurmHeterogeneous, "cancel": slurmCancel, "requeue": slurmRequeue, "siblings": slurmSiblings, "enter": slurmEnter,
		} {
			t.Run(name, func(t *testing.T) { run(t, &slurmBench{bench: newBench(t), cluster: cluster}) })
		}
	})
}

const showSelf = `echo "$SLURMD_NODENAME gpus=$CUDA_VISIBLE_DEVICES procid=$SLURM_PROCID cpus=$(nproc)"; `

func slurmPlain(t *testing.T, b *slurmBench) {
	m := one(sh("main", showSelf+"for n in 0 1 2; do getent hosts m-$n-host.sub || exit 1; done"))
	b.stage(m, m, m)
	b.submit(manifest.Component{Tasks: 3, CPUs: 1, GPUs: map[string]int64{"a100": 4}})
	if e := b.end(0); e.ExitCode != 0 {
		t.Errorf("end %+v", e)
	}
	hosts := map[string]bool{}
	for rank := range 3 {
		s := b.final(rank, manifest.PhaseSucceeded)
		hosts[s.Host] = true
		if s.HostIP != b.cluster.Address(s.Host) {
			t.Errorf("rank %d: address %s of %s, want %s", rank, s.HostIP, s.Host, b.cluster.Address(s.Host))
		}
		log := b.logs(rank, "main")
		first, _, _ := strings.Cut(log, "\n")
		if !strings.HasPrefix(log, s.Host+" gpus=") || strings.Count(first, ",") != 3 || !strings.Contains(log, fmt.Sprintf("procid=%d", rank)) {
			t.Errorf("rank %d: %s", rank, log)
		}
	}
	if len(hosts) < 2 {
		t.Errorf("hosts %v", hosts)
	}
}

func slurmHeterogeneous(t *testing.T, b *slurmBench) {
	m := one(sh("main", showSelf+"for n in 0 1 2; do getent hosts m-$n-host || exit 1; done"))
	b.stage(m, m, m)
	b.submit(manifest.Component{Tasks: 1, CPUs: 2, GPUs: map[string]int64{"a100": 1}}, manifest.Component{Tasks: 2, CPUs: 1})
	if e := b.end(0); e.ExitCode != 0 {
		t.Errorf("end %+v", e)
	}
	for rank := range 3 {
		b.final(rank, manifest.PhaseSucceeded)
		log := b.logs(rank, "main")
		if want := fmt.Sprintf("procid=%d", rank); !strings.Contains(log, want) || strings.Contains(log, "gpus= ") == (rank == 0) {
			t.Errorf("rank %d: %s", rank, log)
		}
	}
}

// scancel gives the pods their grace, within the cluster's KillWait.
func slurmCancel(t *testing.T, b *slurmBench) {
	m := one(sh("main", "trap 'sleep 2; echo cleaned up; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
	m.grace = 5
	m.spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/true"}}}}
	b.stage(m, m)
	id := b.submit(manifest.Component{Tasks: 2, CPUs: 33})
	for rank := range 2 {
		until(t, "it is up", func() bool {
			s, _ := b.status(rank)
			return s.Phase == manifest.PhaseRunning && s.Containers[0].State.Running != nil && strings.Contains(b.logs(rank, "main"), "up")
		})
	}
	b.command("scancel", id)
	b.end(0)
	for rank := range 2 {
		if s := b.final(rank, manifest.PhaseFailed); s.Reason != "Terminated" || exitCode(s, 0) != 0 || !strings.Contains(b.logs(rank, "main"), "cleaned up") {
			t.Errorf("rank %d: %+v, log %q", rank, s, b.logs(rank, "main"))
		}
	}
}

func slurmRequeue(t *testing.T, b *slurmBench) {
	m := one(sh("main", "test -e $HOME/again && exit; echo up; exec sleep 1000"))
	b.stage(m, m)
	id := b.submit(manifest.Component{Tasks: 2, CPUs: 1})
	for rank := range 2 {
		until(t, "it has looked for the file, and goes on", func() bool {
			s, _ := b.status(rank)
			return s.Phase == manifest.PhaseRunning && s.Containers[0].State.Running != nil && strings.Contains(b.logs(rank, "main"), "up")
		})
	}
	if err := os.WriteFile(b.file("again"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b.command("scontrol", "requeue", id)
	until(t, "it waits again", func() bool { return strings.HasPrefix(b.command("squeue", "-h", "-j", id, "-o", "%T"), "PENDING") })
	// Slurm waits two minutes; a few seconds are needed for the nodes to accept a
	// new credential of the same job.
	b.command("scontrol", "update", "JobId="+id, "StartTime=now+4")
	if e := b.end(1); e.ExitCode != 0 {
		t.Errorf("end %+v", e)
	}
	for rank := range 2 {
		if s := b.final(rank, manifest.PhaseSucceeded); s.Restart != 1 || s.Containers[0].RestartCount != 1 || s.Containers[0].LastState.Terminated == nil {
			t.Errorf("rank %d: %+v", rank, s)
		}
	}
}

// A member that is killed, runner and all, takes no sibling with it.
func slurmSiblings(t *testing.T, b *slurmBench) {
	good := one(sh("main", "while ! test -e $HOME/go; do sleep 0.05; done"))
	b.stage(good, one(sh("main", "exit 3")), one(sh("main", "touch $HOME/killed; kill -9 $PPID; sleep 1000")), good)
	b.submit(manifest.Component{Tasks: 4, CPUs: 1})
	until(t, "one has failed, and one was killed", func() bool {
		failed, _ := b.status(1)
		_, err := os.Stat(b.file("killed"))
		return failed.Phase == manifest.PhaseFailed && err == nil
	})
	if err := os.WriteFile(b.file("go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := b.end(0); e.ExitCode != 1 || !strings.Contains(e.Message, "1 of 4 pods failed, 1 ended without a last word, first ns/m-1: srun: exit status 137") {
		t.Errorf("end %+v", e)
	}
	b.final(0, manifest.PhaseSucceeded)
	b.final(3, manifest.PhaseSucceeded)
	b.emptyTemp()
}

// Programs are started in a running job's pods through srun, in each component.
func slurmEnter(t *testing.T, b *slurmBench) {
	m := one(sh("main", "while ! test -e $HOME/go; do sleep 0.05; done"))
	b.stage(m, m, m)
	id := b.submit(manifest.Component{Tasks: 1, CPUs: 2, GPUs: map[string]int64{"a100": 1}}, manifest.Component{Tasks: 2, CPUs: 1})
	data := bytes.Repeat([]byte("0123456789abcde\n\x00\xff\r\n"), 10<<20/20)
	back, err := backendslurm.New(backendslurm.Config{Runner: localrunner.New(), Env: b.cluster.Env()})
	if err != nil {
		t.Fatal(err)
	}
	for rank := range 3 {
		until(t, "it runs", func() bool {
			s, _ := b.status(rank)
			return len(s.Containers) == 1 && s.Containers[0].State.Running != nil
		})
		s, _ := b.status(rank)
		ref := backends.JobRef{ID: backends.JobID(id), User: testusers.Alice, Component: min(rank, 1) + 1}
		entry, err := back.Enter(ref, s.Host, []string{podrunPath, "stream", "--rank=" + fmt.Sprint(rank), b.dir()})
		if err != nil {
			t.Fatal(err)
		}
		cmd := b.bench.command()
		cmd.Path, cmd.Args, cmd.Env = "/usr/bin/"+entry.Argv[0], entry.Argv, slices.Concat(entry.Env, []string{"PATH=/usr/bin:/bin"})
		began := time.Now()
		c, _ := b.dialBy(cmd)
		out, _, exit := do(t, c, script("echo $SLURMD_NODENAME $SLURM_PROCID $CUDA_VISIBLE_DEVICES; exit 5"), nil)
		t.Logf("rank %d: first answer after %s: %s", rank, time.Since(began).Round(time.Millisecond), out)
		if exit.Code != 5 || !strings.HasPrefix(out, fmt.Sprintf("%s %d", s.Host, rank)) || (len(strings.Fields(out)) == 3) != (rank == 0) {
			t.Errorf("rank %d on %s: %q, code %d", rank, s.Host, out, exit.Code)
		}
		began = time.Now()
		if out, _, _ := do(t, c, script("cat"), bytes.NewReader(data)); out != string(data) {
			t.Errorf("rank %d: %d bytes of %d came back", rank, len(out), len(data))
		}
		t.Logf("rank %d: 10 MB there and back in %s", rank, time.Since(began).Round(time.Millisecond))
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(b.file("go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := b.end(0); e.ExitCode != 0 {
		t.Errorf("end %+v", e)
	}
}
