package snapshot

import (
	"encoding/binary"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Compact appends to b what tells a spec from others: the same bytes for specs whose Keys
// are equal, and for no others. It costs a tenth of a Key, and nobody can read it. What few
// pods have is in it as a Key has it.
func (c *ClassSpec) Compact(b []byte) []byte {
	b = appendLength(b, len(c.Requests))
	for _, q := range c.Requests {
		b = binary.AppendVarint(appendText(b, q.Name), q.Amount)
	}
	b = appendTexts(appendTexts(b, c.Revocable), c.Images)
	b = appendMap(appendMap(b, c.NodeSelector), c.Labels)
	b = appendText(appendText(b, c.Namespace), c.Unsupported)
	b = appendLength(b, len(c.Tolerations))
	for i := range c.Tolerations {
		b = appendToleration(b, &c.Tolerations[i])
	}
	if c.Affinity == nil && c.Groups == nil && c.GPU == nil && c.NUMA == nil && c.Peers == nil && c.Claims == nil &&
		len(c.HostPorts)+len(c.PreferredNodes) == 0 && !c.DaemonSet {
		return b
	}
	rest := *c
	rest.Requests, rest.Revocable, rest.Images, rest.NodeSelector, rest.Labels, rest.Tolerations = nil, nil, nil, nil, nil, nil
	rest.Namespace, rest.Unsupported = "", ""
	return append(b, rest.Key()...)
}

func appendLength(b []byte, n int) []byte { return binary.AppendUvarint(b, uint64(n)) }

func appendText(b []byte, s string) []byte { return append(appendLength(b, len(s)), s...) }

func appendTexts(b []byte, all []string) []byte {
	b = appendLength(b, len(all))
	for _, s := range all {
		b = appendText(b, s)
	}
	return b
}

func appendMap(b []byte, m map[string]string) []byte {
	var few [16]string
	keys := few[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	b = appendLength(b, len(keys))
	for _, k := range keys {
		b = appendText(appendText(b, k), m[k])
	}
	return b
}

func appendToleration(b []byte, t *corev1.Toleration) []byte {
	b = appendText(appendText(b, t.Key), string(t.Operator))
	b = appendText(appendText(b, t.Value), string(t.Effect))
	if t.TolerationSeconds == nil {
		return append(b, 0)
	}
	return binary.AppendVarint(append(b, 1), *t.TolerationSeconds)
}
