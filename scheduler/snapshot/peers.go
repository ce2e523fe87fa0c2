package snapshot

import (
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// PeerTerm selects pods, and the node label by whose value it is told whether
// they are near.
type PeerTerm struct {
	Key      string                `json:"key"`
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// Namespaces are those of the pods; All is every namespace. Spaces selects further
	// ones by their labels.
	Namespaces []string              `json:"namespaces,omitempty"`
	All        bool                  `json:"all,omitempty"`
	Spaces     *metav1.LabelSelector `json:"spaces,omitempty"`
}

// WeightedTerm is a preference: positive to be near, negative not to be.
type WeightedTerm struct {
	PeerTerm
	Weight int64 `json:"weight"`
}

// SpreadTerm is a topology spread constraint.
type SpreadTerm struct {
	PeerTerm
	MaxSkew    int64 `json:"maxSkew"`
	MinDomains int64 `json:"minDomains,omitempty"`
	// Hard is DoNotSchedule; otherwise it is a preference.
	Hard bool `json:"hard,omitempty"`
	// AllNodes counts nodes that the pod's own node selector rules out as well.
	AllNodes bool `json:"allNodes,omitempty"`
	// HonorTaints counts no nodes with a taint that the pod does not tolerate.
	HonorTaints bool `json:"honorTaints,omitempty"`
}

// Peers is what a pod demands and prefers about other pods.
type Peers struct {
	Near   []PeerTerm     `json:"near,omitempty"` // required pod affinity
	Apart  []PeerTerm     `json:"apart,omitempty"`
	Prefer []WeightedTerm `json:"prefer,omitempty"`
	Spread []SpreadTerm   `json:"spread,omitempty"`
}

// Spaces calls f with every selector of namespaces in use.
func (p *Peers) Spaces(f func(*metav1.LabelSelector)) {
	if p == nil {
		return
	}
	of := func(t PeerTerm) {
		if t.Spaces != nil {
			f(t.Spaces)
		}
	}
	for _, ts := range [][]PeerTerm{p.Near, p.Apart} {
		for _, t := range ts {
			of(t)
		}
	}
	for _, t := range p.Prefer {
		of(t.PeerTerm)
	}
}

// Selectors calls f with every selector in use, nil ones included.
func (p *Peers) Selectors(f func(*metav1.LabelSelector)) {
	if p == nil {
		return
	}
	for _, ts := range [][]PeerTerm{p.Near, p.Apart} {
		for _, t := range ts {
			f(t.Selector)
		}
	}
	for _, t := range p.Prefer {
		f(t.Selector)
	}
	for _, t := range p.Spread {
		f(t.Selector)
	}
}

// classPeers is Peers made ready: terms by identity.
type classPeers struct {
	near, apart, prefer, spread []*term
	spec                        *Peers
}

// term is one selection, which equal terms of several classes share by their id.
type term struct {
	id         string
	key        string
	selector   labels.Selector
	namespaces []string
	all        bool
	spaces     labels.Selector // nil selects none
	// only, for spread, restricts the nodes that count to those of this class.
	only *Class
	keys []string // and to those that have all these labels
	// bearing, for spread, restricts them to those whose taints this class tolerates.
	bearing *Class
	// lasting leaves pods out that terminate, as spread does.
	lasting bool
	// also are terms that have to select a pod as well: one that is to be near others by
	// several terms is near pods that all of them select.
	also []*term
}

// matches reports whether a term selects the pods of a class.
func (x *peerIndex) matches(t *term, c *Class) bool {
	if !x.covers(t, c.Namespace) || !t.selector.Matches(labels.Set(c.Labels)) {
		return false
	}
	return !slices.ContainsFunc(t.also, func(o *term) bool { return !x.matches(o, c) })
}

func (x *peerIndex) covers(t *term, namespace string) bool {
	if t.all || slices.Contains(t.namespaces, namespace) {
		return true
	}
	of, known := x.s.Namespaces[namespace]
	return known && t.spaces != nil && t.spaces.Matches(labels.Set(of))
}

// counts reports whether a node's pods count.
func (t *term) counts(n *Node) (value string, ok bool) {
	if value, ok = n.Labels[t.key]; !ok {
		return "", false
	}
	for _, k := range t.keys {
		if _, has := n.Labels[k]; !has {
			return "", false
		}
	}
	return value, (t.only == nil || t.only.Selects(n)) && (t.bearing == nil || t.bearing.bears(n))
}

func newTerm(p PeerTerm) *term {
	t := &term{key: p.Key, namespaces: p.Namespaces, all: p.All, selector: labels.Nothing()}
	if sel, err := metav1.LabelSelectorAsSelector(p.Selector); err == nil && p.Selector != nil {
		t.selector = sel
	}
	if sel, err := metav1.LabelSelectorAsSelector(p.Spaces); err == nil && p.Spaces != nil {
		t.spaces = sel
	}
	id, err := json.Marshal(p)
	if err != nil { // strings always encode
		panic(fmt.Sprintf("encode term: %v", err))
	}
	t.id = string(id)
	return t
}

func newClassPeers(c *Class) *classPeers {
	if c.Peers == nil {
		return nil
	}
	out := &classPeers{spec: c.Peers}
	out.near = nearTerms(c.Peers.Near)
	for _, p := range c.Peers.Apart {
		out.apart = append(out.apart, newTerm(p))
	}
	for _, p := range c.Peers.Prefer {
		out.prefer = append(out.prefer, newTerm(p.PeerTerm))
	}
	var keys []string
	for _, p := range c.Peers.Spread {
		if p.Hard {
			keys = append(keys, p.Key)
		}
	}
	for _, p := range c.Peers.Spread {
		t := newTerm(p.PeerTerm)
		t.keys, t.lasting = keys, true
		t.id += fmt.Sprint(" spread ", keys)
		if t.selector.Empty() { // as in Kubernetes, where it could as well select all
			t.selector = labels.Nothing()
		}
		if p.HonorTaints {
			t.bearing = c
			t.id += " bearing " + c.Key
		}
		if !p.AllNodes && (len(c.NodeSelector) > 0 || c.Affinity != nil) {
			t.only = c
			t.id += " " + c.Key
		}
		out.spread = append(out.spread, t)
	}
	return out
}

// nearTerms makes the terms of required affinity, each of which selects what all do.
func nearTerms(specs []PeerTerm) []*term {
	out := make([]*term, 0, len(specs))
	for _, p := range specs {
		out = append(out, newTerm(p))
	}
	if len(out) < 2 {
		return out
	}
	var all []*term
	ids := ""
	for _, t := range out {
		one := *t
		all, ids = append(all, &one), ids+" near "+t.id
	}
	for _, t := range out {
		t.also = all
		t.id += ids
	}
	return out
}

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
}

// usesPeers reports whether any pod to be placed, or any that is there and might
// object, has a term.
func (s *Snapshot) usesPeers() bool {
	for _, n := range s.Nodes {
		if n.peers {
			return true
		}
	}
	for _, g := range s.Gangs {
		if g.peers {
			return true
		}
	}
	return false
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
			return "a pod there does not want this one by its anti-affinity"
		}
	}
	p := c.peers
	if p == nil {
		return ""
	}
	for _, t := range p.apart {
		if v, ok := on.Labels[t.key]; ok && x.pods[x.at[t.id]][v] > 0 {
			return "a pod is there that the anti-affinity rules out"
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
	missing, any := false, false
	for _, t := range p.near {
		i := x.at[t.id]
		v, ok := on.Labels[t.key]
		if !ok {
			return "it lacks the label " + t.key + " of a pod affinity"
		}
		missing = missing || x.pods[i][v] == 0
		any = any || x.total[i] > 0
	}
	if !missing {
		return ""
	}
	if any || slices.ContainsFunc(p.near, func(t *term) bool { return !x.matches(t, c) }) {
		return "no pod is there that the affinity demands"
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
