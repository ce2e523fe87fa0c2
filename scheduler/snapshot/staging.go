package snapshot

import (
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// leastLeft is the least, in seconds, that a copy which takes longer than it should is
// thought to go on.
const leastLeft = 60

// DataTarget is a cluster that data may be copied to and does not have yet: one that has
// it is a DataPlace.
type DataTarget struct {
	Cluster string `json:"cluster"`
	// Labels are those of the cluster's nodes.
	Labels map[string]string `json:"labels"`
	// Since is when the copy that is under way was begun, in nanoseconds since 1970; 0
	// when none is.
	Since int64 `json:"since,omitempty"`
	// RetryAt is when one that failed is tried again, in nanoseconds since 1970, and
	// Failed says that it is not. Why is what the last failure said.
	RetryAt int64  `json:"retryAt,omitempty"`
	Failed  bool   `json:"failed,omitempty"`
	Why     string `json:"why,omitempty"`
	// Begins is when one whose Job is refused again and again is thought to begin, in
	// nanoseconds since 1970; 0 is at RetryAt.
	Begins int64 `json:"begins,omitempty"`
}

// Copy is a dataset and where it is to be copied to.
type Copy struct {
	Data   *Data
	Target *DataTarget
}

// Stages reports whether something that the gang reads is copied before it goes to a
// virtual node that lacks it.
func (g *GangSpec) Stages() bool {
	return slices.ContainsFunc(g.Data, func(d Data) bool { return d.Staged })
}

// Copies are those that the gang needs before it goes to a virtual node with these labels.
// lacks is what is not there and is not copied there either, nil for nothing.
func (g *GangSpec) Copies(labels map[string]string) (copies []Copy, lacks *Data) {
	for i := range g.Data {
		d := &g.Data[i]
		if _, there := d.On(labels); there || !d.Staged {
			continue
		}
		at := slices.IndexFunc(d.Targets, func(t DataTarget) bool {
			p := DataPlace{Labels: t.Labels}
			return p.has(labels)
		})
		if at < 0 {
			return nil, d
		}
		copies = append(copies, Copy{d, &d.Targets[at]})
	}
	return copies, nil
}

// Ready is in how many seconds the copy is thought to be there. One that takes longer than
// it should is thought to take as much longer again.
func (c Copy) Ready(now time.Time) int64 {
	takes := c.Data.Transfer()
	switch t := c.Target; {
	case t.Since != 0:
		ran := max(now.UnixNano()-t.Since, 0) / int64(time.Second)
		if ran < takes {
			return takes - ran
		}
		return max(ran-takes, leastLeft)
	case max(t.RetryAt, t.Begins) > now.UnixNano():
		return resource.Add(takes, (max(t.RetryAt, t.Begins)-now.UnixNano())/int64(time.Second))
	}
	return takes
}
