package provider

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/reservation"
)

// booked is what the bridge knows of reservations at the batch system.
type booked struct {
	there  []reservation.Wish        // whose reservation is there
	within map[backends.JobID]string // the one of ours that a job was submitted into, or taken into
}

// SetReservations says which reservations of ours the batch system has: gangs that
// they are for are submitted into them from now on. Safe at any time.
func (b *Bridge) SetReservations(there []reservation.Wish) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.booked.there = there
	live := map[backends.JobID]bool{}
	for _, jobs := range b.view.Jobs {
		for _, j := range jobs {
			live[j.ID] = !j.State.Terminal()
		}
	}
	names := map[string]bool{}
	for _, w := range there {
		names[w.Reservation.Name] = true
	}
	// One that is not listed yet is taken in once more, which changes nothing. Nobody is
	// in a reservation that is not there, and it may be made anew under its name.
	maps.DeleteFunc(b.booked.within, func(id backends.JobID, name string) bool { return !live[id] || !names[name] })
}

// reservedFor is the reservation that a gang's job is submitted into, "" for none. Of
// several it is the one that began first.
func (b *Bridge) reservedFor(g *lifecycle.Gang, pods map[string]*corev1.Pod) string {
	for _, m := range g.Members {
		p := pods[m.UID]
		if p == nil {
			continue
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.reservationOf(place{node: p.Spec.NodeName, tenant: p.Namespace, reservation: p.Annotations[wellknown.ReservedBy]})
	}
	return ""
}

// reservationOf is the reservation for what is in a place. The lock must be held.
func (b *Bridge) reservationOf(at place) string {
	var best *reservation.Wish
	for i := range b.booked.there {
		w := &b.booked.there[i]
		if w.Covers(at.node) && w.Admits(at.tenant, at.reservation) && (best == nil || w.Reservation.Start.Before(best.Reservation.Start)) {
			best = w
		}
	}
	if best == nil {
		return ""
	}
	return best.Reservation.Name
}

// outside lists our jobs that wait and may use a reservation in which they are not: they
// were submitted before it was there, and might wait for its end now. A namespace may
// have had another user then, whom it does not let in.
func (b *Bridge) outside(name string) []backends.JobRef {
	b.mu.Lock()
	defer b.mu.Unlock()
	var users []string
	for _, w := range b.booked.there {
		if w.Reservation.Name == name {
			users = w.Reservation.Users
		}
	}
	var out []backends.JobRef
	for _, key := range slices.Sorted(maps.Keys(b.places)) {
		at := b.places[key]
		if b.vnodes[at.node].Reservation != "" || b.reservationOf(at) != name {
			continue
		}
		for _, j := range b.view.Jobs[key] {
			if j.State == backends.StatePending && !j.Held && b.booked.within[j.ID] != name && slices.Contains(users, j.User) {
				out = append(out, backends.JobRef{ID: j.ID, Key: j.Key, User: j.User})
			}
		}
	}
	return out
}

// nowWithin notes that jobs use a reservation.
func (b *Bridge) nowWithin(name string, jobs ...backends.JobRef) {
	if name == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.booked.within == nil {
		b.booked.within = map[backends.JobID]string{}
	}
	for _, j := range jobs {
		b.booked.within[j.ID] = name
	}
}

// notWithin makes of a refusal of a job that named a reservation of ours one that
// passes: it ended meanwhile, or is not for the user by now, and the next try does not
// name it.
func notWithin(m *memo, name string, err error) error {
	kind := backends.KindOf(err)
	if name == "" || kind != backends.KindInvalid && kind != backends.KindDenied {
		return err
	}
	m.unreserved = true
	return &backends.Error{Op: "submit", Kind: backends.KindTransient, Err: fmt.Errorf("as a job of reservation %s: %w", name, err)}
}
