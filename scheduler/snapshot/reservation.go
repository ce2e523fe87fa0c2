package snapshot

import (
	"cmp"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// The phases of a reservation.
const (
	ReservationPending = "Pending"
	ReservationActive  = "Active"
	ReservationExpired = "Expired"
)

// Reservation keeps whole nodes, or a number of equal pieces of the real nodes, for
// gangs of some queues or namespaces, from Start to End in nanoseconds since 1970.
type Reservation struct {
	Name  string `json:"name"`
	UID   string `json:"uid,omitempty"`
	Start int64  `json:"start"`
	End   int64  `json:"end"`
	// Created is when the object was made, in nanoseconds since 1970.
	Created int64 `json:"created,omitempty"`

	// Nodes are names of nodes, Selector the labels of others.
	Nodes    []string          `json:"nodes,omitempty"`
	Selector map[string]string `json:"selector,omitempty"`
	// Count pieces of Each are kept where neither is given.
	Count int64         `json:"count,omitempty"`
	Each  resource.List `json:"each,omitempty"`

	Queues     []string `json:"queues,omitempty"`
	Namespaces []string `json:"namespaces,omitempty"`

	Status ReservationStatus `json:"status,omitzero"`

	// Batch is what became of it at the batch systems behind its virtual nodes.
	Batch []BatchState `json:"batch,omitempty"`
}

// BatchState is what one batch system has of a reservation.
type BatchState struct {
	Cluster string `json:"cluster"` // as the nodes' label has it
	// There is whether it has one, Message what else is to be said of it.
	There   bool   `json:"there,omitempty"`
	Message string `json:"message,omitempty"`
}

// ReservationStatus is what a reservation's status says.
type ReservationStatus struct {
	Phase   string `json:"phase,omitempty"`
	Start   int64  `json:"start,omitempty"`
	End     int64  `json:"end,omitempty"`
	Nodes   int64  `json:"nodes,omitempty"`
	Pieces  int64  `json:"pieces,omitempty"`
	Held    bool   `json:"held,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// Whole reports whether the reservation is of whole nodes.
func (r *Reservation) Whole() bool { return len(r.Each) == 0 }

// Owns reports whether a gang may use what is reserved.
func (r *Reservation) Owns(g *Gang) bool {
	return slices.Contains(r.Queues, g.Queue) || slices.Contains(r.Namespaces, g.Namespace)
}

// OwnsAll reports whether a reservation is for all that another one is for.
func (r *Reservation) OwnsAll(o *Reservation) bool {
	in := func(list, of []string) bool {
		return !slices.ContainsFunc(list, func(name string) bool { return !slices.Contains(of, name) })
	}
	return in(o.Queues, r.Queues) && in(o.Namespaces, r.Namespaces)
}

// CompareReservations orders reservations by who goes first where two want the same: the
// one that was made before the other.
func CompareReservations(a, b *Reservation) int {
	return cmp.Or(cmp.Compare(a.Created, b.Created), strings.Compare(a.Name, b.Name))
}

// Meets reports whether there is a time that is in two reservations.
func (r *Reservation) Meets(o *Reservation) bool { return r.Start < o.End && o.Start < r.End }

// Covers reports whether a node is one of those that are reserved.
func (r *Reservation) Covers(n *Node) bool {
	if slices.Contains(r.Nodes, n.Name) {
		return true
	}
	for key, value := range r.Selector {
		if n.Labels[key] != value {
			return false
		}
	}
	return len(r.Selector) > 0
}

// Phase is where a reservation is at a time.
func (r *Reservation) Phase(now int64) string {
	switch {
	case now < r.Start:
		return ReservationPending
	case now < r.End:
		return ReservationActive
	}
	return ReservationExpired
}

// SetReservations gives the snapshot its reservations before it is used.
func (s *Snapshot) SetReservations(all []Reservation) {
	s.Reservations = slices.Clone(all)
	slices.SortFunc(s.Reservations, func(a, b Reservation) int { return strings.Compare(a.Name, b.Name) })
}
