package snapshot

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Snapshot is the whole state of one cycle. It is never changed.
type Snapshot struct {
	Dims   *resource.Dims
	Nodes  []*Node  // ordered by name
	Gangs  []*Gang  // ordered by key
	Queues []*Queue // ordered by name
	// Budgets are ordered by name.
	Budgets []Budget
	// HyperNodes are ordered by name; Levels are the labels that stand for tiers
	// where there are none. Places is what they come to, by tier and name.
	HyperNodes []HyperNodeSpec
	Levels     []string
	Places     []*Place
	// Reservations are ordered by name.
	Reservations []Reservation
	// Loads are what was measured, ordered by node.
	Loads []Load
	// Rounds say when plugins last had their turn to send pods away, in nanoseconds
	// since 1970. Nobody changes them.
	Rounds map[string]int64
	// Turns say who was looked at last in the rounds of a plugin that does not look at
	// all. Nobody changes them.
	Turns map[string]string
	// Opinions are what an extender said, ordered by class.
	Opinions []Opinion
	// Quotas are ordered by namespace, then name.
	Quotas []Quota
	// Usage is what queues have held of late, nil when nobody remembers it.
	Usage *Usage
	// Claims are the volumes and devices of the cluster; nil where no pod claims any.
	Claims *claims.World
	// Namespaces are the labels of namespaces, by name; nil where no node or pod selects
	// others by them.
	Namespaces map[string]map[string]string
	// Total is what all nodes together offer; hosts that several have count once.
	Total resource.Vector

	// shared gives the positions of the nodes that share hosts with a node, by its
	// own; nil where none do.
	shared map[int][]int

	kinds      *kinds
	memory     Memory
	used, shut resource.Vector // see Used and Shut
	peers      bool            // some pod says something about others
	selective  bool
}

