// Package hostshape is the wire format of the host-shapes annotation on a
// virtual node: which hosts stand behind it, grouped by what they can hold. The
// provider writes it from the batch system's inventory and the scheduler packs
// gangs against it. Amounts are integers: millicores, bytes and devices.
package hostshape

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
)

// Shapes is what one virtual node stands for.
type Shapes struct {
	// ExclusiveComponents says that members of unequal requests never share a
	// host, because the batch system places each component of a heterogeneous
	// job on hosts of its own.
	ExclusiveComponents bool `json:"exclusiveComponents,omitempty"`
	// Shapes are in a stable order: most GPUs, then CPU, then memory first.
	Shapes []Shape `json:"shapes"`
	// Counted are the tags of what is bound to nodes that share hosts with this
	// one and is taken off the shapes already, sorted: whoever places more has to
	// count the rest of what is bound there itself. See Tag.
	Counted []string `json:"counted,omitempty"`
	// CountedMore says that there were too many to name. A pod that runs is counted then.
	CountedMore bool `json:"countedMore,omitempty"`
}

// MaxCounted is how many tags Counted has at the most.
const MaxCounted = 4000

// Tag is the short name in Counted of a gang attempt or, for a pod without one,
// of its UID.
func Tag(attempt string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(attempt)) // a hash takes everything
	return strconv.FormatUint(h.Sum64(), 36)
}

// Shape is a number of equal hosts, net of foreign use.
type Shape struct {
	// Count is the number of hosts, at least 1.
	Count int64 `json:"count"`
	// Resources maps a Kubernetes resource name to what one such host offers to
	// Kubernetes: cpu in millicores, memory in bytes, extended resources in devices.
	Resources map[string]int64 `json:"resources"`
	// With names the other virtual nodes that have these hosts as well, sorted.
	With []string `json:"with,omitempty"`
}

// maxBytes bounds what Parse reads; annotations are at most 256 KiB in all.
const maxBytes = 256 << 10

// Parse decodes the annotation strictly enough that a scheduler can trust it:
// counts are positive and amounts are not negative.
func Parse(s string) (Shapes, error) {
	var out Shapes
	if len(s) > maxBytes {
		return out, fmt.Errorf("host shapes: %d bytes, more than %d", len(s), maxBytes)
	}
	if err := json.Unmarshal([]byte(s), &out); err != nil {
		return Shapes{}, fmt.Errorf("host shapes: %w", err)
	}
	for i, sh := range out.Shapes {
		if sh.Count < 1 {
			return Shapes{}, fmt.Errorf("host shapes: shapes[%d].count is %d, must be at least 1", i, sh.Count)
		}
		for name, v := range sh.Resources {
			if v < 0 {
				return Shapes{}, fmt.Errorf("host shapes: shapes[%d].resources[%q] is negative", i, name)
			}
		}
	}
	return out, nil
}

// Format encodes s; equal values give equal text.
func (s Shapes) Format() string {
	b, err := json.Marshal(s)
	if err != nil { // maps of strings to integers always encode
		panic(err)
	}
	return string(b)
}
