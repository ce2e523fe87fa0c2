package fake_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/fake"
)

func TestConformance(t *testing.T) {
	t.Run("strict queue", func(t *testing.T) { backendtest.Run(t, harness(false)) })
	t.Run("backfill", func(t *testing.T) { backendtest.Run(t, harness(true)) })
}

func harness(backfill bool) func(t *testing.T) backendtest.Harness {
	return func(t *testing.T) backendtest.Harness {
		programs := map[string]backendtest.Program{}
		traces := map[string]*backendtest.Trace{}
		cfg := fake.Uniform(2, 4, 1000, "", 0)
		cfg.Backfill = backfill
		cfg.MinJobAge = time.Hour
		for i := range cfg.Hosts {
			cfg.Hosts[i].GPUs = map[string]int64{backends.Shard: 3}
		}
		cfg.Licenses = map[string]int64{"solver": 2}
		cfg.Program = func(spec backends.JobSpec) fake.Behaviour {
			p, trace := programs[spec.WorkDir], traces[spec.WorkDir]
			return fake.Behaviour{
				Forever: p.UntilTerm, ExitCode: p.ExitCode, Signal: p.Signal, IgnoreTerm: p.IgnoreTerm,
				OnStart: func(fake.Run) { trace.Starts++ },
				OnTerm:  func(fake.Run) { trace.Terms++ },
			}
		}
		sys := fake.New(cfg)
		return backendtest.Harness{
			Backend: sys, Owner: "mine", OtherOwner: "other", User: "alice", Partition: "main", Slots: 8, MemoryMiB: 10,
			Place: func(_ *testing.T, name string, p backendtest.Program) string {
				dir := fmt.Sprintf("/sim/p%d/%s", len(programs), name)
				programs[dir], traces[dir] = p, &backendtest.Trace{}
				return dir
			},
			Trace:     func(_ *testing.T, dir string) backendtest.Trace { return *traces[dir] },
			Wait:      func() { sys.Advance(time.Second) },
			Singleton: true, Walltime: time.Minute, License: "solver", Shards: 3,
			Queries: func() int { return sys.Calls()[fake.OpObserve] },
		}
	}
}
