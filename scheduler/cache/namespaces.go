package cache

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// SetNamespace takes in a namespace.
func (c *Cache) SetNamespace(n *corev1.Namespace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.namespaces[n.Name]; ok && maps.Equal(old, n.Labels) {
		return
	}
	c.namespaces[n.Name], c.told = n.Labels, nil
	if c.spaces {
		c.signal()
	}
}

// DeleteNamespace forgets a namespace.
func (c *Cache) DeleteNamespace(n *corev1.Namespace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.namespaces, n.Name)
	c.told = nil
}

// namespaceLabels are the labels of all namespaces as snapshots hold them, nil where
// no pod selects by them and no node serves some only.
func (c *Cache) namespaceLabels() map[string]map[string]string {
	if !c.spaces {
		return nil
	}
	if c.told == nil {
		c.told = maps.Clone(c.namespaces)
	}
	return c.told
}

// usesSpaces reports whether a pod selects others by the labels of their namespaces.
func usesSpaces(p *snapshot.Peers) (found bool) {
	p.Spaces(func(*metav1.LabelSelector) { found = true })
	return found
}
