package backendtest

import (
	"context"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// far is so late that what is reserved from then on is in no other case's way: a job
// without a time limit is taken to last a year.
const far = 2 * 366 * 24 * time.Hour

// reservations makes one that begins in two years, twice, changes it, runs jobs of it
// before it begins, and takes it away from under them.
func reservations(t *testing.T, b *bench) {
	r, ok := b.Backend.(backends.Reserver)
	if !ok {
		t.Fatal("Capabilities.Reserve is true and the backend is no Reserver")
	}
	ctx, stop := context.WithTimeout(b.ctx, patience)
	defer stop()
	inv, err := b.Backend.Inventory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(inv.Partitions, func(p backends.Partition) bool { return p.Name == b.Partition })
	if at < 0 || len(inv.Partitions[at].Hosts) < 2 {
		t.Fatalf("partition %s needs two hosts for this: %+v", b.Partition, inv.Partitions)
	}
	hosts := slices.Sorted(slices.Values(inv.Partitions[at].Hosts))
	start := time.Now().Add(far).Truncate(time.Second).UTC()
	want := backends.Reservation{
		Name: backends.ReservationName(b.Owner, "object"), Hosts: hosts[:1], Users: []string{b.User}, Start: start, End: start.Add(time.Hour),
	}
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(b.ctx), patience)
		defer stop()
		if err := r.Unreserve(ctx, b.Owner, want.Name); err != nil {
			t.Error(err)
		}
	})
	listed := func(owner string, want ...backends.Reservation) {
		t.Helper()
		got, err := r.Reservations(ctx, owner)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
			t.Fatalf("owner %s has the reservations %+v, want %+v", owner, got, want)
		}
	}
	reserve := func() {
		t.Helper()
		for range 2 { // the answer to the first may have been lost
			if err := r.Reserve(ctx, b.Owner, want); err != nil {
				t.Fatal(err)
			}
			listed(b.Owner, want)
		}
	}
	listed(b.Owner)
	if b.NoRights {
		if err := r.Reserve(ctx, b.Owner, want); backends.KindOf(err) != backends.KindDenied {
			t.Errorf("an account without the right is told %v", err)
		}
		listed(b.Owner)
		return
	}
	reserve()
	listed(b.OtherOwner)
	for what, err := range map[string]error{
		"change": r.Reserve(ctx, b.OtherOwner, want), "end": r.Unreserve(ctx, b.OtherOwner, want.Name),
	} {
		if backends.KindOf(err) != backends.KindInvalid {
			t.Errorf("another owner may %s it: %v", what, err)
		}
	}
	want.Hosts, want.Start, want.End = hosts[:2], start.Add(time.Minute), start.Add(2*time.Hour)
	reserve()

	within := func(p Program) job {
		spec := b.spec(t, p)
		spec.Reservation = want.Name
		return b.submit(t, spec)
	}
	running, held := within(Program{UntilTerm: true}), within(Program{})
	b.release(t, running)
	b.started(t, running)
	for range 2 {
		if err := r.Unreserve(ctx, b.Owner, want.Name); err != nil {
			t.Fatal(err)
		}
		listed(b.Owner)
	}
	b.neverStarted(t, held)
	b.release(t, held)
	b.until(t, held, backends.StateCompleted)
	b.until(t, running, backends.StateRunning)
	b.cancel(t, running)
	gone := b.spec(t, Program{})
	gone.Reservation = want.Name
	if id, err := b.Backend.Submit(ctx, gone); backends.KindOf(err) != backends.KindInvalid {
		t.Errorf("a job of a reservation that is gone: %s, %v", id, err)
	}
}
