package slurmrest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// site is a backend on a real cluster with what a test wants of it.
type site struct {
	backends.Backend
	t     *testing.T
	owner string
	keys  string // starts the job keys; jobs of one key wait for one another
	next  int
}

var sites atomic.Int64

func siteOn(t *testing.T, b backends.Backend) *site {
	return &site{Backend: b, t: t, owner: strings.ToLower(t.Name()), keys: fmt.Sprintf("r%dk", sites.Add(1))}
}

var oneTask = backends.Component{Tasks: 1, CPUs: 1, MemoryMiB: 10}

// spec is a job of alice's whose podrun is the given shell text.
func (s *site) spec(partition, podrun string, components ...backends.Component) backends.JobSpec {
	s.t.Helper()
	s.next++
	dir := backendtest.DiskOf(s.t, account.Alice).Place(s.t, fmt.Sprintf("job%d", s.next), backendtest.Program{})
	if err := os.WriteFile(filepath.Join(dir, "podrun"), []byte("#!/bin/sh\n"+podrun+"\n"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	return backends.JobSpec{
		Key: backends.Key(fmt.Sprintf("%s%d", s.keys, s.next)), Owner: s.owner, User: account.Alice, Partition: partition,
		Walltime: 10 * time.Minute, WorkDir: dir, Components: components,
	}
}

func (s *site) submit(spec backends.JobSpec) backends.JobRef {
	s.t.Helper()
	id, err := s.Submit(s.t.Context(), spec)
	if err != nil {
		s.t.Fatal(err)
	}
	ref := backends.JobRef{ID: id, Key: spec.Key, User: spec.User}
	s.t.Cleanup(func() {
		// t.Context has ended by now.
		if err := s.Cancel(context.WithoutCancel(s.t.Context()), ref); err != nil {
			s.t.Errorf("cancel %s: %v", id, err)
		}
	})
	return ref
}

func (s *site) start(spec backends.JobSpec) backends.JobRef {
	s.t.Helper()
	ref := s.submit(spec)
	if err := s.Release(s.t.Context(), ref); err != nil {
		s.t.Fatal(err)
	}
	return ref
}

// state looks at the job until it is in the state.
func (s *site) state(ref backends.JobRef, want backends.State) backends.Job {
	s.t.Helper()
	return s.until(ref, string(want), func(j backends.Job) bool { return j.State == want })
}

// until looks at the job until it is as wanted.
func (s *site) until(ref backends.JobRef, what string, is func(backends.Job) bool) backends.Job {
	s.t.Helper()
	var last backends.Job
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		o, err := s.Observe(s.t.Context(), s.owner, []string{account.Alice})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, j := range o.Jobs {
			if j.ID == ref.ID {
				if last = j; is(j) {
					return j
				}
			}
		}
	}
	s.t.Fatalf("job %s never was %s; last %+v", ref.ID, what, last)
	return last
}

// show is a task that tells what it sees.
const show = `sh -c 'echo "task $SLURM_PROCID $SLURMD_NODENAME [$CUDA_VISIBLE_DEVICES]"'`

// step is how the launcher calls srun.
const step = "unset CUDA_VISIBLE_DEVICES SLURM_JOB_GPUS\nsrun --kill-on-bad-exit=0 --wait=0 --mem=0 "

// tasks gives the GPUs that each task saw, by rank, as host/device.
func (s *site) tasks(spec backends.JobSpec) map[int][]string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(spec.WorkDir, "batch.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[int][]string{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != "task" {
			continue
		}
		rank, err := strconv.Atoi(f[1])
		if _, twice := out[rank]; err != nil || twice {
			s.t.Fatalf("batch.log: %s", text)
		}
		out[rank] = []string{}
		if ids := strings.Trim(f[3], "[]"); ids != "" {
			for _, id := range strings.Split(ids, ",") {
				out[rank] = append(out[rank], f[2]+"/"+id)
			}
		}
	}
	return out
}

