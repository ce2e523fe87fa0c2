package snapshot

import "github.com/isthmus-hpc/isthmus/scheduler/claims"

// promises is what is promised of volumes and devices before anything is placed.
func (s *Snapshot) promises() *claims.State {
	if s.Claims == nil {
		return nil
	}
	var users []claims.User
	for _, n := range s.Nodes {
		for _, a := range n.claims {
			users = append(users, claims.User{Node: n.Name, Asks: a})
		}
	}
	waiting := map[string]bool{}
	for _, g := range s.Gangs {
		for _, p := range g.Pods {
			if p.Node == "" && p.Class.ClaimsDevices() {
				waiting[p.UID] = true
			}
		}
	}
	return s.Claims.Start(users, waiting)
}

// noClaims is why pods with claims wait where nothing is known of any: a snapshot
// that was put together without them.
const noClaims = "nothing is known of volumes and devices"

// Claim has one pod of a class take its volumes and devices on a real node. Why says,
// with "" for no reason, why it cannot, and then nothing has changed.
func (t *Txn) Claim(node int, c *Class) (got claims.Got, why string) {
	if c.Claims == nil {
		return claims.Got{}, ""
	}
	if t.claims == nil {
		return claims.Got{}, noClaims
	}
	next, got, why := t.claims.PutOverlooking(t.s.Nodes[node].object, c.Claims, t.overlooked.Claims)
	if why != "" {
		return claims.Got{}, why
	}
	if !t.takeClaims(node, c, got, next) {
		return claims.Got{}, "what it claims is kept for a planned start"
	}
	return got, ""
}

// ClaimAs has one pod of a class take what Claim gave it before, where everything
// else is as it was then.
func (t *Txn) ClaimAs(node int, c *Class, got claims.Got) {
	if c.Claims == nil || t.claims == nil {
		return
	}
	if next, ok := t.claims.As(t.s.Nodes[node].object, c.Claims, got); ok {
		t.takeClaims(node, c, got, next)
	}
}

// VolumeReason says why a pod of a class could not get its volumes on a real node
// even if it were the first to be placed, "" if it could; over is not looked at.
func (t *Txn) VolumeReason(n *Node, c *Class, over claims.Overlooked) string {
	switch {
	case c.Claims == nil:
		return ""
	case t.opening == nil:
		return noClaims
	}
	volumes := claims.Asks{Namespace: c.Claims.Namespace, Volumes: c.Claims.Volumes, Missing: c.Claims.Missing}
	_, _, why := t.opening.PutOverlooking(n.object, &volumes, over)
	return why
}

// takeClaims changes to the next state, in all guards as well, or not at all.
func (t *Txn) takeClaims(node int, c *Class, got claims.Got, next *claims.State) bool {
	guarded := make([]*claims.State, len(t.guards))
	for i, g := range t.guards {
		var ok bool
		if guarded[i], ok = g.claims.As(t.s.Nodes[node].object, c.Claims, got); !ok {
			return false
		}
	}
	t.setClaims(t, next)
	for i, g := range t.guards {
		t.setClaims(g, guarded[i])
	}
	return true
}

func (t *Txn) setClaims(in *Txn, next *claims.State) {
	t.undo = append(t.undo, change{txn: in, claims: in.claims})
	in.claims = next
}

// leaveClaims takes pods off their volumes and devices.
func (t *Txn) leaveClaims(node int, it Item) {
	if it.Class.Claims == nil || t.claims == nil {
		return
	}
	for _, in := range append([]*Txn{t}, t.guards...) {
		next := in.claims
		for range it.Count {
			next = next.Leave(t.s.Nodes[node].Name, it.Class.Claims)
		}
		t.setClaims(in, next)
	}
}
