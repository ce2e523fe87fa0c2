package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm/slurmtest"
)

// TestMemoryLimit: on a Slurm that keeps jobs to their memory, a container that takes more
// is killed by the kernel and says so; one of the pod that does not goes on, and so does
// the runner.
func TestMemoryLimit(t *testing.T) {
	if err := slurm.MemoryLimited(); err != nil {
		t.Skipf("Slurm cannot keep jobs to their memory here: %v", err)
	}
	cluster := slurmtest.Start(t, slurm.Config{
		Name: "memory", LimitMemory: true,
		Hosts: []slurm.Hosts{{Prefix: "oom", Count: 1, CPUs: 4, MemoryMiB: 4000}},
	})
	b := &slurmBench{bench: newQuietBench(t), cluster: cluster}
	greedy := corev1.Container{Name: "greedy", Command: []string{"python3", "-c", "print('before', flush=True)\nb = bytearray(600 << 20)\nprint('after', len(b))"}}
	m := one(greedy, sh("modest", "sleep 1; echo done"))
	b.stage(m)
	b.submit(manifest.Component{Tasks: 1, CPUs: 2}) // 100 MiB a CPU, see submit
	b.end(0)
	s := b.final(0, manifest.PhaseFailed)
	for _, c := range s.Containers {
		end := c.State.Terminated
		switch {
		case end == nil:
			t.Errorf("container %s has not ended: %+v", c.Name, c.State)
		case c.Name == "greedy" && (end.ExitCode != 137 || end.Reason != "OOMKilled"):
			t.Errorf("the container that takes too much ended as %+v", end)
		case c.Name == "modest" && (end.ExitCode != 0 || end.Reason != "Completed"):
			t.Errorf("the other one ended as %+v", end)
		}
	}
	if log := strings.TrimSpace(b.logs(0, "greedy")); log != "before" {
		t.Errorf("it says %q, want what it said before it was killed", log)
	}
}

// TestOverMemoryKill: where Slurm itself kills a step for its memory, no member is left to
// say so; the launcher heard it.
func TestOverMemoryKill(t *testing.T) {
	cluster := slurmtest.Start(t, slurm.Config{
		Name: "kills", KillOverMemory: true,
		Hosts: []slurm.Hosts{{Prefix: "okay", Count: 1, CPUs: 4, MemoryMiB: 4000}},
	})
	b := &slurmBench{bench: newQuietBench(t), cluster: cluster}
	b.stage(one(corev1.Container{Name: "greedy", Command: []string{"python3", "-c", "import time\nb = bytearray(900 << 20)\ntime.sleep(600)"}}))
	b.submit(manifest.Component{Tasks: 1, CPUs: 2})
	if e := b.end(0); !e.OutOfMemory || e.ExitCode == 0 {
		t.Errorf("the launcher says %+v", e)
	}
	// A runner that is killed leaves its directory, as with any kill of a whole job.
	for _, dir := range globbed(t, filepath.Join(filepath.Dir(b.root), "tmp", "*")) {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
}
