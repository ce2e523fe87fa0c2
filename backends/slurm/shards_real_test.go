package slurm_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// TestShards: a task with shares of a GPU sees one GPU, which others that have shares of
// it see too; the task of a component without any sees none. What is held shows by host.
func TestShards(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	sharing := func(n int64) backends.Component {
		return backends.Component{Tasks: 1, CPUs: 1, MemoryMiB: 100, GPUs: map[string]int64{backends.Shard: n}}
	}
	const one = cleared + step + "--cpus-per-task=1 " + show
	// Three of four, then one: it is put beside them, or else on the other GPU.
	large, small := s.spec("shares", one+"\nexec sleep 600", sharing(3)), s.spec("shares", one+"\nexec sleep 600", sharing(1))
	for _, spec := range []backends.JobSpec{large, small} {
		ref := s.start(spec)
		s.until(ref, "running and has shown what it sees", time.Minute, func(j backends.Job) bool {
			_, err := os.Stat(filepath.Join(spec.WorkDir, "batch.log"))
			return err == nil && j.State == backends.StateRunning && len(s.tasks(spec)) == 1
		})
		if tk := s.tasks(spec)[0]; len(tk.gpus) != 1 {
			t.Errorf("a task with shares sees GPUs %v of %s, want one", tk.gpus, tk.host)
		}
	}
	var held, shared, all int64
	inv, err := s.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range inv.Hosts {
		if h.Name == "g1" || h.Name == "g2" {
			held, shared, all = held+h.Allocated.GPUs[backends.Shard], shared+h.Shared, all+h.GPUs[backends.Shard]
		}
	}
	// Slurm 22.05 tells how many GPUs are shared, and of how many shares that is the least.
	if held < 1 || held > 4 || shared < 1 || shared > 2 || all != 16 {
		t.Errorf("%d of %d shares of %d GPUs are held, want 1 to 4 of 16, of 1 or 2", held, all, shared)
	}

	mixed := s.spec("shares", cleared+step+"--het-group=0 --cpus-per-task=1 "+show+" : --het-group=1 --mem=0 --cpus-per-task=1 "+show,
		sharing(2), backends.Component{Tasks: 1, CPUs: 1, MemoryMiB: 100})
	s.state(s.start(mixed), backends.StateCompleted)
	if tasks := s.tasks(mixed); len(tasks) != 2 || len(tasks[0].gpus) != 1 || len(tasks[1].gpus) != 0 {
		t.Errorf("a task with shares and one without see %+v", tasks)
	}
}
