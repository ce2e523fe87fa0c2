package schedtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// reserveCommand makes a reservation, or changes the one of its name.
func (w *World) reserveCommand(name string, options []string) error {
	r := snapshot.Reservation{Name: name, UID: name, Start: w.Now.UnixNano(), Created: w.Now.UnixNano(), Count: 1}
	last := time.Hour
	for _, o := range options {
		key, value := option(o)
		var err error
		var d time.Duration
		label, isLabel := strings.CutPrefix(key, "label.")
		res, isAmount := strings.CutPrefix(key, "each.")
		batch, isBatch := strings.CutPrefix(key, "batch.")
		switch {
		case key == "from":
			d, err = time.ParseDuration(value)
			r.Start += int64(d)
		case key == "for":
			last, err = time.ParseDuration(value)
		case key == "nodes":
			r.Nodes = strings.Split(value, ",")
		case key == "queues":
			r.Queues = strings.Split(value, ",")
		case key == "namespaces":
			r.Namespaces = strings.Split(value, ",")
		case key == "count":
			r.Count, err = strconv.ParseInt(value, 10, 32)
		case isBatch:
			r.Batch = append(r.Batch, snapshot.BatchState{Cluster: batch, There: value == "made"})
			if b := &r.Batch[len(r.Batch)-1]; !b.There {
				b.Message = value
			}
		case isLabel:
			r.Selector = map[string]string{label: value}
		case isAmount:
			var q resource.Quantity
			q, err = quantity(res, value)
			r.Each = resource.MakeList(append(r.Each, q)...)
		default:
			err = fmt.Errorf("unknown option")
		}
		if err != nil {
			return fmt.Errorf("reserve: %s: %w", o, err)
		}
	}
	r.End = r.Start + int64(last)
	if at := slices.IndexFunc(w.Reservations, func(o snapshot.Reservation) bool { return o.Name == name }); at >= 0 {
		r.Created, r.Status = w.Reservations[at].Created, w.Reservations[at].Status
		w.Reservations[at] = r
		return nil
	}
	w.Reservations = append(w.Reservations, r)
	return nil
}
