package slurm_test

import (
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
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// site is a backend on the shared cluster with what a test wants of it.
type site struct {
	*slurm.Backend
	t     *testing.T
	owner string
	users []string
	// keys starts the job keys. Jobs of one key and user wait for one another,
	// so no two tests on one cluster may share it.
	keys string
	next int
}

var sites atomic.Int64

func newSite(t *testing.T) *site {
	t.Helper()
	b, _ := newReal(t, realCluster(t))
	return siteOn(t, b)
}

func siteOn(t *testing.T, b *slurm.Backend) *site {
	return &site{Backend: b, t: t, owner: strings.ToLower(t.Name()), users: []string{account.Alice, account.Bob},
		keys: fmt.Sprintf("s%dk", sites.Add(1))}
}

// spec is a job of alice's whose podrun is the given shell text.
func (s *site) spec(partition, podrun string, components ...backends.Component) backends.JobSpec {
	s.t.Helper()
	s.next++
	u := backendtest.DiskOf(s.t, account.Alice)
	dir := u.Place(s.t, fmt.Sprintf("job%d", s.next), noProgram)
	if err := os.WriteFile(filepath.Join(dir, "podrun"), []byte("#!/bin/sh\n"+podrun+"\n"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	return backends.JobSpec{
		Key: backends.Key(fmt.Sprintf("%s%d", s.keys, s.next)), Owner: s.owner, User: account.Alice, Partition: partition,
		Walltime: 10 * time.Minute, WorkDir: dir, Components: components,
	}
}

// start submits and releases, and cancels at the end of the test.
func (s *site) start(spec backends.JobSpec) backends.JobRef {
	s.t.Helper()
	ref := s.submit(spec)
	if err := s.Release(s.t.Context(), ref); err != nil {
		s.t.Fatal(err)
	}
	return ref
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
		if err := s.Cancel(background(), ref); err != nil {
			s.t.Errorf("cancel %s: %v", id, err)
		}
	})
	return ref
}

// until looks at the job until ok.
func (s *site) until(ref backends.JobRef, what string, within time.Duration, ok func(backends.Job) bool) backends.Job {
	s.t.Helper()
	var last backends.Job
	for deadline := time.Now().Add(within); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		o, err := s.Observe(s.t.Context(), s.owner, s.users)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, j := range o.Jobs {
			if j.ID != ref.ID {
				continue
			}
			if last = j; ok(j) {
				return j
			}
		}
	}
	s.t.Fatalf("job %s never was %s; last %+v", ref.ID, what, last)
	return last
}

func (s *site) state(ref backends.JobRef, want backends.State) backends.Job {
	s.t.Helper()
	return s.until(ref, string(want), time.Minute, func(j backends.Job) bool { return j.State == want })
}

// task is what one task of a step saw.
type task struct {
	rank int
	host string
	gpus []string
}

// show is a task that tells what it sees; srun prefixes nothing.
const show = `sh -c 'echo "task $SLURM_PROCID $SLURMD_NODENAME [$CUDA_VISIBLE_DEVICES]"'`

// cleared is what a launcher must take out of srun's environment: the batch
// script's own GPUs, which a component without GPUs would inherit.
const cleared = "unset CUDA_VISIBLE_DEVICES SLURM_JOB_GPUS\n"

const step = "srun --kill-on-bad-exit=0 --wait=0 --mem=0 "

func (s *site) tasks(spec backends.JobSpec) []task {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(spec.WorkDir, "batch.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	var out []task
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != "task" {
			continue
		}
		rank, err := strconv.Atoi(f[1])
		if err != nil {
			s.t.Fatalf("batch.log: %s", text)
		}
		tk := task{rank: rank, host: f[2]}
		if ids := strings.Trim(f[3], "[]"); ids != "" {
			tk.gpus = strings.Split(ids, ",")
		}
		out = append(out, tk)
	}
	slices.SortFunc(out, func(a, b task) int { return a.rank - b.rank })
	for i, tk := range out {
		if tk.rank != i {
			s.t.Errorf("rank %d is missing: %s", i, text)
		}
	}
	return out
}

