package schedtest

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// queueCommand adds a queue or replaces the one of its name.
func (w *World) queueCommand(name string, options []string) error {
	q := snapshot.Queue{Name: name, Weight: 1, State: snapshot.QueueOpen}
	for _, o := range options {
		if err := queueOption(&q, o); err != nil {
			return fmt.Errorf("queue: %w", err)
		}
	}
	for i := range w.Queues {
		if w.Queues[i].Name == name {
			w.Queues[i] = q
			return nil
		}
	}
	w.Queues = append(w.Queues, q)
	return nil
}

func queueOption(q *snapshot.Queue, o string) (err error) {
	key, value := option(o)
	list, name, isAmount := strings.Cut(key, ".")
	if isAmount {
		amount, err := quantity(name, value)
		if err != nil {
			return err
		}
		to, ok := map[string]*resource.List{"cap": &q.Capability, "deserved": &q.Deserved, "guarantee": &q.Guarantee}[list]
		if !ok {
			return fmt.Errorf("unknown option %q", o)
		}
		*to = resource.MakeList(append(*to, amount)...)
		return nil
	}
	groups := func() *snapshot.NodeGroups {
		if q.Groups == nil {
			q.Groups = &snapshot.NodeGroups{}
		}
		return q.Groups
	}
	switch key {
	case "state":
		q.State = value
	case "weight":
		q.Weight, err = strconv.ParseInt(value, 10, 32)
	case "priority":
		var n int64
		n, err = strconv.ParseInt(value, 10, 32)
		q.Priority = int32(n)
	case "parent":
		q.Parent = value
	case "fifo":
		q.Dequeue = snapshot.DequeueFIFO
	case "keep":
		q.Unreclaimable = true
	case "groups":
		groups().Required = strings.Split(value, ",")
	case "prefer":
		groups().Preferred = strings.Split(value, ",")
	case "forbid":
		groups().Forbidden = strings.Split(value, ",")
	case "avoid":
		groups().PreferredAway = strings.Split(value, ",")
	case "hierarchy":
		q.Hierarchy = value
	case "weights":
		q.HierarchyWeights = value
	default:
		return fmt.Errorf("unknown option %q", o)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	return nil
}
