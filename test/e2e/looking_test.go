package e2e

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// looks are the commands of scheduler/LOOKING.md and what they have to say while
// the job "holder" has all GPUs and "big" waits for as many.
var looks = map[string][]string{
	"isthmus top": {"nodes ready", "QUEUE", "default", "GANG", "big", "holder"},
	"isthmus top --once --queue default --rows 50":                                              {"big", "waits", "nvidia.com/gpu, 0 free"},
	"isthmus explain job big -n physics":                                                        {"0 of at least 2 members placed, 2 wait", "waits (NoCapacity)"},
	"isthmus explain queue default":                                                             {"nvidia.com/gpu: holds 16", "physics/big-", "waits (NoCapacity)"},
	"isthmus explain node hpc-a100":                                                             {"nvidia.com/gpu: 0 of", "pods of physics/holder"},
	"isthmus snapshot > state.json":                                                             {},
	"isthmus replay state.json":                                                                 {"wait podgroup/physics/big-"},
	"isthmus explain job big -n physics --snapshot state.json":                                  {"waits (NoCapacity)"},
	"isthmus simulate --load 0.9 --report made-up.html":                                         {"fifo", "backfill", "see made-up.html"},
	"isthmus simulate --load 0.9 --learnt":                                                      {"fifo", "backfill", "learnt"},
	"isthmus simulate --trace month.sacct --nodes 16 --per-node 4 --queues --report month.html": {"1 records are left out", "see month.html"},
}

// Every command of the guide for looking at the scheduler is run on a cluster where a
// job waits. The one of sacct is not: the records it prints are made up here, since
// this Slurm keeps none.
func TestLooking(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: the guide is tried on Slurm's hosts, which this machine cannot run or this run was told not to")
	}
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cache, err := checkout.CacheDir() // the environment has built it there, with the programs it runs
	if err != nil {
		t.Fatal(err)
	}
	programs := filepath.Join(cache, "programs")
	ns := namespace(t, account.Alice)
	apply(t, ns, job{Name: "holder", Replicas: 2, GPUs: 8, Script: "exec sleep 600", Pod: onA100}.yaml())
	phase(t, ns, "holder", "Running", time.Minute)
	node := strings.Fields(kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={.items[*].spec.nodeName}"))[0]
	apply(t, ns, job{Name: "big", Replicas: 2, GPUs: 8, Script: "echo done", Pod: onA100}.yaml())
	eventually(t, time.Minute, "the second job's pods wait", func() (bool, string) {
		out := kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name=big", "-o", "name")
		return len(strings.Fields(out)) == 2, out
	})
	if err := os.WriteFile(filepath.Join(dir, "month.sacct"), []byte("JobIDRaw|User|Partition|Submit|Start|End|TimelimitRaw|AllocCPUS\n"+
		"7|ann|gpu|2026-03-01T10:00:00|2026-03-01T10:00:30|2026-03-01T10:20:00|60|8\n8|ann|gpu|2026-03-01T10:00:00|Unknown|Unknown|60|0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(line string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "bash", "-c", strings.ReplaceAll(strings.ReplaceAll(line, "physics", ns), "hpc-a100", node)) //nolint:gosec // lines of our own guide
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"), "KUBECONFIG="+here(t).Kubeconfig, "HOME="+dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	guide, err := os.ReadFile(filepath.Join(root, "scheduler", "LOOKING.md"))
	if err != nil {
		t.Fatal(err)
	}
	left := maps.Clone(looks)
	for line := range strings.Lines(string(guide)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "isthmus ") {
			continue
		}
		want, known := looks[line]
		if !known {
			t.Errorf("nobody says what %q is to print", line)
		}
		delete(left, line)
		out, err := run(line)
		if err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
		for _, w := range want {
			if !strings.Contains(out, strings.ReplaceAll(w, "physics", ns)) {
				t.Errorf("%s does not say %q:\n%s", line, w, out)
			}
		}
	}
	for line := range left {
		t.Errorf("the guide does not say %q", line)
	}
	// What was taken home holds no environment: the script is not in it.
	if state, err := os.ReadFile(filepath.Join(dir, "state.json")); err != nil || bytes.Contains(state, []byte("echo done")) {
		t.Errorf("the snapshot holds a pod's command (%v)", err)
	}
}
