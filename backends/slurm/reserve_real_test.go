package slurm_test

import (
	"slices"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// TestReserve: a reservation that is made here keeps others off its host, whoever runs
// there when it begins; jobs of it come in, also those that waited before; and when it
// is taken away they go on, and others come in.
func TestReserve(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, testbed.Config{
		Name: "reserve", Hosts: []testbed.Hosts{{Prefix: "n", Count: 2, CPUs: 4, MemoryMiB: 4000}},
		Partitions: []testbed.Partition{{Name: "a", Hosts: []string{"n1", "n2"}, Default: true}},
	})
	b, _ := newReal(t, c)
	s := siteOn(t, b)
	onSecond := func(reservation string) backends.JobSpec {
		spec := s.spec("a", "exec sleep 600", oneTask)
		spec.ExcludedHosts, spec.Reservation = []string{"n1"}, reservation
		return spec
	}
	before := onSecond("")
	before.Components = []backends.Component{{Tasks: 1, CPUs: 4}}
	there := s.start(before)
	s.state(there, backends.StateRunning)

	now := time.Now().Truncate(time.Second).UTC()
	own := backends.Reservation{
		Name: backends.ReservationName(s.owner, "one"), Hosts: []string{"n2"}, Users: []string{account.Alice}, Start: now.Add(-time.Minute), End: now.Add(time.Hour),
	}
	if err := b.Reserve(t.Context(), s.owner, own); err != nil {
		t.Fatal(err)
	}
	inv, err := b.Inventory(t.Context())
	for end := time.Now().Add(2 * time.Minute); err == nil && len(inv.Reservations) == 0; <-time.After(100 * time.Millisecond) {
		if inv, err = b.Inventory(t.Context()); time.Now().After(end) {
			t.Fatalf("the host is not reserved after 2 minutes: %+v", inv.Hosts)
		}
	}
	if err != nil || !slices.Equal(inv.Reservations[own.Name], []string{"n2"}) {
		t.Fatalf("reservations %v, %v", inv.Reservations, err)
	}
	if got, err := b.Reservations(t.Context(), s.owner); err != nil || len(got) != 1 || !got[0].Active || len(own.Unlike(got[0], time.Now())) > 0 {
		t.Errorf("listed are %+v, %v", got, err)
	}
	other := own
	other.Name, other.Hosts, other.Users = backends.ReservationName(s.owner, "two"), []string{"n1", "n2"}, []string{account.Bob}
	if err := b.Reserve(t.Context(), s.owner, other); backends.KindOf(err) != backends.KindTransient {
		t.Errorf("hosts that another reservation has: %v", err)
	}
	other.Users = []string{"isthmus-nobody"}
	other.Hosts = []string{"n1"}
	if err := b.Reserve(t.Context(), s.owner, other); backends.KindOf(err) != backends.KindDenied {
		t.Errorf("a user who does not exist: %v", err)
	}
	other.Users = []string{account.Bob}
	if err := b.Reserve(t.Context(), s.owner, other); err != nil {
		t.Fatal(err)
	}
	if id, err := b.Submit(t.Context(), onSecond(other.Name)); backends.KindOf(err) != backends.KindDenied {
		t.Errorf("a job in a reservation that is not for its user: %s, %v", id, err)
	}
	if err := b.Unreserve(t.Context(), s.owner, other.Name); err != nil {
		t.Fatal(err)
	}

	kept := s.start(onSecond(""))
	both := s.start(s.spec("a", "exec sleep 600", oneTask, backends.Component{Tasks: 1, CPUs: 2}))
	if err := s.Cancel(t.Context(), there); err != nil {
		t.Fatal(err)
	}
	s.state(s.start(onSecond(own.Name)), backends.StateRunning) // there is room now
	for _, j := range []backends.JobRef{kept, both} {
		s.state(j, backends.StatePending)
	}
	for range 2 {
		if err := b.Join(t.Context(), s.owner, own.Name, []backends.JobRef{there, kept, both}); err != nil {
			t.Fatal(err)
		}
	}
	s.state(kept, backends.StateRunning)
	s.state(both, backends.StateRunning)
	if err := b.Unreserve(t.Context(), s.owner, own.Name); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Reservations(t.Context(), s.owner); err != nil || len(got) > 0 {
		t.Errorf("listed are %+v, %v", got, err)
	}
	if err := s.Cancel(t.Context(), both); err != nil {
		t.Fatal(err)
	}
	s.state(s.start(onSecond("")), backends.StateRunning)
	s.state(kept, backends.StateRunning)
}
