// Package reservation decides which reservations a batch system should have for the
// Reservation objects of Kubernetes, who may use them, and what is told of them. It is
// pure.
package reservation

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Slack is how much longer a reservation lasts at the batch system than its object
// says: it is ended from here, with the jobs that wait in it seen to. One that nobody
// ends is over by itself.
const Slack = 10 * time.Minute

// Cluster is what is reserved of.
type Cluster struct {
	Name  string // of the BatchCluster
	Owner string // its tag at the batch system
	Nodes []Node
	// UserOf gives the user that pods of a namespace run as.
	UserOf func(namespace string) (string, error)
	// Users are all that pods may run as.
	Users []string
}

// Node is a virtual node.
type Node struct {
	Name   string
	Labels map[string]string
	// Hosts are all that it stands for, usable or not.
	Hosts []string
	// Reservation is the one that its jobs are submitted into by the configuration.
	Reservation string
}

// Wish is a reservation that the batch system should have.
type Wish struct {
	Object, UID string   // of the Reservation
	Nodes       []string // virtual nodes, sorted
	Reservation backends.Reservation
	// Problem says why it cannot be asked for; "" when it can. Refused says that
	// somebody has to act, rather than that it passes by itself.
	Problem string
	Refused bool
	// Short says which of its owners go without.
	Short string

	namespaces []string
	queues     bool
}

