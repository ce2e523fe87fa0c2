package slurm_test

import (
	"slices"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// TestReservation: which hosts a reservation has, and that a job of it goes there.
func TestReservation(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, testbed.Config{
		Name: "reserved", Hosts: []testbed.Hosts{{Prefix: "n", Count: 2, CPUs: 4, MemoryMiB: 4000}},
		Partitions: []testbed.Partition{{Name: "a", Hosts: []string{"n1", "n2"}, Default: true}},
	})
	b, _ := newReal(t, c)
	s := siteOn(t, b)
	inv, err := s.Inventory(t.Context())
	if err != nil || inv.Reservations == nil || len(inv.Reservations) > 0 {
		t.Fatalf("without any: %+v, %v", inv.Reservations, err)
	}
	if _, err := c.Run(t.Context(), "scontrol", "create", "reservation", "reservationname=lab", "nodes=n2", "users="+account.Alice, "starttime=now", "duration=60"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Minute); len(inv.Reservations) == 0; <-time.After(100 * time.Millisecond) {
		if inv, err = s.Inventory(t.Context()); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("the host is not reserved after 2 minutes: %+v", inv.Hosts)
		}
	}
	if got := inv.Reservations["lab"]; !slices.Equal(got, []string{"n2"}) {
		t.Errorf("the reservation has %v", got)
	}
	for _, h := range inv.Hosts {
		if want := h.Name == "n2"; h.Reserved != want || h.Usable == want {
			t.Errorf("host %s in state %s: reserved %v, usable %v", h.Name, h.State, h.Reserved, h.Usable)
		}
	}
	spec := s.spec(inv.Partitions[0].Name, "sleep 600", oneTask)
	spec.Reservation = "lab"
	if j := s.state(s.start(spec), backends.StateRunning); !slices.Equal(j.Hosts, []string{"n2"}) {
		t.Errorf("a job of the reservation runs on %v", j.Hosts)
	}
}

// TestExcludedHosts keeps jobs off hosts of their partition, plain ones and every
// component of those that have several.
func TestExcludedHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for left, excluded := range map[string][]string{"gpu2": {"gpu1"}, "gpu1": {"gpu2"}} {
		spec := s.spec("gpu", "sleep 600", oneTask)
		spec.ExcludedHosts = excluded
		if j := s.state(s.start(spec), backends.StateRunning); !slices.Equal(j.Hosts, []string{left}) {
			t.Errorf("without %v it runs on %v, want %s", excluded, j.Hosts, left)
		}
	}
	spec := s.spec("slow", "sleep 600", oneTask, backends.Component{Tasks: 1, CPUs: 2})
	spec.ExcludedHosts = []string{"s2"}
	j := s.state(s.start(spec), backends.StateRunning)
	slices.Sort(j.Hosts)
	if !slices.Equal(j.Hosts, []string{"s1", "s3"}) {
		t.Errorf("two components without s2 run on %v", j.Hosts)
	}
	spec = s.spec("gpu", "exit 0", oneTask)
	spec.ExcludedHosts = []string{"gpu1,gpu2"}
	if _, err := s.Submit(t.Context(), spec); backends.KindOf(err) != backends.KindInvalid {
		t.Errorf("a host list in place of a host: %v", err)
	}
}
