package snapshot

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"reflect"
	"testing"
)

// draws choose one of n by where the choice is made, so that one can be changed without
// the others.
type draws struct {
	seed    uint64
	changed [2]string // where the choices are others
	made    []string
}

func (d *draws) choose(at string, n int) int {
	d.made = append(d.made, at)
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, d.seed, at, at == d.changed[0] || at == d.changed[1]) // a hash takes everything
	return rand.New(rand.NewPCG(h.Sum64(), 1)).IntN(n)                         //nolint:gosec // a test's draws
}

// fill gives v one of few values of its type. Nothing has to be said in one way alone: what
// is empty may be there or not.
func (d *draws) fill(v reflect.Value, at string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString([]string{"", "a", "b", "ab", "\x01a", "a\x00"}[d.choose(at, 6)])
	case reflect.Bool:
		v.SetBool(d.choose(at, 2) == 1)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt([]int64{0, 1, -1, 300}[d.choose(at, 4)])
	case reflect.Pointer:
		if d.choose(at, 2) == 1 {
			v.Set(reflect.New(v.Type().Elem()))
			d.fill(v.Elem(), at+"*")
		}
	case reflect.Slice:
		if n := d.choose(at, 4); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n-1))
			for i := range n - 1 {
				d.fill(v.Index(i), fmt.Sprint(at, "/", i))
			}
		}
	case reflect.Map:
		if n := d.choose(at, 4); n > 0 {
			v.Set(reflect.MakeMap(v.Type()))
			for i := range n - 1 {
				key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				d.fill(key, fmt.Sprint(at, "/key", i))
				d.fill(value, fmt.Sprint(at, "/", i))
				v.SetMapIndex(key, value)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			d.fill(v.Field(i), at+"."+v.Type().Field(i).Name)
		}
	default:
		panic(fmt.Sprintf("a spec has a %s", v.Kind()))
	}
}

// TestCompactTellsApartWhatKeysDo: whatever a spec holds, in whichever of its fields, one
// that is added to them or to Kubernetes' some day included, two have the same bytes
// exactly when they have the same key.
func TestCompactTellsApartWhatKeysDo(t *testing.T) {
	t.Parallel()
	fields := reflect.TypeFor[ClassSpec]().NumField()
	alike, unlike := make([]int, fields), make([]int, fields)
	for seed := range uint64(60000) {
		rng := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // likewise
		field := rng.IntN(fields)
		also := rng.IntN(fields)
		fill := func(d *draws) (c ClassSpec) {
			for _, i := range []int{field, also} {
				d.fill(reflect.ValueOf(&c).Elem().Field(i), fmt.Sprint(i))
			}
			return c
		}
		first := &draws{seed: seed}
		a := fill(first)
		// Text may have moved from one to the next.
		i := rng.IntN(len(first.made))
		b := fill(&draws{seed: seed, changed: [2]string{first.made[i], first.made[min(i+rng.IntN(2), len(first.made)-1)]}})
		want := a.Key() == b.Key()
		if got := bytes.Equal(a.Compact(nil), b.Compact([]byte("room"))[4:]); got != want {
			t.Fatalf("seed %d: compact says equal: %t, the keys say %t:\n%s\n%s", seed, got, want, a.Key(), b.Key())
		}
		if want {
			alike[field]++
		} else {
			unlike[field]++
		}
	}
	for i := range fields {
		if alike[i] < 100 || unlike[i] < 100 {
			t.Errorf("%s: %d alike, %d unlike", reflect.TypeFor[ClassSpec]().Field(i).Name, alike[i], unlike[i])
		}
	}
}
