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
