package binder_test

import (
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// agrees is R7: what the cache has kept up to date from events is what one that is
// made anew from the objects says, with the bindings that the scheduler has decided
// on, which are known apart from the cache.
func (w *world) agrees() (err error) {
	defer func() {
		if r := recover(); r != nil { // a snapshot cannot be made of what is kept
			err = fmt.Errorf("R7: %v\n%s", r, debug.Stack())
		}
	}()
	if found := w.cache.Audit(); len(found) > 0 {
		return fmt.Errorf("R7: audit: %q", found)
	}
	kept := w.cache.Snapshot(w.now) // which ends what is over by now
	fresh := cache.New()
	to := into{fresh}
	for k := range kinds {
		for _, o := range w.store[k] {
			to.set(k, o)
		}
	}
	for _, o := range w.store[pods] {
		uid := string(o.GetUID())
		seat, ok := w.cache.Pod(uid)
		p, _ := o.(*corev1.Pod)
		want, counted := w.assumed[uid]
		switch {
		case !ok:
			return fmt.Errorf("R7: the cache does not know pod %s", p.Name)
		case seat.Assumed != counted || counted && seat.Node != want:
			return fmt.Errorf("R7: pod %s counts as on %q (assumed %v), and was assumed on %q", p.Name, seat.Node, seat.Assumed, want)
		case counted:
			fresh.Assume(uid, cache.Assumption{Node: seat.Node, Attempt: seat.Attempt, Size: seat.Size, Rank: seat.Rank, Devices: seat.Devices, Cells: seat.Cells})
		}
		if seat.Terminating && p.DeletionTimestamp == nil {
			fresh.Evict(uid, w.now)
		} else if seat.Protected != "" {
			fresh.Spare(uid, seat.Protected, w.now.Add(time.Hour))
		}
	}
	return differ(kept, fresh.Snapshot(w.now))
}

// differ tells where two snapshots are not the same, but for what a scheduler
// remembers beside the objects.
func differ(a, b *snapshot.Snapshot) error {
	if len(a.Nodes) != len(b.Nodes) || len(a.Gangs) != len(b.Gangs) || len(a.Queues) != len(b.Queues) {
		return fmt.Errorf("R7: %d nodes, %d gangs and %d queues are kept; there are %d, %d and %d", len(a.Nodes), len(a.Gangs), len(a.Queues), len(b.Nodes), len(b.Gangs), len(b.Queues))
	}
	same := amounts(a, b)
	for i, n := range a.Nodes {
		if o := b.Nodes[i]; !reflect.DeepEqual(n.NodeSpec, o.NodeSpec) || !same(n.Used(), o.Used()) || !slices.Equal(residents(n), residents(o)) {
			return fmt.Errorf("R7: node %s is kept as\n%v %s %+v\nand is\n%v %s %+v", n.Name, n.Used(), residents(n), n.NodeSpec, o.Used(), residents(o), o.NodeSpec)
		}
	}
	for i, g := range a.Gangs {
		if o := b.Gangs[i]; !reflect.DeepEqual(spec(g), spec(o)) || !same(g.Held, o.Held) || !same(g.Wants, o.Wants) || !slices.EqualFunc(g.Pods, o.Pods, samePod) {
			return fmt.Errorf("R7: a gang is kept as\n%s\nand is\n%s", member(g), member(o))
		}
	}
	x, y := entitlement.New(a, entitlement.Options{}).Queues(), entitlement.New(b, entitlement.Options{}).Queues()
	if !slices.EqualFunc(a.Queues, b.Queues, func(p, q *snapshot.Queue) bool { return reflect.DeepEqual(p, q) }) ||
		!slices.EqualFunc(x, y, func(p, q *entitlement.Queue) bool {
			return p.Name == q.Name && same(p.Held, q.Held) && same(p.Deserved, q.Deserved) && same(p.Wanted, q.Wanted)
		}) {
		return fmt.Errorf("R7: queues are kept as\n%s\nand are\n%s", shares(x), shares(y))
	}
	return nil
}

func residents(n *snapshot.Node) []string {
	out := make([]string, 0, len(n.Residents))
	for _, r := range n.Residents {
		out = append(out, strings.Join(append([]string{r.UID, r.Job, r.Class.Key, strconv.FormatBool(r.Running)}, r.Devices...), " "))
	}
	slices.Sort(out)
	return out
}

// spec is a gang without what is remembered of it.
func spec(g *snapshot.Gang) snapshot.GangSpec {
	s := g.GangSpec
	s.Hold, s.HoldCode, s.Status, s.Nominated, s.Inherited, s.ShortSince, s.GrewAt, s.Whole, s.Unmade, s.UnmadeSince = "", "", snapshot.GroupStatus{}, nil, false, 0, 0, nil, "", 0
	return s
}

func samePod(a, b *snapshot.Pod) bool {
	p, q := *a, *b
	p.Class, q.Class = nil, nil
	return a.Class.Key == b.Class.Key && reflect.DeepEqual(p, q) //nolint:govet // the errors of both were made from one text
}

func member(g *snapshot.Gang) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%+v holds %v wants %v", spec(g), g.Held, g.Wants)
	for _, p := range g.Pods {
		q := *p
		q.Class = nil
		fmt.Fprintf(&b, "\n%+v %s", q, p.Class.Key)
	}
	return b.String()
}

func shares(of []*entitlement.Queue) string {
	var b strings.Builder
	for _, q := range of {
		fmt.Fprintf(&b, "%s holds %v, deserves %v, wants %v: %+v\n", q.Name, q.Held, q.Deserved, q.Wanted, q.Spec)
	}
	return b.String()
}

// amounts compares vectors of two snapshots by name, without what no node offers any
// more: that stays in the table of names that the cache keeps.
func amounts(a, b *snapshot.Snapshot) func(x, y resource.Vector) bool {
	if slices.Equal(a.Dims.Names(), b.Dims.Names()) {
		return slices.Equal[resource.Vector]
	}
	var specs []snapshot.NodeSpec
	for _, n := range b.Nodes {
		specs = append(specs, n.NodeSpec)
	}
	offered := snapshot.DimsOf(specs)
	return func(x, y resource.Vector) bool {
		for _, name := range offered.Names() {
			i, ok := a.Dims.Index(name)
			k, also := b.Dims.Index(name)
			if !ok || !also || i < len(x) != (k < len(y)) || i < len(x) && x[i] != y[k] {
				return false
			}
		}
		return true
	}
}
