package slurm_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
)

// gathering holds the first two commands of each kind until more requests wait
// behind them, and notes all.
type gathering struct {
	transport.Runner
	gate chan struct{}
	mu   sync.Mutex
	ran  map[string][]string
}

func (g *gathering) Run(ctx context.Context, c transport.Command) (transport.Result, error) {
	name := c.Argv[0]
	g.mu.Lock()
	if g.ran == nil {
		g.ran = map[string][]string{}
	}
	g.ran[name] = append(g.ran[name], strings.Join(c.Argv[1:], " "))
	wait := len(g.ran[name]) <= 2
	g.mu.Unlock()
	if wait {
		<-g.gate
	}
	return g.Runner.Run(ctx, c)
}

// TestManyAtOnce releases and cancels jobs together, among them one that has
// gone and one of several components.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	c := realCluster(t)
	s := newSite(t)
	var refs []backends.JobRef
	for range 8 {
		refs = append(refs, s.submit(s.spec("slow", "sleep 600", oneTask)))
	}
	refs = append(refs, s.submit(s.spec("slow", "sleep 600", oneTask, backends.Component{Tasks: 1, CPUs: 2})))
	gone := s.submit(s.spec("slow", "exit 0", oneTask))
	if err := s.Cancel(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	s.state(gone, backends.StateCancelled)
	refs = append(refs, gone)

	runner := &gathering{Runner: local.New(), gate: make(chan struct{})}
	b, err := slurm.New(slurm.Config{Runner: runner, Env: c.Env()})
	if err != nil {
		t.Fatal(err)
	}
	together := func(do func(context.Context, backends.JobRef) error) {
		t.Helper()
		runner.gate = make(chan struct{})
		var group sync.WaitGroup
		errs := make([]error, len(refs))
		var asked sync.WaitGroup
		for i, ref := range refs {
			asked.Add(1)
			group.Go(func() {
				asked.Done()
				errs[i] = do(t.Context(), ref)
			})
		}
		asked.Wait()
		close(runner.gate)
		group.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("job %s: %v", refs[i].ID, err)
			}
		}
	}
	together(b.Release)
	o, err := s.Observe(t.Context(), s.owner, s.users)
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range o.Jobs {
		if j.Held || j.State.Terminal() != (j.ID == gone.ID) {
			t.Errorf("after the release: %+v", j)
		}
	}
	together(b.Cancel)
	for _, ref := range refs {
		s.state(ref, backends.StateCancelled)
	}
	t.Logf("release: %q", runner.ran["scontrol"])
	t.Logf("cancel: %q", runner.ran["scancel"])
	if n := len(runner.ran["scancel"]); n >= len(refs) {
		t.Errorf("%d cancels took %d commands, want fewer", len(refs), n)
	}
}
