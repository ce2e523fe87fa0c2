package cache

import (
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// held is the type of a reservation's condition.
const held = "Held"

// reservation is a reservation with its conditions as they are shown.
type reservation struct {
	snapshot.Reservation
	conditions []metav1.Condition
}

// SetReservation takes in a reservation.
func (c *Cache) SetReservation(r *hpcv1alpha1.Reservation) {
	entry := &reservation{Reservation: reservationOf(r), conditions: r.Status.Conditions}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.reservations[r.Name]; old != nil && reflect.DeepEqual(*old, *entry) {
		return
	}
	c.reservations[r.Name] = entry
	c.signal()
}

// DeleteReservation forgets a reservation.
func (c *Cache) DeleteReservation(name, uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.reservations[name]; r != nil && r.UID == uid {
		delete(c.reservations, name)
		c.signal()
	}
}

// ReservationConditions returns a reservation's conditions as they are shown.
func (c *Cache) ReservationConditions(name string) []metav1.Condition {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.reservations[name]; r != nil {
		return slices.Clone(r.conditions)
	}
	return nil
}

func (c *Cache) allReservations() []snapshot.Reservation {
	if len(c.reservations) == 0 {
		return nil
	}
	out := make([]snapshot.Reservation, 0, len(c.reservations))
	for _, r := range c.reservations {
		out = append(out, r.Reservation)
	}
	return out
}

// reservationOf is a reservation as scheduling sees it. Its schema has checked it.
func reservationOf(r *hpcv1alpha1.Reservation) snapshot.Reservation {
	out := snapshot.Reservation{
		Name: r.Name, UID: string(r.UID), Start: r.CreationTimestamp.UnixNano(), Created: r.CreationTimestamp.UnixNano(),
		Queues: r.Spec.Owners.Queues, Namespaces: r.Spec.Owners.Namespaces,
	}
	if r.Spec.Start != nil {
		out.Start = r.Spec.Start.UnixNano()
	}
	switch {
	case r.Spec.End != nil:
		out.End = r.Spec.End.UnixNano()
	case r.Spec.Duration != nil:
		out.End = out.Start + int64(r.Spec.Duration.Duration)
	}
	if n := r.Spec.Nodes; n != nil {
		out.Nodes, out.Selector = n.Names, n.Selector
	}
	if a := r.Spec.Amount; a != nil {
		out.Count = int64(max(a.Count, 1))
		var qs []resource.Quantity
		for name, q := range a.Each {
			qs = append(qs, resource.Quantity{Name: string(name), Amount: resource.Requested(string(name), q)})
		}
		out.Each = resource.MakeList(qs...)
	}
	out.Status = snapshot.ReservationStatus{Phase: r.Status.Phase, Nodes: int64(r.Status.Nodes), Pieces: int64(r.Status.Pieces)}
	if t := r.Status.Start; t != nil {
		out.Status.Start = t.UnixNano()
	}
	if t := r.Status.End; t != nil {
		out.Status.End = t.UnixNano()
	}
	for _, b := range r.Status.Batch {
		there := b.State == hpcv1alpha1.BatchReservationMade || b.State == hpcv1alpha1.BatchReservationInForce
		out.Batch = append(out.Batch, snapshot.BatchState{Cluster: b.Cluster, There: there, Message: b.Message})
	}
	for _, cond := range r.Status.Conditions {
		if cond.Type == held {
			out.Status.Held, out.Status.Reason, out.Status.Message = cond.Status == metav1.ConditionTrue, cond.Reason, cond.Message
		}
	}
	return out
}
