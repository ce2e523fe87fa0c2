package snapshot

import "github.com/isthmus-hpc/isthmus/scheduler/claims"

// Overlooked is what is not looked at when pods are placed on real nodes. The zero
// value looks at everything.
type Overlooked struct {
	// Ports has two pods on one port of a host, which the kubelet refuses.
	Ports bool
	// Affinity is required pod affinity and anti-affinity, Spread topology spread that is
	// required. What pods only prefer is no matter of these.
	Affinity, Spread bool
	Claims           claims.Overlooked
}

// Overlook says what is not looked at from now on, in the guards as well.
func (t *Txn) Overlook(o Overlooked) {
	t.overlooked = o
	if t.peers != nil {
		t.peers.overlooked = o
	}
	for _, g := range t.guards {
		g.Overlook(o)
	}
}
