package backends

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReservationNames(t *testing.T) {
	name := ReservationName("alps-0a1b2c", "uid-1")
	if name != ReservationName("alps-0a1b2c", "uid-1") || name == ReservationName("alps-0a1b2c", "uid-2") {
		t.Errorf("the name %s is not the object's", name)
	}
	for other, owns := range map[string]bool{"alps-0a1b2c": true, "alps": false, "alps-0a1b2": false, "": false, "alps-0a1b2c-": false} {
		if OwnsReservation(other, name) != owns {
			t.Errorf("owner %q has %s: %v", other, name, !owns)
		}
	}
	for _, foreign := range []string{"maint", "alps-0a1b2c", "alps-0a1b2c_", "alps-0a1b2c_xyz", "alps-0a1b2c_0011223344", "root_7", name + "00"} {
		if OwnsReservation("alps-0a1b2c", foreign) {
			t.Errorf("%s is taken for ours", foreign)
		}
	}
}

func TestReservationValidate(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	good := func() Reservation {
		return Reservation{Name: ReservationName("o", "u"), Hosts: []string{"h1"}, Users: []string{"alice"}, Start: at, End: at.Add(time.Hour)}
	}
	if err := good().Validate("o"); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*Reservation){
		"name: ":     func(r *Reservation) { r.Name = ReservationName("other", "u") },
		"hosts: ":    func(r *Reservation) { r.Hosts = nil },
		"hosts[1]: ": func(r *Reservation) { r.Hosts = []string{"h1", "h[2-3]"} },
		"users: ":    func(r *Reservation) { r.Users = nil },
		"users[0]: ": func(r *Reservation) { r.Users = []string{"root"} },
		"users[1]: ": func(r *Reservation) { r.Users = []string{"alice", "bob,carol"} },
		"end: ":      func(r *Reservation) { r.End = r.Start },
	} {
		r := good()
		spoil(&r)
		if err := r.Validate("o"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestReservationUnlike(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	want := Reservation{Hosts: []string{"h1", "h2"}, Users: []string{"alice"}, Start: now.Add(time.Hour), End: now.Add(2 * time.Hour)}
	for name, tc := range map[string]struct {
		now    time.Time
		change func(*Reservation)
		want   []string
	}{
		"the same":                    {now, func(*Reservation) {}, nil},
		"in another order":            {now, func(r *Reservation) { r.Hosts = []string{"h2", "h1"} }, nil},
		"fractions of a second":       {now, func(r *Reservation) { r.End = r.End.Add(time.Millisecond) }, nil},
		"hosts":                       {now, func(r *Reservation) { r.Hosts = r.Hosts[:1] }, []string{"hosts"}},
		"users and end":               {now, func(r *Reservation) { r.Users, r.End = []string{"bob"}, r.End.Add(time.Second) }, []string{"users", "end"}},
		"start":                       {now, func(r *Reservation) { r.Start = r.Start.Add(time.Minute) }, []string{"start"}},
		"start of one that has begun": {now.Add(90 * time.Minute), func(r *Reservation) { r.Start, r.Active = r.Start.Add(time.Minute), true }, nil},
		"to begin now":                {now.Add(61 * time.Minute), func(r *Reservation) { r.Start = r.Start.Add(30 * time.Minute) }, []string{"start"}},
		"about to begin":              {now.Add(61 * time.Minute), func(r *Reservation) { r.Start = r.Start.Add(2 * time.Minute) }, nil},
	} {
		listed := want
		tc.change(&listed)
		if got := want.Unlike(listed, tc.now); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
