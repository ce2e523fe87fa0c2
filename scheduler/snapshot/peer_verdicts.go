package snapshot

import "slices"

func (p *Peers) hardSpread() bool {
	return slices.ContainsFunc(p.Spread, func(t SpreadTerm) bool { return t.Hard })
}

// refuses says why other pods keep a pod of the class off a node, "" if they do not.
func (x *peerIndex) refuses(node int, c *Class) string {
	on := x.s.Nodes[node]
	if !x.overlooked.Affinity {
		if why := x.apartFrom(on, c); why != "" {
			return why
		}
	}
	if c.peers == nil || x.overlooked.Spread {
		return ""
	}
	return x.uneven(on, c)
}

// apartFrom says which required affinity or anti-affinity, of the class or of pods that
// are there, keeps a pod off a node.
func (x *peerIndex) apartFrom(on *Node, c *Class) string {
	for _, i := range x.matching(c) {
		if x.hates[i] == 0 {
			continue
		}
		if v, ok := on.Labels[x.terms[i].key]; ok && x.anti[i][v] > 0 {
			return x.terms[i].words.hated
		}
	}
	p := c.peers
	if p == nil {
		return ""
	}
	for _, t := range p.apart {
		if v, ok := on.Labels[t.key]; ok && x.pods[x.at[t.id]][v] > 0 {
			return t.words.ruledOut
		}
	}
	return x.lonely(on, c)
}

// uneven says which required spread one more pod on a node would break.
func (x *peerIndex) uneven(on *Node, c *Class) string {
	p := c.peers
	for k, t := range p.spread {
		spec := p.spec.Spread[k]
		if !spec.Hard {
			continue
		}
		v, ok := on.Labels[t.key]
		if !ok {
			return "it lacks the label " + t.key + " of a spread constraint"
		}
		i := x.at[t.id]
		least := int64(0)
		if int64(len(x.pods[i])) >= spec.MinDomains {
			least = -1
			for _, n := range x.pods[i] {
				if least < 0 || n < least {
					least = n
				}
			}
		}
		after := x.pods[i][v]
		if x.matches(t, c) {
			after++
		}
		if after-max(least, 0) > spec.MaxSkew {
			return "the spread over " + t.key + " would be uneven"
		}
	}
	return ""
}

// lonely says that a node lacks a pod that the class has to be near. The first of
// pods that want each other may go anywhere that has the labels.
func (x *peerIndex) lonely(on *Node, c *Class) string {
	p := c.peers
	missing, any := "", false
	for _, t := range p.near {
		i := x.at[t.id]
		v, ok := on.Labels[t.key]
		if !ok {
			return "it lacks the label " + t.key + " of a pod affinity"
		}
		if missing == "" && x.pods[i][v] == 0 {
			missing = t.words.lonely
		}
		any = any || x.total[i] > 0
	}
	if missing == "" {
		return ""
	}
	if any || slices.ContainsFunc(p.near, func(t *term) bool { return !x.matches(t, c) }) {
		return missing
	}
	return ""
}

// top is the most pods of a term that one domain has, as of a stamp.
type top struct{ stamp, most int64 }

// fullest is how many pods the domain with the most of them has, of the term i.
func (x *peerIndex) fullest(i int) int64 {
	if x.tops[i].stamp != x.stamp {
		x.tops[i] = top{stamp: x.stamp}
		for _, n := range x.pods[i] {
			x.tops[i].most = max(x.tops[i].most, n)
		}
	}
	return x.tops[i].most
}

// PeerWeights say how much what pods prefer about others counts: each point of a
// preferred affinity Near, and a domain that none of the pods of a soft spread are in,
// Spread times 100; the domain with the most of them is worth 0.
type PeerWeights struct{ Near, Spread int64 }

// prefers is how well other pods suit a pod of the class on a node: the weights
// of what it wants near less those of what it does not, and more or less for what is
// already in the same domain of a soft spread.
func (x *peerIndex) prefers(node int, c *Class, w PeerWeights) int64 {
	p := c.peers
	if p == nil {
		return 0
	}
	on := x.s.Nodes[node]
	var out int64
	for k, t := range p.prefer {
		if v, ok := on.Labels[t.key]; ok && x.pods[x.at[t.id]][v] > 0 {
			out += p.spec.Prefer[k].Weight * w.Near
		}
	}
	for k, t := range p.spread {
		if p.spec.Spread[k].Hard {
			continue
		}
		i := x.at[t.id]
		if v, ok := on.Labels[t.key]; ok && w.Spread > 0 {
			most := max(x.fullest(i), 1)
			out += (most - x.pods[i][v]) * 100 / most * w.Spread
		}
	}
	return out
}

