package snapshot

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// NodeSpec is a node as the API says.
type NodeSpec struct {
	Name          string            `json:"name"`
	UID           string            `json:"uid,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	Taints        []corev1.Taint    `json:"taints,omitempty"`
	Unschedulable bool              `json:"unschedulable,omitempty"`
	Ready         bool              `json:"ready"`
	Allocatable   resource.List     `json:"allocatable,omitempty"`
	// Virtual says that a batch system stands behind the node.
	Virtual bool `json:"virtual,omitempty"`
	// Shapes are the hosts behind a virtual node; nil when it told none, and
	// then only the sum of what it offers limits it.
	Shapes *hostshape.Shapes `json:"shapes,omitempty"`
	// Broken says why what a node tells of its hosts or GPUs cannot be trusted:
	// nothing is placed on a virtual node then, and no pod with GPUs on a real one.
	Broken string `json:"broken,omitempty"`
	// Wait is how many seconds a job submitted now is expected to wait at the
	// batch system of a virtual node.
	Wait int64 `json:"wait,omitempty"`
	// Serves are the label selectors, as text, of the namespaces that a virtual node's
	// batch system has an account for; none when it does not tell, and then all may go
	// there.
	Serves []string `json:"serves,omitempty"`
	// GPUs are the devices of a real node; nil when it does not describe them, and
	// then only their number counts.
	GPUs *gpubox.Box `json:"gpus,omitempty"`
	// NUMA is the processors by NUMA node; nil when nobody tells.
	NUMA *NUMA `json:"numa,omitempty"`
	// Images are those of the node that pods ask for, ordered by name; nil where
	// nobody cares.
	Images []Image `json:"images,omitempty"`
}

// Resident is a pod that holds resources of a node.
type Resident struct {
	UID   string
	Class *Class
	// Job is the batch job the pod belongs to: the gang attempt where known,
	// else the gang, else "".
	Job string
	// Devices are the GPUs the pod is known to have.
	Devices []string
	// Cells are the processors that it was given by NUMA node.
	Cells   []CellShare
	Running bool
	// Leaving says that it terminates.
	Leaving bool
}

// Node is a compiled NodeSpec with what is on it.
type Node struct {
	NodeSpec
	Total resource.Vector
	// Residents are ordered by UID.
	Residents []Resident

	state  *nodeState
	hosts  []bin  // host groups of a virtual node, smallest first
	packed []bool // dimensions that some shape names
	object *corev1.Node
	gpus   *gpuBox
	serves []labels.Selector

	counted map[string]bool // of the hosts' Counted; nil when it shares no hosts
	tags    [][2]string     // of the residents, by job and by UID; nil likewise

	classes []classCount // of the residents, in the order of the first of each
	peers   bool         // a resident does not want others near
	claims  []*claims.Asks
}

type classCount struct {
	class *Class
	count int64
	// leaving are those of count that terminate.
	leaving int64
}

// NewNode compiles a node. It takes ownership of residents.
func NewNode(spec NodeSpec, residents []Resident, dims *resource.Dims) *Node {
	slices.SortFunc(residents, func(a, b Resident) int { return strings.Compare(a.UID, b.UID) })
	n := &Node{NodeSpec: spec, Residents: residents, serves: selectors(spec.Serves)}
	n.Total, _ = dims.Vector(spec.Allocatable)
	if !spec.Virtual && spec.GPUs != nil {
		n.gpus = newGPUBox(*spec.GPUs)
		bound, _ := dims.Vector(boxOffers(spec.GPUs))
		for d, a := range bound {
			if a > 0 {
				n.Total[d] = a
			}
		}
	}
	n.object = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: spec.Name, Labels: spec.Labels}}
	if spec.Virtual && spec.Shapes != nil {
		n.hosts, n.packed = hostsOf(spec.Shapes, dims)
		n.share()
	}
	st := &nodeState{used: make(resource.Vector, dims.Len())}
	if n.gpus != nil {
		st.gpus = newGPUState(n.gpus)
	}
	seen := map[*Class]int{}
	for _, r := range residents {
		n.peers = n.peers || r.Class.peers != nil && len(r.Class.peers.apart) > 0
		if r.Class.Claims != nil {
			n.claims = append(n.claims, r.Class.Claims)
		}
		i, ok := seen[r.Class]
		if !ok {
			i = len(n.classes)
			seen[r.Class] = i
			n.classes = append(n.classes, classCount{class: r.Class})
		}
		n.classes[i].count++
		if r.Leaving {
			n.classes[i].leaving++
		}
		st.add(n, Item{Class: r.Class, Job: r.Job, Count: 1})
		if n.gpus != nil {
			n.gpus.hold(st.gpus, r.Class, r.Devices)
		}
	}
	st.numa = n.freeCells()
	n.state = st
	return n
}

// offers lists the names that a node offers in any form.
func (n NodeSpec) offers() []string {
	var out []string
	for _, q := range n.Allocatable {
		out = append(out, q.Name)
	}
	for _, q := range boxOffers(n.GPUs) {
		out = append(out, q.Name)
	}
	if n.Shapes != nil {
		for _, sh := range n.Shapes.Shapes {
			for name := range sh.Resources {
				out = append(out, name)
			}
		}
	}
	return out
}

// DimsOf returns the table of everything that the nodes offer.
func DimsOf(nodes []NodeSpec) *resource.Dims {
	names := []string{string(corev1.ResourceCPU), string(corev1.ResourceMemory), string(corev1.ResourcePods)}
	for _, n := range nodes {
		names = append(names, n.offers()...)
	}
	return resource.NewDims(names)
}

// nodeState is what is on a node at one point of a transaction. A state that
// has been replaced is never changed again, so rollback is a pointer.
type nodeState struct {
	used  resource.Vector
	ports []HostPort // real nodes only: pods of a virtual node are on many hosts
	items []Item     // virtual nodes with shapes only
	gpus  *gpuState  // real nodes that describe their GPUs only
	numa  []int64    // processors free by NUMA node, real nodes that tell only; never changed in place but by the owner
}

func (s *nodeState) clone() *nodeState {
	return &nodeState{used: s.used.Clone(), ports: slices.Clone(s.ports), items: slices.Clone(s.items), gpus: s.gpus.clone(), numa: slices.Clone(s.numa)}
}

// add counts an item without asking whether it fits: residents are facts.
func (s *nodeState) add(n *Node, it Item) {
	s.used.AddScaled(it.Class.Request, it.Count)
	if !n.Virtual {
		s.ports = append(s.ports, it.Class.HostPorts...)
		return
	}
	if n.hosts == nil {
		return
	}
	if !n.Shapes.ExclusiveComponents {
		it.Job = "" // only exclusive components care whose a host is
	}
	for i := range s.items {
		if s.items[i].Job == it.Job && s.items[i].Class == it.Class && s.items[i].from == it.from {
			s.items[i].Count = resource.Add(s.items[i].Count, it.Count)
			return
		}
	}
	s.items = append(s.items, it)
}

// remove undoes add.
func (s *nodeState) remove(n *Node, it Item) {
	s.used.SubScaled(it.Class.Request, it.Count)
	if !n.Virtual {
		for _, p := range it.Class.HostPorts {
			for range it.Count {
				if i := slices.Index(s.ports, p); i >= 0 {
					s.ports = slices.Delete(s.ports, i, i+1)
				}
			}
		}
		return
	}
	if n.hosts == nil {
		return
	}
	if !n.Shapes.ExclusiveComponents {
		it.Job = ""
	}
	for i := range s.items {
		if s.items[i].Job == it.Job && s.items[i].Class == it.Class && s.items[i].from == it.from {
			s.items[i].Count -= min(it.Count, s.items[i].Count)
			if s.items[i].Count == 0 {
				s.items = slices.Delete(s.items, i, i+1)
			}
			return
		}
	}
}

// takenPort is the first host port of the class that is taken, nil when all are free.
func (s *nodeState) takenPort(c *Class) *HostPort {
	for i, p := range c.HostPorts {
		if slices.ContainsFunc(s.ports, p.conflicts) {
			return &c.HostPorts[i]
		}
	}
	return nil
}

// Takes reports whether anybody can be placed on the node now, if there is room.
func (n *Node) Takes() bool { return n.Ready && !n.Unschedulable && !(n.Virtual && n.Broken != "") }

// Used is what the node's residents take; the caller must not change it.
func (n *Node) Used() resource.Vector { return n.state.used }
