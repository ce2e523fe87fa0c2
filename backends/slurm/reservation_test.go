package slurm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// TestOwnReservations reads what Slurm 22.05 says, and takes no other's for ours.
func TestOwnReservations(t *testing.T) {
	mine, theirs := backends.ReservationName("alps", "u"), backends.ReservationName("alps-2", "u")
	line := func(name, rest string) string { return "ReservationName=" + name + " " + rest + "\n" }
	const whole = "StartTime=1767225600 EndTime=1767229200 Duration=01:00:00 Nodes=n[1-2],x Users=bob,alice Groups=(null) Accounts=(null) Flags=FLEX,IGNORE_JOBS,SPEC_NODES State=INACTIVE"
	got, err := parseOwnReservations(line("maint", whole)+line(theirs, whole)+line(mine, whole), "alps")
	start := time.Unix(1767225600, 0)
	if err != nil || len(got) != 1 || got[0].Name != mine || got[0].Active || !slices.Equal(got[0].Hosts, []string{"n1", "n2", "x"}) ||
		!slices.Equal(got[0].Users, []string{"alice", "bob"}) || !got[0].Start.Equal(start) || !got[0].End.Equal(start.Add(time.Hour)) {
		t.Errorf("read are %+v, %v", got, err)
	}
	if got, err := parseOwnReservations("No reservations in the system\n", "alps"); err != nil || len(got) > 0 {
		t.Errorf("read are %+v, %v", got, err)
	}
	for _, bad := range []string{"EndTime=1 Nodes=n1", "StartTime=x EndTime=1 Nodes=n1", "StartTime=1 EndTime=2 Nodes=n[1"} {
		if got, err := parseOwnReservations(line(mine, bad), "alps"); err == nil {
			t.Errorf("%s is read as %+v", bad, got)
		}
	}
}

// TestReservationArgs: what is asked of scontrol, with a start that has passed and one
// that has not.
func TestReservationArgs(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := backends.Reservation{Name: "o_1", Hosts: []string{"n1", "n2"}, Users: []string{"alice", "bob"}, Start: now, End: now.Add(90 * time.Minute)}
	if got := strings.Join(reservationArgs(r, now, nil), " "); got != "reservationname=o_1 starttime=now endtime=2026-01-01T01:30:00 nodes=n[1-2] users=alice,bob flags=FLEX,IGNORE_JOBS" {
		t.Errorf("made by %s", got)
	}
	r.Start = now.Add(time.Hour)
	if got := strings.Join(reservationArgs(r, now, []string{"start", "users"}), " "); got != "reservationname=o_1 starttime=2026-01-01T01:00:00 users=alice,bob" {
		t.Errorf("changed by %s", got)
	}
}