// swayed reports whether each pod of the class that is placed changes where the next
// would rather be.
func (x *peerIndex) swayed(c *Class) bool {
	if x == nil || c.peers == nil {
		return false
	}
	for k, t := range c.peers.spread {
		if !c.peers.spec.Spread[k].Hard && x.matches(t, c) {
			return true
		}
	}
	return slices.ContainsFunc(c.peers.prefer, func(t *term) bool { return x.matches(t, c) })
}

// selfNear lists the labels by which pods of the class want each other near while
// no such pod is anywhere yet: which place the first takes decides for all.
func (x *peerIndex) selfNear(c *Class) []string {
	if x == nil || c.peers == nil || x.overlooked.Affinity {
		return nil
	}
	var out []string
	for _, t := range c.peers.near {
		if x.matches(t, c) && x.total[x.at[t.id]] == 0 {
			out = append(out, t.key)
		}
	}
	return out
}

// DependsOnPods reports whether where pods of a class may go depends on which
// other pods are where, so that each placement may open or close nodes for it.
func (t *Txn) DependsOnPods(c *Class) bool { return t.peers.concerns(c) }

// PeerReason says why other pods keep a pod of the class off a node, "" if they
// do not.
func (t *Txn) PeerReason(node int, c *Class) string {
	if t.peers == nil || !t.peers.concerns(c) {
		return ""
	}
	return t.peers.refuses(node, c)
}

// Mutual says in clauses what pods of a class and those of others demand about each other,
// and all the more of its own where it is among them.
func (t *Txn) Mutual(c *Class, others []*Class) []string {
	x := t.peers
	if !x.cares(c) {
		return nil
	}
	var out []string
	say := func(terms []*term, of *Class, words func(*term) string) {
		for _, t := range terms {
			if x.matches(t, of) {
				out = append(out, words(t))
			}
		}
	}
	apart := func(t *term) string { return "its members keep apart by " + t.key + " (anti-affinity)" }
	near := func(t *term) string { return "its members stay together by " + t.key + " (affinity)" }
	for _, o := range others {
		if o.peers != nil && !x.overlooked.Affinity {
			say(o.peers.apart, c, apart)
		}
		if c.peers == nil {
			continue
		}
		if !x.overlooked.Affinity {
			say(c.peers.apart, o, apart)
			say(c.peers.near, o, near)
		}
		for k, t := range c.peers.spread {
			if c.peers.spec.Spread[k].Hard && !x.overlooked.Spread && x.matches(t, o) {
				out = append(out, "its members spread evenly over "+t.key)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// SwayedByPods reports whether each pod of a class that is placed changes where the
// next would rather be.
func (t *Txn) SwayedByPods(c *Class) bool { return t.peers.swayed(c) }

// PeerScore is how well the pods around suit a pod of the class on a node.
func (t *Txn) PeerScore(node int, c *Class, w PeerWeights) int64 {
	if t.peers == nil {
		return 0
	}
	return t.peers.prefers(node, c, w)
}

// SelfNear lists the labels by which the first pod of the class decides where all
// the others have to be.
func (t *Txn) SelfNear(c *Class) []string { return t.peers.selfNear(c) }

// PeersAllow reports whether all items can be on one node together as far as
// other pods matter, and why not. It changes nothing.
func (t *Txn) PeersAllow(node int, items []Item) (why string) {
	if t.peers == nil {
		return ""
	}
	x := t.peers
	type done struct {
		class *Class
		count int64
	}
	var added []done
	for _, it := range items {
		n := int64(0)
		for concerned := x.concerns(it.Class); concerned && n < it.Count; n++ {
			if why = x.refuses(node, it.Class); why != "" {
				break
			}
			x.add(node, it.Class, 1, false)
		}
		if why == "" && n < it.Count {
			x.add(node, it.Class, it.Count-n, false)
			n = it.Count
		}
		added = append(added, done{it.Class, n})
		if why != "" {
			break
		}
	}
	for _, d := range added {
		x.add(node, d.class, -d.count, false)
	}
	return why
}