// Assemble makes a snapshot of compiled parts, all over dims. It sorts the
// slices in place and owns them from then on.
func Assemble(dims *resource.Dims, nodes []*Node, gangs []*Gang, queues []*Queue) *Snapshot {
	slices.SortFunc(nodes, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(gangs, func(a, b *Gang) int { return strings.Compare(a.Key, b.Key) })
	return new(Lineage).Assemble(dims, nodes, gangs, queues)
}

// WithTopology gives a new snapshot its HyperNodes, or the labels that stand for
// them. A cache that knows that neither they nor the nodes' names and labels have
// changed hands in the places of before, and nil otherwise.
func (s *Snapshot) WithTopology(specs []HyperNodeSpec, levels []string, places []*Place) *Snapshot {
	slices.SortFunc(specs, func(a, b HyperNodeSpec) int { return strings.Compare(a.Name, b.Name) })
	s.HyperNodes, s.Levels, s.Places = specs, levels, places
	if places == nil {
		s.Places = placesOf(specs, levels, s.Nodes)
	}
	return s
}

// Node returns the position of a node by name.
func (s *Snapshot) Node(name string) (int, bool) {
	i := sort.Search(len(s.Nodes), func(i int) bool { return s.Nodes[i].Name >= name })
	return i, i < len(s.Nodes) && s.Nodes[i].Name == name
}

// Queue returns a queue by name, nil when there is none.
func (s *Snapshot) Queue(name string) *Queue {
	i := sort.Search(len(s.Queues), func(i int) bool { return s.Queues[i].Name >= name })
	if i < len(s.Queues) && s.Queues[i].Name == name {
		return s.Queues[i]
	}
	return nil
}

// Gang returns a gang by key, nil when there is none.
func (s *Snapshot) Gang(key string) *Gang {
	i := sort.Search(len(s.Gangs), func(i int) bool { return s.Gangs[i].Key >= key })
	if i < len(s.Gangs) && s.Gangs[i].Key == key {
		return s.Gangs[i]
	}
	return nil
}

// Audit recomputes what every node holds from the pods alone and reports the
// differences, none when the ledger is right.
func (s *Snapshot) Audit() []string {
	var out []string
	for _, n := range s.Nodes {
		sum := make(resource.Vector, s.Dims.Len())
		for _, r := range n.Residents {
			v, _ := s.Dims.Vector(r.Class.Requests)
			sum.AddScaled(v, 1)
		}
		if sum.Compare(n.state.used) != 0 {
			out = append(out, fmt.Sprintf("node %s: ledger says %v, pods say %v", n.Name, n.state.used, sum))
		}
		if n.gpus != nil {
			for _, wrong := range n.gpus.audit(n.state.gpus) {
				out = append(out, "node "+n.Name+": "+wrong)
			}
		}
	}
	for _, g := range s.Gangs {
		for _, p := range g.Pods {
			if p.Node == "" || p.Terminal() {
				continue
			}
			i, ok := s.Node(p.Node)
			if ok && !slices.ContainsFunc(s.Nodes[i].Residents, func(r Resident) bool { return r.UID == p.UID }) {
				out = append(out, fmt.Sprintf("pod %s/%s is bound to %s and not counted there", p.Namespace, p.Name, p.Node))
			}
		}
	}
	return out
}

// Document is a snapshot as data: the JSON form, and the form tests build.
type Document struct {
	Version int           `json:"version"`
	Classes []ClassSpec   `json:"classes"`
	Nodes   []NodeSpec    `json:"nodes"`
	Queues  []Queue       `json:"queues"`
	Gangs   []GangDoc     `json:"gangs"`
	Others  []ResidentDoc `json:"others,omitempty"` // pods of other schedulers
	Budgets []Budget      `json:"budgets,omitempty"`
	// Reservations keep nodes or amounts for some.
	Reservations []Reservation `json:"reservations,omitempty"`
	Loads        []Load        `json:"loads,omitempty"`
	// Rounds and Turns are as in Snapshot.
	Rounds   map[string]int64  `json:"rounds,omitempty"`
	Turns    map[string]string `json:"turns,omitempty"`
	Opinions []Opinion         `json:"opinions,omitempty"`
	Quotas   []Quota           `json:"quotas,omitempty"`
	// Usage is as in Snapshot.
	Usage *Usage `json:"usage,omitempty"`
	// Claims and Namespaces are as in Snapshot.
	Claims     *claims.Spec                 `json:"claims,omitempty"`
	Namespaces map[string]map[string]string `json:"namespaces,omitempty"`
	// HyperNodes and Levels are as in Snapshot.
	HyperNodes []HyperNodeSpec `json:"hyperNodes,omitempty"`
	Levels     []string        `json:"levels,omitempty"`
}

// GangDoc is a gang as data.
type GangDoc struct {
	GangSpec
	Pods []PodDoc `json:"pods"`
}

// PodDoc is a gang's pod as data; Class is a position in Document.Classes.
type PodDoc struct {
	Pod
	Class int `json:"class"`
}

// ResidentDoc is a pod that only holds resources.
type ResidentDoc struct {
	UID   string `json:"uid"`
	Node  string `json:"node"`
	Class int    `json:"class"`
	Job   string `json:"job,omitempty"`
	// Devices are as in Resident.
	Devices []string `json:"devices,omitempty"`
	Running bool     `json:"running,omitempty"`
	Leaving bool     `json:"leaving,omitempty"`
}

// version is the document format written and the only one read.
const version = 1

// maxDocument bounds what Read takes in.
const maxDocument = 1 << 30

// Build compiles a document.
func (d Document) Build() (*Snapshot, error) {
	dims := DimsOf(d.Nodes)
	byKey := map[string]*Class{}
	classes := make([]*Class, len(d.Classes))
	for i, spec := range d.Classes {
		spec.Requests = resource.MakeList(spec.Requests...)
		key := spec.Key()
		if byKey[key] == nil {
			byKey[key] = NewClass(spec, key, dims)
		}
		classes[i] = byKey[key]
	}
	class := func(i int) (*Class, error) {
		if i < 0 || i >= len(classes) {
			return nil, fmt.Errorf("class %d of %d", i, len(classes))
		}
		return classes[i], nil
	}
	residents := map[string][]Resident{}
	var gangs []*Gang
	for _, gd := range d.Gangs {
		pods := make([]*Pod, 0, len(gd.Pods))
		for _, pd := range gd.Pods {
			c, err := class(pd.Class)
			if err != nil {
				return nil, fmt.Errorf("pod %s/%s: %w", pd.Namespace, pd.Name, err)
			}
			p := pd.Pod
			p.Class = c
			pods = append(pods, &p)
			if p.Node != "" && !p.Terminal() {
				residents[p.Node] = append(residents[p.Node], Resident{UID: p.UID, Class: c, Job: p.Job(gd.Key), Devices: p.Devices, Cells: p.Cells, Running: p.Phase == PodRunning, Leaving: p.Terminating})
			}
		}
		gangs = append(gangs, NewGang(gd.GangSpec, pods, dims))
	}
	for _, r := range d.Others {
		c, err := class(r.Class)
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", r.UID, err)
		}
		residents[r.Node] = append(residents[r.Node], Resident{UID: r.UID, Class: c, Job: r.Job, Devices: r.Devices, Running: r.Running, Leaving: r.Leaving})
	}
	nodes := make([]*Node, 0, len(d.Nodes))
	for _, n := range d.Nodes {
		n.Allocatable = resource.MakeList(n.Allocatable...)
		nodes = append(nodes, NewNode(n, residents[n.Name], dims))
	}
	queues := make([]*Queue, 0, len(d.Queues))
	for _, q := range d.Queues {
		queues = append(queues, &q)
	}
	s := Assemble(dims, nodes, gangs, queues).WithTopology(slices.Clone(d.HyperNodes), d.Levels, nil)
	s.SetBudgets(d.Budgets)
	s.SetReservations(d.Reservations)
	s.SetLoads(d.Loads)
	s.SetOpinions(d.Opinions)
	s.SetQuotas(d.Quotas)
	s.Usage, s.Rounds, s.Turns = d.Usage, d.Rounds, d.Turns
	s.Namespaces = d.Namespaces
	claimed := d.Claims
	if claimed == nil && slices.ContainsFunc(classes, func(c *Class) bool { return c.Claims != nil }) {
		claimed = &claims.Spec{} // what they claim does not exist
	}
	if claimed != nil {
		s.Claims = claims.New(*claimed)
	}
	return s, nil
}

