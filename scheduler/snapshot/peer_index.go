package snapshot

import "slices"

// peerIndex counts, for every term in use, pods by value of the term's label.
type peerIndex struct {
	s          *Snapshot
	overlooked Overlooked

	terms []*term
	at    map[string]int // by id
	// match lists, by class, the terms that select its pods.
	match map[*Class][]int
	// apart lists, by class, its own terms of required anti-affinity.
	apart map[*Class][]int
	pods  []map[string]int64 // selected pods, by term and value
	total []int64            // selected pods anywhere, by term
	tops  []top              // by term
	stamp int64              // grows with every change of pods
	anti  []map[string]int64 // pods that do not want selected ones near, by term and value
	hates []int64            // the same anywhere
	shuns []bool             // whether the term is of any class's required anti-affinity
}

func newPeerIndex(s *Snapshot) *peerIndex {
	x := &peerIndex{s: s, at: map[string]int{}, match: map[*Class][]int{}, apart: map[*Class][]int{}}
	for _, g := range s.Gangs {
		for _, p := range g.Pods {
			x.learn(p.Class)
		}
	}
	for _, n := range s.Nodes {
		for _, c := range n.classes {
			x.learn(c.class)
		}
	}
	x.pods = make([]map[string]int64, len(x.terms))
	x.tops = make([]top, len(x.terms))
	x.anti = make([]map[string]int64, len(x.terms))
	x.total, x.hates = make([]int64, len(x.terms)), make([]int64, len(x.terms))
	x.shuns = make([]bool, len(x.terms))
	for _, own := range x.apart {
		for _, i := range own {
			x.shuns[i] = true
		}
	}
	for i, t := range x.terms {
		x.pods[i], x.anti[i] = map[string]int64{}, map[string]int64{}
		for _, n := range s.Nodes {
			if v, ok := t.counts(n); ok {
				x.pods[i][v] += 0 // a domain without pods is one
			}
		}
	}
	for i, n := range s.Nodes {
		for _, c := range n.classes {
			x.add(i, c.class, c.count-c.leaving, false)
			x.add(i, c.class, c.leaving, true)
		}
	}
	return x
}

// learn takes a class's terms in.
func (x *peerIndex) learn(c *Class) {
	if c.peers == nil {
		return
	}
	if _, ok := x.apart[c]; ok {
		return
	}
	x.apart[c] = []int{}
	for _, ts := range [][]*term{c.peers.near, c.peers.apart, c.peers.prefer, c.peers.spread} {
		for _, t := range ts {
			if _, ok := x.at[t.id]; !ok {
				x.at[t.id] = len(x.terms)
				x.terms = append(x.terms, t)
			}
		}
	}
	for _, t := range c.peers.apart {
		x.apart[c] = append(x.apart[c], x.at[t.id])
	}
}

func (x *peerIndex) matching(c *Class) []int {
	if m, ok := x.match[c]; ok {
		return m
	}
	m := []int{}
	for i, t := range x.terms {
		if x.matches(t, c) {
			m = append(m, i)
		}
	}
	x.match[c] = m
	return m
}

// add counts n pods of a class more on a node, which terminate if leaving; n may be
// negative.
func (x *peerIndex) add(node int, c *Class, n int64, leaving bool) {
	if n == 0 {
		return
	}
	on := x.s.Nodes[node]
	x.stamp++
	for _, i := range x.matching(c) {
		if leaving && x.terms[i].lasting {
			continue
		}
		if v, ok := x.terms[i].counts(on); ok {
			x.pods[i][v] += n
			x.total[i] += n
		}
	}
	for _, i := range x.apart[c] {
		if v, ok := on.Labels[x.terms[i].key]; ok {
			x.anti[i][v] += n
			x.hates[i] += n
		}
	}
}

func (x *peerIndex) clone() *peerIndex {
	if x == nil {
		return nil
	}
	out := *x
	out.tops = slices.Clone(x.tops)
	out.total, out.hates = slices.Clone(x.total), slices.Clone(x.hates)
	out.pods, out.anti = make([]map[string]int64, len(x.pods)), make([]map[string]int64, len(x.anti))
	for i := range x.pods {
		out.pods[i], out.anti[i] = cloneCounts(x.pods[i]), cloneCounts(x.anti[i])
	}
	return &out
}

func cloneCounts(m map[string]int64) map[string]int64 {
	out := make(map[string]int64, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// cares reports whether pods of the class say anything about others, or any pod known that
// does not want them near: if not, nothing that is placed makes it otherwise.
func (x *peerIndex) cares(c *Class) bool {
	if x == nil {
		return false
	}
	return c.peers != nil || slices.ContainsFunc(x.matching(c), func(i int) bool { return x.shuns[i] })
}

// concerns reports whether where a pod of the class may go depends on other pods.
func (x *peerIndex) concerns(c *Class) bool {
	if x == nil {
		return false
	}
	o := x.overlooked
	if p := c.peers; p != nil && (!o.Affinity && len(p.near)+len(p.apart) > 0 || !o.Spread && p.spec.hardSpread()) {
		return true
	}
	if o.Affinity {
		return false
	}
	for _, i := range x.matching(c) {
		if x.hates[i] > 0 {
			return true
		}
	}
	return false
}
