package claims

import "maps"

// trail is a map that is changed by copies: a copy shares all that was there with the
// one before and both go on for themselves. What is added lies in layers, of which each
// is at least twice the next, so that a copy costs little however much is in it.
type trail[K comparable, V any] struct {
	layers []map[K]V // the last goes before the others; shared but for it, if own
	own    bool
}

func (t *trail[K, V]) get(k K) (V, bool) {
	for i := len(t.layers) - 1; i >= 0; i-- {
		if v, ok := t.layers[i][k]; ok {
			return v, true
		}
	}
	var none V
	return none, false
}

func (t *trail[K, V]) set(k K, v V) {
	if !t.own {
		t.layers, t.own = append(t.layers[:len(t.layers):len(t.layers)], map[K]V{}), true
	}
	t.layers[len(t.layers)-1][k] = v
}

// fork returns a copy. Neither changes what is there from then on.
func (t *trail[K, V]) fork() trail[K, V] {
	n := len(t.layers)
	if t.own {
		t.own = false
		for n > 1 && 2*len(t.layers[n-1]) > len(t.layers[n-2]) {
			both := maps.Clone(t.layers[n-2])
			maps.Copy(both, t.layers[n-1])
			t.layers = append(t.layers[:n-2:n-2], both)
			n--
		}
	}
	return trail[K, V]{layers: t.layers}
}

// sum is a trail of numbers that begin at 0.
type sum[K comparable] struct{ trail[K, int64] }

func (t *sum[K]) of(k K) int64 {
	v, _ := t.get(k)
	return v
}

func (t *sum[K]) add(k K, n int64) { t.set(k, t.of(k)+n) }

func (t *sum[K]) fork() sum[K] { return sum[K]{t.trail.fork()} }