// SetBudgets gives the snapshot its disruption budgets before it is used.
func (s *Snapshot) SetBudgets(budgets []Budget) {
	s.Budgets = slices.Clone(budgets)
	slices.SortFunc(s.Budgets, func(a, b Budget) int { return strings.Compare(a.Name, b.Name) })
}

// Document turns the snapshot back into data, in a canonical order. Pods bound
// to nodes that the snapshot does not have are kept with their gangs.
func (s *Snapshot) Document() Document {
	d := Document{Version: version, Budgets: s.Budgets, Reservations: s.Reservations, Loads: s.Loads, Rounds: s.Rounds, Turns: s.Turns, Opinions: s.Opinions, Quotas: s.Quotas, Usage: s.Usage, HyperNodes: s.HyperNodes, Levels: s.Levels, Namespaces: s.Namespaces}
	if s.Claims != nil {
		spec := s.Claims.Spec()
		d.Claims = &spec
	}
	index := map[string]int{}
	var keys []string
	specs := map[string]ClassSpec{}
	note := func(c *Class) {
		if _, ok := specs[c.Key]; !ok {
			specs[c.Key] = c.ClassSpec
			keys = append(keys, c.Key)
		}
	}
	members := map[string]bool{}
	for _, g := range s.Gangs {
		for _, p := range g.Pods {
			note(p.Class)
			members[p.UID] = true
		}
	}
	for _, n := range s.Nodes {
		for _, r := range n.Residents {
			note(r.Class)
		}
	}
	slices.Sort(keys)
	for i, k := range keys {
		index[k] = i
		d.Classes = append(d.Classes, specs[k])
	}
	for _, n := range s.Nodes {
		d.Nodes = append(d.Nodes, n.NodeSpec)
		for _, r := range n.Residents {
			if !members[r.UID] {
				d.Others = append(d.Others, ResidentDoc{UID: r.UID, Node: n.Name, Class: index[r.Class.Key], Job: r.Job, Devices: r.Devices, Running: r.Running, Leaving: r.Leaving})
			}
		}
	}
	for _, q := range s.Queues {
		d.Queues = append(d.Queues, *q)
	}
	for _, g := range s.Gangs {
		gd := GangDoc{GangSpec: g.GangSpec}
		for _, p := range g.Pods {
			gd.Pods = append(gd.Pods, PodDoc{Pod: *p, Class: index[p.Class.Key]})
		}
		d.Gangs = append(d.Gangs, gd)
	}
	return d
}

// Write writes the snapshot as JSON; equal snapshots give equal bytes.
func (s *Snapshot) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	if err := enc.Encode(s.Document()); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// Read reads what Write wrote, strictly.
func Read(r io.Reader) (*Snapshot, error) {
	dec := json.NewDecoder(io.LimitReader(r, maxDocument))
	dec.DisallowUnknownFields()
	var d Document
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	if d.Version != version {
		return nil, fmt.Errorf("read snapshot: version %d, want %d", d.Version, version)
	}
	s, err := d.Build()
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	return s, nil
}
