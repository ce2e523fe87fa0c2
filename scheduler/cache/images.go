package cache

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// imagesOf lists the images that a node has, ordered by name.
func imagesOf(n *corev1.Node) []snapshot.Image {
	var out []snapshot.Image
	for _, i := range n.Status.Images {
		for _, name := range i.Names {
			out = append(out, snapshot.Image{Name: snapshot.ImageName(name), Size: i.SizeBytes})
		}
	}
	slices.SortFunc(out, func(a, b snapshot.Image) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(b.Size, a.Size))
	})
	return slices.CompactFunc(out, func(a, b snapshot.Image) bool { return a.Name == b.Name })
}

// imagesAsked lists the images of a pod's containers, one for each.
func imagesAsked(p *corev1.Pod) []string {
	var out []string
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range cs {
			out = append(out, snapshot.ImageName(c.Image))
		}
	}
	slices.Sort(out)
	return out
}

// WantImages says whether it matters to the cycles that follow which images nodes have.
// While it does not, images are no part of any snapshot and pods that differ in them
// alone are of one class.
func (c *Cache) WantImages(want bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.imaged == want {
		return
	}
	c.imaged, c.asked, c.askedMost = want, map[string]bool{}, leastAsked
	for _, e := range c.pods {
		c.ask(e)
		c.visible(e)
	}
	for _, n := range c.nodes {
		n.snap = nil
	}
	for _, g := range c.gangs {
		g.snap = nil
	}
}

// ask notes the images of a pod. Nodes that have one that nobody asked for before are
// looked at again.
func (c *Cache) ask(e *podEntry) {
	if !c.imaged {
		e.spec.Images = nil
		return
	}
	e.spec.Images = e.images
	for _, name := range e.images {
		if c.asked[name] {
			continue
		}
		c.asked[name] = true
		for _, n := range c.nodes {
			if slices.ContainsFunc(n.images, func(i snapshot.Image) bool { return i.Name == name }) {
				n.snap = nil
			}
		}
	}
}

// leastAsked is how many images are remembered at the least before some are forgotten.
const leastAsked = 1024

// forgetImages forgets the images that no pod asks for any more, once there are twice as
// many as when that was done last.
func (c *Cache) forgetImages() {
	if len(c.asked) <= c.askedMost {
		return
	}
	c.asked = map[string]bool{}
	for _, e := range c.pods {
		for _, name := range e.spec.Images {
			c.asked[name] = true
		}
	}
	c.askedMost = 2*len(c.asked) + leastAsked
	for _, n := range c.nodes {
		n.snap = nil
	}
}

// askedOf are those of images that pods ask for.
func (c *Cache) askedOf(images []snapshot.Image) []snapshot.Image {
	if !c.imaged {
		return nil
	}
	var out []snapshot.Image
	for _, i := range images {
		if c.asked[i.Name] {
			out = append(out, i)
		}
	}
	return out
}

// withImages adds to a node's description the images that matter.
func (c *Cache) withImages(spec snapshot.NodeSpec, e *nodeEntry) snapshot.NodeSpec {
	spec.Images = c.askedOf(e.images)
	return spec
}