// distinct fails when two tasks of a host share a GPU.
func distinct(t *testing.T, tasks []task) {
	t.Helper()
	seen := map[string]int{}
	for _, tk := range tasks {
		for _, g := range tk.gpus {
			if other, twice := seen[tk.host+"/"+g]; twice {
				t.Errorf("tasks %d and %d share GPU %s of %s", other, tk.rank, g, tk.host)
			}
			seen[tk.host+"/"+g] = tk.rank
		}
	}
}

func TestGPUsOfEqualTasks(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, c := range []struct{ tasks, gpus, hosts int }{
		{3, 2, 1}, // packed on one host
		{2, 8, 2}, // whole hosts
		{4, 3, 2}, // two on each, two GPUs left over
		{12, 1, 2},
	} {
		comp := backends.Component{Tasks: c.tasks, CPUs: 4, MemoryMiB: 1000, GPUs: map[string]int64{"a100": int64(c.gpus)}}
		spec := s.spec("gpu", fmt.Sprintf("%s%s--cpus-per-task=4 --gpu-bind=per_task:%d %s", cleared, step, c.gpus, show), comp)
		ref := s.start(spec)
		j := s.state(ref, backends.StateCompleted)
		tasks := s.tasks(spec)
		if len(tasks) != c.tasks || len(j.Hosts) != c.hosts {
			t.Errorf("%+v: %d tasks on hosts %v", c, len(tasks), j.Hosts)
		}
		distinct(t, tasks)
		for _, tk := range tasks {
			if len(tk.gpus) != c.gpus {
				t.Errorf("%+v: task %d on %s sees GPUs %v", c, tk.rank, tk.host, tk.gpus)
			}
		}
	}
}

func TestGPUsOfUnequalTasks(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	spec := s.spec("gpu",
		cleared+step+"--het-group=0 --cpus-per-task=4 --gpu-bind=per_task:2 "+show+
			" : --het-group=1 --mem=0 --cpus-per-task=1 "+show,
		backends.Component{Tasks: 3, CPUs: 4, MemoryMiB: 4000, GPUs: map[string]int64{"a100": 2}},
		backends.Component{Tasks: 2, CPUs: 1, MemoryMiB: 100},
	)
	ref := s.start(spec)
	j := s.state(ref, backends.StateCompleted)
	tasks := s.tasks(spec)
	if len(tasks) != 5 || len(j.Hosts) != 2 {
		t.Fatalf("%d tasks on %v", len(tasks), j.Hosts)
	}
	distinct(t, tasks)
	for _, tk := range tasks {
		want, host := 2, j.Hosts[0]
		if tk.rank >= 3 {
			want, host = 0, j.Hosts[1]
		}
		if len(tk.gpus) != want || tk.host != host {
			t.Errorf("task %d on %s sees GPUs %v, want %d on %s", tk.rank, tk.host, tk.gpus, want, host)
		}
	}
}

// TestComponentsDoNotShareHosts is the measurement behind the capability: four
// components of one CPU each wait for ever in a partition of three idle hosts.
func TestComponentsDoNotShareHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if !s.Capabilities().ExclusiveComponents {
		t.Error("the capability says that components share hosts")
	}
	one := backends.Component{Tasks: 1, CPUs: 1, MemoryMiB: 10}
	three := s.start(s.spec("slow", "exit 0", one, one, one))
	if j := s.state(three, backends.StateCompleted); len(j.Hosts) != 3 {
		t.Errorf("three components ran on %v", j.Hosts)
	}
	four := s.start(s.spec("slow", "exit 0", one, one, one, one))
	s.until(four, "waiting for resources", time.Minute, func(j backends.Job) bool {
		return j.State == backends.StatePending && j.Reason == "Resources"
	})
	// A job behind it has run, so the scheduler has been through the queue since.
	s.state(s.start(s.spec("gpuspare", "exit 0", one)), backends.StateCompleted)
	if j := s.state(four, backends.StatePending); j.Held || len(j.Hosts) != 0 {
		t.Errorf("four components on three hosts: %+v", j)
	}
	if err := s.Cancel(t.Context(), four); err != nil {
		t.Fatal(err)
	}
	s.state(four, backends.StateCancelled)
}
