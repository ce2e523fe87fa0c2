package snapshot

import (
	"encoding/json"
	"fmt"
	"maps"

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
	set := labels.Set(maps.Clone(s.Namespaces[namespace]))
	if set == nil {
		set = labels.Set{}
	}
	set[corev1.LabelMetadataName] = namespace // on every namespace
	for _, selector := range n.serves {
		if selector.Matches(set) {
			return true
		}
	}
	return false
}
