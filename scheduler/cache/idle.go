package cache

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
)

// idleness finds resource claims that nobody uses without a look at all of them: those
// alone of which something has changed that this depends on.
type idleness struct {
	// users are the places of claims by the UID of a pod that is entered in them.
	users map[string]map[string]bool
	// look are the places of claims that are idle, or may be.
	look map[string]bool
}

func newIdleness() idleness {
	return idleness{users: map[string]map[string]bool{}, look: map[string]bool{}}
}

// changed notes that an object took the place of another, either of which may be nil.
// Only resource claims matter.
func (i *idleness) changed(old, now any) {
	if was, ok := old.(*resourcev1.ResourceClaim); ok && was != nil {
		k := placeOf(was)
		delete(i.look, k)
		for _, user := range was.Status.ReservedFor {
			of := i.users[string(user.UID)]
			if delete(of, k); len(of) == 0 {
				delete(i.users, string(user.UID))
			}
		}
	}
	if is, ok := now.(*resourcev1.ResourceClaim); ok && is != nil {
		k := placeOf(is)
		i.look[k] = true
		for _, user := range is.Status.ReservedFor {
			uid := string(user.UID)
			if i.users[uid] == nil {
				i.users[uid] = map[string]bool{}
			}
			i.users[uid][k] = true
		}
	}
}

// seated notes that a pod may have lost its place, or may be another's by now.
func (i *idleness) seated(uid string) {
	for k := range i.users[uid] {
		i.look[k] = true
	}
}

// freed notes that what was promised to a pod no longer is.
func (i *idleness) freed(got *claims.Got) {
	if got == nil {
		return
	}
	for _, d := range got.Devices {
		i.look[d.Namespace+"/"+d.Claim] = true
	}
}

// IdleClaims lists the resource claims that have devices which nobody uses: all pods
// that are entered in them are ours and wait for a place, and none is promised one.
func (c *Cache) IdleClaims() []*resourcev1.ResourceClaim {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.claimed.claimants == 0 {
		return nil
	}
	var out []*resourcev1.ResourceClaim
	for k := range c.claimed.idle.look {
		if r := c.claimed.resourceClaims[k]; r != nil && c.idle(r) {
			out = append(out, r)
		} else {
			delete(c.claimed.idle.look, k)
		}
	}
	return out
}

// IdleClaim is the resource claim of a name if it is one of IdleClaims, or nil.
func (c *Cache) IdleClaim(namespace, name string) *resourcev1.ResourceClaim {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.claimed.resourceClaims[namespace+"/"+name]; r != nil && c.idle(r) {
		return r
	}
	return nil
}

func (c *Cache) idle(r *resourcev1.ResourceClaim) bool {
	if r.Status.Allocation == nil || len(r.Status.ReservedFor) == 0 {
		return false
	}
	for _, user := range r.Status.ReservedFor {
		e := c.pods[string(user.UID)]
		if e == nil || e.gang == "" {
			return false
		}
		if p := c.seat(e); !p.Waits() {
			return false
		}
	}
	for _, a := range c.assumed { // of a pod that is not entered yet
		if a.Claims != nil && slices.ContainsFunc(a.Claims.Devices, func(d claims.DeviceChoice) bool { return d.Namespace == r.Namespace && d.Claim == r.Name }) {
			return false
		}
	}
	return true
}
