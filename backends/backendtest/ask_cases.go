package backendtest

import (
	"slices"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// licenses: one job has both, the next waits for them while one that needs none
// starts. Where there are none, a job with one is refused.
func licenses(t *testing.T, b *bench) {
	caps := b.Backend.Capabilities()
	if !caps.Licenses || b.License == "" {
		spec := b.spec(t, Program{})
		spec.Licenses = map[string]int64{"isthmus-none": 1}
		b.refused(t, "a licence that does not exist", spec)
		return
	}
	ctx, stop := b.call()
	defer stop()
	inv, err := b.Backend.Inventory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(inv.Licenses, func(l backends.License) bool { return l.Name == b.License })
	if at < 0 || inv.Licenses[at].Total != 2 {
		t.Fatalf("the inventory tells of the licences %+v; want 2 of %s", inv.Licenses, b.License)
	}
	with := func(n int64, p Program) backends.JobSpec {
		spec := b.spec(t, p)
		spec.Licenses = map[string]int64{b.License: n}
		return spec
	}
	b.refused(t, "more licences than there are", with(3, Program{}))
	unknown := b.spec(t, Program{})
	unknown.Licenses = map[string]int64{"isthmus-none": 1}
	b.refused(t, "a licence that does not exist", unknown)

	first := b.submit(t, with(2, Program{UntilTerm: true}))
	b.release(t, first)
	b.started(t, first)
	second := b.submit(t, with(1, Program{}))
	b.release(t, second)
	b.eventually(t, second, "waits for licences", func(j backends.Job) bool {
		return j.State == backends.StatePending && j.Reason == "Licenses"
	})
	b.neverStarted(t, second)
	b.cancel(t, first)
	b.until(t, second, backends.StateCompleted)
}

// switches: a job that wants one switch runs, since there is one with enough hosts;
// where that cannot be asked for, it is refused.
func switches(t *testing.T, b *bench) {
	spec := b.spec(t, Program{})
	spec.Switches, spec.SwitchesWait = 1, 90*time.Second
	if !b.Backend.Capabilities().Switches {
		b.refused(t, "switches", spec)
		return
	}
	j := b.submit(t, spec)
	b.release(t, j)
	b.until(t, j, backends.StateCompleted)
}

// shards: while jobs hold all shares of GPUs, one that asks for one waits. Shares of
// several tasks, or beside GPUs, cannot be asked for.
func shards(t *testing.T, b *bench) {
	with := func(p Program, gpus map[string]int64) backends.JobSpec {
		spec := b.spec(t, p)
		spec.Components = slices.Clone(spec.Components)
		spec.Components[0].GPUs = gpus
		return spec
	}
	b.refused(t, "shares and GPUs", with(Program{}, map[string]int64{backends.Shard: 1, "": 1}))
	two := with(Program{}, map[string]int64{backends.Shard: 1})
	two.Components[0].Tasks = 2
	b.refused(t, "shares for two tasks of a component", two)
	if !b.Backend.Capabilities().Shards {
		b.refused(t, "shares", with(Program{}, map[string]int64{backends.Shard: 1}))
		return
	}
	if b.Shards == 0 {
		return
	}
	ctx, stop := b.call()
	defer stop()
	inv, err := b.Backend.Inventory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var holders []job
	for _, p := range inv.Partitions {
		for _, h := range inv.Hosts {
			if p.Name != b.Partition || !slices.Contains(p.Hosts, h.Name) {
				continue
			}
			if h.GPUs[backends.Shard] != b.Shards {
				t.Fatalf("the inventory tells of %v on host %s, want %d shares", h.GPUs, h.Name, b.Shards)
			}
			j := b.submit(t, with(Program{UntilTerm: true}, map[string]int64{backends.Shard: b.Shards}))
			b.release(t, j)
			b.started(t, j)
			holders = append(holders, j)
		}
	}
	next := b.submit(t, with(Program{}, map[string]int64{backends.Shard: 1}))
	b.release(t, next)
	b.eventually(t, next, "waits for shares", func(j backends.Job) bool {
		return j.State == backends.StatePending && !j.Held && j.Reason != "" && j.Reason != "None"
	})
	b.neverStarted(t, next)
	for _, j := range holders {
		b.cancel(t, j)
	}
	b.until(t, next, backends.StateCompleted)
}
