package nodeorder

import (
	"github.com/isthmus-hpc/isthmus/scheduler/fill"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// An image below least bytes is as good as one that a node lacks; more than most bytes
// a container count no further. Both are those of Kubernetes' ImageLocality.
const (
	least = 23 << 20
	most  = 1000 << 20
)

// imaging is the plugin in one cycle, with how many of all real nodes have an image.
type imaging struct {
	Plugin
	spread *spread
}

type spread struct {
	on  map[string]int64
	all int64
}

// spreadOf counts the nodes that have an image; nil where none tells of any.
func spreadOf(s *snapshot.Snapshot) *spread {
	out := &spread{on: map[string]int64{}}
	for _, n := range s.Nodes {
		if n.Virtual {
			continue
		}
		out.all++
		for _, i := range n.Images {
			out.on[i.Name]++
		}
	}
	if len(out.on) == 0 {
		return nil
	}
	return out
}

// Lasts says that what the plugin says of a node holds while the node is the same, unless
// it asks how many nodes have an image.
func (p imaging) Lasts() any {
	if p.spread != nil {
		return nil
	}
	return p
}

// Score adds what is on the node already of a pod's images, which counts the less the
// fewer nodes have it: else all pods of one image would be on one node.
func (p imaging) Score(c *snapshot.Class, n *snapshot.Node) int64 {
	score := p.Plugin.Score(c, n)
	if p.spread == nil || n.Virtual || len(c.Images) == 0 || len(n.Images) == 0 {
		return score
	}
	var sum int64
	for _, name := range c.Images {
		if size := n.ImageSize(name); size > 0 {
			sum = resource.Add(sum, resource.Part(size, p.spread.on[name], p.spread.all))
		}
	}
	full := int64(most) * int64(len(c.Images))
	sum = min(max(sum, least), full)
	return resource.Add(score, resource.Mul(fill.Most*(sum-least)/(full-least), p.Images))
}
