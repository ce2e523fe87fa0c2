package binder

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
)

// Devices that a gang was given are worth nothing to it once it is not bound: a
// scheduler that ended between a claim and a binding leaves them with pods that may
// wait for long, or for ever. Those that this cycle did not place give them back, so
// that others may have them.

// takeBack has the devices of resource claims taken back that nobody uses or is about to.
func (b *Binder) takeBack() {
	idle := b.Cache.IdleClaims()
	if len(idle) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range idle {
		b.wishes[string(c.UID)] = wish{idle: c}
		b.writes.Add(string(c.UID))
	}
}

// takeDevices takes the devices of a claim back, unless it is used by now.
func (b *Binder) takeDevices(ctx context.Context, c *resourcev1.ResourceClaim) error {
	now := b.Cache.IdleClaim(c.Namespace, c.Name)
	if now == nil || now.UID != c.UID {
		return nil
	}
	return b.writeDevices(ctx, now, nil, nil)
}