// Wishes are the reservations that should be at a time: of objects that name virtual nodes
// of the cluster and are not over. Those that were made first come first, as in the
// scheduler: batch systems refuse a second reservation of the same hosts.
func Wishes(c Cluster, objects []hpcv1alpha1.Reservation, now time.Time) []Wish {
	objects = slices.Clone(objects)
	slices.SortFunc(objects, func(a, b hpcv1alpha1.Reservation) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	var out []Wish
	for i := range objects {
		o := &objects[i]
		start, end := Window(o)
		if o.Spec.Nodes == nil || o.DeletionTimestamp != nil || !end.After(now) {
			continue
		}
		w := Wish{
			Object: o.Name, UID: string(o.UID), namespaces: o.Spec.Owners.Namespaces, queues: len(o.Spec.Owners.Queues) > 0,
			Reservation: backends.Reservation{
				Name:  backends.ReservationName(c.Owner, string(o.UID)),
				Start: start.Truncate(time.Second), End: end.Add(Slack).Truncate(time.Second),
			},
		}
		hosts := map[string]bool{}
		for _, n := range c.Nodes {
			if !covers(o.Spec.Nodes, n) {
				continue
			}
			w.Nodes = append(w.Nodes, n.Name)
			switch {
			case n.Reservation != "" && w.Problem == "":
				w.Refused = true
				w.Problem = fmt.Sprintf("virtual node %s submits into reservation %s by the configuration of BatchCluster %s: take it out there, or leave the node out here", n.Name, n.Reservation, c.Name)
			case len(n.Hosts) == 0 && w.Problem == "":
				w.Problem = fmt.Sprintf("the hosts of virtual node %s are not known", n.Name)
			}
			for _, h := range n.Hosts {
				hosts[h] = true
			}
		}
		if len(w.Nodes) == 0 {
			continue
		}
		slices.Sort(w.Nodes)
		w.Reservation.Hosts = slices.Sorted(maps.Keys(hosts))
		w.users(c)
		out = append(out, w)
	}
	makeRoom(out)
	return out
}

// makeRoom lets a reservation begin after the slack of one before it that has hosts of
// it: batch systems keep no host twice. Once that one is ended it begins at once.
func makeRoom(all []Wish) {
	for i := range all {
		first := all[i].Reservation
		for j := range all {
			next := &all[j].Reservation
			shared := slices.ContainsFunc(next.Hosts, func(h string) bool { _, ok := slices.BinarySearch(first.Hosts, h); return ok })
			within := !next.Start.Before(first.End.Add(-Slack)) && next.Start.Before(first.End)
			if i != j && shared && within && next.End.After(first.End) {
				next.Start = first.End
			}
		}
	}
}

// Window is when a Reservation begins and is over.
func Window(o *hpcv1alpha1.Reservation) (start, end time.Time) {
	start = o.CreationTimestamp.Time
	if o.Spec.Start != nil {
		start = o.Spec.Start.Time
	}
	switch {
	case o.Spec.End != nil:
		end = o.Spec.End.Time
	case o.Spec.Duration != nil:
		end = start.Add(o.Spec.Duration.Duration)
	}
	return start.UTC(), end.UTC()
}

func covers(nodes *hpcv1alpha1.ReservedNodes, n Node) bool {
	if slices.Contains(nodes.Names, n.Name) {
		return true
	}
	for key, value := range nodes.Selector {
		if n.Labels[key] != value {
			return false
		}
	}
	return len(nodes.Selector) > 0
}

// users are those that the owners' pods run as. A queue may be anybody's.
func (w *Wish) users(c Cluster) {
	set := map[string]bool{}
	if w.queues {
		for _, u := range c.Users {
			set[u] = true
		}
	}
	var without []string
	for _, ns := range w.namespaces {
		user, err := c.UserOf(ns)
		if err != nil {
			without = append(without, ns)
			continue
		}
		set[user] = true
	}
	w.Reservation.Users = slices.Sorted(maps.Keys(set))
	if len(without) > 0 {
		w.Short = fmt.Sprintf("namespaces without an account in BatchCluster %s: %s", c.Name, strings.Join(without, ", "))
	}
	if len(set) == 0 && w.Problem == "" {
		w.Refused = true
		w.Problem = w.Short + "; give them one there (spec.accounts)"
	}
}

// Equal reports whether two wishes are the same in every respect.
func (w Wish) Equal(o Wish) bool { return reflect.DeepEqual(w, o) }

// Admits reports whether pods of a namespace may use it; by is the Reservation that
// their scheduler says it placed them by.
func (w *Wish) Admits(namespace, by string) bool {
	return slices.Contains(w.namespaces, namespace) || w.queues && by == w.Object
}

// Covers reports whether a virtual node is one of those that are reserved.
func (w *Wish) Covers(node string) bool {
	_, ok := slices.BinarySearch(w.Nodes, node)
	return ok
}

// Told is what a Reservation says of the batch system: listed is what is there, nil for
// nothing, and err what was said when it was asked for.
func (w *Wish) Told(cluster string, listed *backends.Reservation, err error) hpcv1alpha1.BatchReservation {
	out := hpcv1alpha1.BatchReservation{Cluster: cluster, Message: w.Short}
	if listed != nil {
		out.Name, out.Hosts, out.State = listed.Name, int32(min(len(listed.Hosts), 1<<31-1)), hpcv1alpha1.BatchReservationMade //nolint:gosec // bounded
		if listed.Active {
			out.State = hpcv1alpha1.BatchReservationInForce
		}
	}
	switch {
	case w.Problem != "":
		out.Message = w.Problem
	case backends.KindOf(err) == backends.KindDenied:
		out.Message = fmt.Sprintf("the batch system lets the account of BatchCluster %s make no reservation for %s: where they are users there, one of its administrators has to make that account an operator, or spec.reservations to be off (%v)", cluster, strings.Join(w.Reservation.Users, ", "), err)
	case err != nil:
		out.Message = err.Error()
	case listed == nil:
		out.Message = "it is asked for and not there yet"
	}
	if listed == nil {
		out.State = hpcv1alpha1.BatchReservationWaiting
		if w.Problem != "" && w.Refused || backends.KindOf(err) == backends.KindDenied || backends.KindOf(err) == backends.KindInvalid {
			out.State = hpcv1alpha1.BatchReservationRefused
		}
	}
	return out
}