// The batch script's steps have the tasks and GPUs that a job of sbatch would
// give them.
func TestGangSteps(t *testing.T) {
	t.Parallel()
	s := siteOn(t, newReal(t, realCluster(t, false), realCluster(t, false).RESTSocket()))
	gpus := func(n int64) backends.Component {
		return backends.Component{Tasks: 3, CPUs: 2, MemoryMiB: 400, GPUs: map[string]int64{"a100": n}}
	}
	for what, c := range map[string]struct {
		spec backends.JobSpec
		gpus []int // of each rank
	}{
		"equal": {s.spec("gpu", step+"--cpus-per-task=2 --gpu-bind=per_task:2 "+show, gpus(2)), []int{2, 2, 2}},
		"unequal": {s.spec("gpu", step+"--het-group=0 --cpus-per-task=2 --gpu-bind=per_task:1 "+show+
			" : --het-group=1 --mem=0 --cpus-per-task=1 "+show, gpus(1), backends.Component{Tasks: 2, CPUs: 1, MemoryMiB: 100}), []int{1, 1, 1, 0, 0}},
	} {
		s.state(s.start(c.spec), backends.StateCompleted)
		got := s.tasks(c.spec)
		seen := map[string]bool{}
		for rank, want := range c.gpus {
			if len(got[rank]) != want {
				t.Errorf("%s: task %d sees %v, want %d GPUs", what, rank, got[rank], want)
			}
			for _, g := range got[rank] {
				if seen[g] {
					t.Errorf("%s: two tasks have %s: %v", what, g, got)
				}
				seen[g] = true
			}
		}
		if len(got) != len(c.gpus) {
			t.Errorf("%s: %d tasks, want %d: %v", what, len(got), len(c.gpus), got)
		}
	}
}

func TestInventoryReal(t *testing.T) {
	t.Parallel()
	c := realCluster(t, false)
	inv, err := newReal(t, c, c.RESTAddress()).Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if inv.System != "slurm" || !strings.HasPrefix(inv.Version, "22.05.") || !strings.HasSuffix(inv.Version, " (REST v0.0.38)") {
		t.Errorf("%s %q", inv.System, inv.Version)
	}
	for _, p := range inv.Partitions {
		want := backends.Partition{Name: "suite", Up: true, Default: true, Hosts: []string{"n1", "n2"}}
		if p.Name == "gpu" {
			want = backends.Partition{Name: "gpu", Up: true, Hosts: []string{"gpu1", "gpu2"}, MaxWalltime: 48 * time.Hour, DefaultWalltime: 30 * time.Minute}
		}
		if fmt.Sprint(p) != fmt.Sprint(want) {
			t.Errorf("partition %+v, want %+v", p, want)
		}
	}
	i := slices.IndexFunc(inv.Hosts, func(h backends.Host) bool { return h.Name == "gpu2" })
	if len(inv.Partitions) != 2 || len(inv.Hosts) != 4 || i < 0 {
		t.Fatalf("%+v", inv)
	}
	if h := inv.Hosts[i]; !h.Usable || h.CPUs != 16 || h.MemoryMiB != 16000 || h.GPUs["a100"] != 4 || h.Addr != c.Address("gpu2") ||
		!slices.Equal(h.Features, []string{"nvlink", "ib"}) {
		t.Errorf("host %+v", h)
	}
}

// TestExcludedHosts keeps jobs off hosts of their partition.
func TestExcludedHosts(t *testing.T) {
	t.Parallel()
	s := siteOn(t, newReal(t, realCluster(t, false), realCluster(t, false).RESTSocket()))
	for left, excluded := range map[string][]string{"gpu2": {"gpu1"}, "gpu1": {"gpu2"}} {
		spec := s.spec("gpu", "sleep 600", backends.Component{Tasks: 1, CPUs: 1, MemoryMiB: 100})
		spec.ExcludedHosts = excluded
		if j := s.state(s.start(spec), backends.StateRunning); len(j.Hosts) != 1 || j.Hosts[0] != left {
			t.Errorf("without %v it runs on %v, want %s", excluded, j.Hosts, left)
		}
	}
}
