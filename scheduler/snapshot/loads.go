package snapshot

import (
	"slices"
	"sort"
	"strings"
)

// Load is how busy a node was measured to be, in thousandths of what it has.
type Load struct {
	Node   string `json:"node"`
	CPU    int64  `json:"cpu"`
	Memory int64  `json:"memory"`
	// At is when that was, in nanoseconds since 1970.
	At int64 `json:"at"`
}

// SetLoads gives the snapshot what was measured before it is used.
func (s *Snapshot) SetLoads(loads []Load) {
	s.Loads = slices.Clone(loads)
	slices.SortFunc(s.Loads, func(a, b Load) int { return strings.Compare(a.Node, b.Node) })
}

// Load returns what was measured of a node, and whether anything was.
func (s *Snapshot) Load(node string) (Load, bool) {
	i := sort.Search(len(s.Loads), func(i int) bool { return s.Loads[i].Node >= node })
	if i < len(s.Loads) && s.Loads[i].Node == node {
		return s.Loads[i], true
	}
	return Load{}, false
}
