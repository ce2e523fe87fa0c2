package cache

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

type nodeEntry struct {
	spec   *snapshot.NodeSpec // nil until the node itself is seen
	images []snapshot.Image   // all that the node has
	pods   map[string]*podEntry
	snap   *snapshot.Node // nil when out of date
}

func (c *Cache) node(name string) *nodeEntry {
	n := c.nodes[name]
	if n == nil {
		n = &nodeEntry{pods: map[string]*podEntry{}}
		c.nodes[name] = n
	}
	return n
}

// SetNode takes in a node.
func (c *Cache) SetNode(n *corev1.Node) {
	spec, images := nodeSpec(n), imagesOf(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.node(n.Name)
	same := slices.Equal(c.askedOf(e.images), c.askedOf(images))
	e.images = images
	if e.spec != nil && same && reflect.DeepEqual(*e.spec, spec) {
		return // a heartbeat
	}
	if e.spec == nil {
		c.inOrder = nil
	}
	c.noteBroken(e.spec, spec)
	if e.spec == nil || e.spec.Virtual != spec.Virtual || !maps.Equal(e.spec.Labels, spec.Labels) {
		c.places = nil
	}
	e.spec, e.snap = &spec, nil
	c.spaces = c.spaces || len(spec.Serves) > 0
	if c.dims != nil && !c.knows(spec) {
		c.dims = nil
	}
	c.signal()
}

// knows reports whether a node offers nothing that the table of names lacks.
// Names that vanish stay in the table until the next new one: they do no harm.
func (c *Cache) knows(spec snapshot.NodeSpec) bool {
	for _, name := range snapshot.DimsOf([]snapshot.NodeSpec{spec}).Names() {
		if _, ok := c.dims.Index(name); !ok {
			return false
		}
	}
	return true
}

// DeleteNode forgets a node; its pods are kept until they are deleted as well.
func (c *Cache) DeleteNode(name, uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.nodes[name]
	if e == nil || e.spec == nil || e.spec.UID != uid {
		return
	}
	e.spec, e.snap, c.places, c.inOrder = nil, nil, nil, nil
	if len(e.pods) == 0 {
		delete(c.nodes, name)
	}
	c.signal()
}

// ordered lists the nodes that are seen, by name: sorting them in each cycle would
// cost more than most cycles.
func (c *Cache) ordered() []*nodeEntry {
	if c.inOrder == nil {
		c.inOrder = make([]*nodeEntry, 0, len(c.nodes))
		for _, e := range c.nodes {
			if e.spec != nil {
				c.inOrder = append(c.inOrder, e)
			}
		}
		slices.SortFunc(c.inOrder, func(a, b *nodeEntry) int { return strings.Compare(a.spec.Name, b.spec.Name) })
	}
	return c.inOrder
}

func nodeSpec(n *corev1.Node) snapshot.NodeSpec {
	spec := snapshot.NodeSpec{
		Name: n.Name, UID: string(n.UID), Labels: n.Labels, Taints: n.Spec.Taints,
		Unschedulable: n.Spec.Unschedulable, Virtual: n.Labels[wellknown.VirtualNode] == "true",
	}
	if spec.Virtual {
		spec.Wait = number(n.Annotations[wellknown.QueueWait])
		if text, ok := n.Annotations[wellknown.ServedNamespaces]; ok {
			// What cannot be read keeps nobody away: the daemon knows better.
			spec.Serves, _ = snapshot.ParseServed(text)
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			spec.Ready = c.Status == corev1.ConditionTrue
		}
	}
	if box, err := boxOf(n); err != nil && !spec.Virtual {
		spec.Broken = err.Error()
	} else if !spec.Virtual {
		spec.GPUs = box
	}
	var qs []resource.Quantity
	for name, q := range n.Status.Allocatable {
		qs = append(qs, resource.Quantity{Name: string(name), Amount: resource.Offered(string(name), q)})
	}
	spec.Allocatable = resource.MakeList(qs...)
	if text, ok := n.Annotations[wellknown.HostShapes]; ok && spec.Virtual {
		shapes, err := hostshape.Parse(text)
		if err != nil {
			spec.Broken = err.Error()
		} else {
			spec.Shapes = &shapes
		}
	}
	return spec
}
