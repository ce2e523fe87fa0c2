package snapshot

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
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

// Terms calls f with every selection of pods in use.
func (p *Peers) Terms(f func(PeerTerm)) {
	if p == nil {
		return
	}
	for _, ts := range [][]PeerTerm{p.Near, p.Apart} {
		for _, t := range ts {
			f(t)
		}
	}
	for _, t := range p.Prefer {
		f(t.PeerTerm)
	}
	for _, t := range p.Spread {
		f(t.PeerTerm)
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
	// words say what it means for a node.
	words termWords
	// also are terms that have to select a pod as well: one that is to be near others by
	// several terms is near pods that all of them select.
	also []*term
}

// termWords are made once: they are asked for by the node.
type termWords struct{ hated, ruledOut, lonely string }

// wordsOf says by which label pods are near where that is not the node's name.
func wordsOf(key string) termWords {
	if key == corev1.LabelHostname {
		return termWords{
			hated:    "a pod there does not want this one by its anti-affinity",
			ruledOut: "a pod is there that the anti-affinity rules out",
			lonely:   "no pod is there that the affinity demands",
		}
	}
	return termWords{
		hated:    "a pod of the same " + key + " does not want this one by its anti-affinity",
		ruledOut: "the anti-affinity rules out a pod of the same " + key,
		lonely:   "no pod of the same " + key + " is one that the affinity demands",
	}
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
	t := &term{key: p.Key, namespaces: p.Namespaces, all: p.All, selector: labels.Nothing(), words: wordsOf(p.Key)}
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
