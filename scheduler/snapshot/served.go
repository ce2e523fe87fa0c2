package snapshot

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// ParseServed reads what a virtual node tells of the namespaces that it serves
// (wellknown.ServedNamespaces): label selectors as text.
func ParseServed(text string) ([]string, error) {
	var out []string
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("decode the served namespaces: %w", err)
	}
	for _, selector := range out {
		if _, err := labels.Parse(selector); err != nil {
			return nil, fmt.Errorf("served namespaces %q: %w", selector, err)
		}
	}
	return out, nil
}

// selectors compiles what ParseServed has taken.
func selectors(texts []string) []labels.Selector {
	var out []labels.Selector
	for _, text := range texts {
		s, err := labels.Parse(text)
		if err != nil {
			s = labels.Nothing()
		}
		out = append(out, s)
	}
	return out
}

// Serves reports whether the batch system behind a node has an account for a
// namespace, as far as the node tells; real nodes serve all.
func (s *Snapshot) Serves(node int, namespace string) bool {
	n := s.Nodes[node]
	if len(n.serves) == 0 {
		return true
	}
	set := inNamespace{s.Namespaces[namespace], namespace}
	for _, selector := range n.serves {
		if selector.Matches(set) {
			return true
		}
	}
	return false
}

// inNamespace is the labels of a namespace as the API server has them: with its name,
// which is on every namespace, also of one that is not known. It is asked once for each
// gang and virtual node, and copies nothing.
type inNamespace struct {
	labels.Set
	name string
}

// Has reports whether the namespace has a label.
func (n inNamespace) Has(label string) bool {
	return label == corev1.LabelMetadataName || n.Set.Has(label)
}

// Get is the value of a label, "" for none.
func (n inNamespace) Get(label string) string {
	value, _ := n.Lookup(label)
	return value
}

// Lookup is the value of a label, and whether the namespace has it.
func (n inNamespace) Lookup(label string) (string, bool) {
	if label == corev1.LabelMetadataName {
		return n.name, true
	}
	return n.Set.Lookup(label)
}
