package binder_test

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// broken is a cache that takes everything in and is wrong inside afterwards: some part
// of what it keeps up to date stays as it was before an event.
type broken struct {
	into
	at   func(kind int, o metav1.Object, gone bool) bool
	part func(c reflect.Value) (restore func())
}

func (b broken) set(kind int, o metav1.Object) {
	b.with(b.at(kind, o, false), func() { b.into.set(kind, o) })
}

func (b broken) del(kind int, o metav1.Object) {
	b.with(b.at(kind, o, true), func() { b.into.del(kind, o) })
}

func (b broken) with(breaks bool, take func()) {
	if !breaks {
		take()
		return
	}
	restore := b.part(reflect.ValueOf(b.Cache).Elem())
	take()
	restore()
}

// hidden is an unexported field of a struct, to be read and written.
func hidden(v reflect.Value, name string) reflect.Value {
	f := v.FieldByName(name)
	return reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem()
}

// snaps are what cycles see of all nodes or gangs, which is made anew once it is out of
// date: after restore it is not, where the entry is still there.
func snaps(of string) func(reflect.Value) func() {
	return func(c reflect.Value) func() {
		entries := hidden(c, of)
		was := map[string]reflect.Value{}
		for it := entries.MapRange(); it.Next(); {
			if snap := hidden(it.Value().Elem(), "snap"); !snap.IsNil() {
				was[it.Key().String()] = reflect.ValueOf(snap.Interface())
			}
		}
		return func() {
			for name, snap := range was {
				if e := entries.MapIndex(reflect.ValueOf(name)); e.IsValid() {
					hidden(e.Elem(), "snap").Set(snap)
				}
			}
		}
	}
}

// entriesOf are the entries of a map of the cache; after restore none is gone.
func entriesOf(name string) func(reflect.Value) func() {
	return func(c reflect.Value) func() { return held(hidden(c, name)) }
}

// held are the entries of a map; after restore none is gone.
func held(m reflect.Value) (restore func()) {
	was := map[string]reflect.Value{}
	for it := m.MapRange(); it.Next(); {
		was[it.Key().String()] = it.Value()
	}
	return func() {
		for k, v := range was {
			m.SetMapIndex(reflect.ValueOf(k), v)
		}
	}
}

// podsOf are the pods of all nodes or gangs; after restore none is gone.
func podsOf(of string) func(reflect.Value) func() {
	return func(c reflect.Value) func() {
		var pods []func()
		for it := hidden(c, of).MapRange(); it.Next(); {
			pods = append(pods, held(hidden(it.Value().Elem(), "pods")))
		}
		return func() {
			for _, restore := range pods {
				restore()
			}
		}
	}
}

// TestBrokenCachesAreFound plays histories with caches that hear of everything and whose
// inside is wrong: entries are not marked out of date, or what is kept beside the objects
// stays when it should go. Some of them show nothing of it for as long as nobody looks
// inside, which the recount does (R7).
func TestBrokenCachesAreFound(t *testing.T) {
	pod := func(of func(p *corev1.Pod, gone bool) bool) func(int, metav1.Object, bool) bool {
		return func(_ int, o metav1.Object, gone bool) bool {
			p, ok := o.(*corev1.Pod)
			return ok && of(p, gone)
		}
	}
	placed := pod(func(p *corev1.Pod, gone bool) bool {
		return !gone && p.Spec.NodeName != "" && p.Status.Phase == corev1.PodPending
	})
	runs := pod(func(p *corev1.Pod, gone bool) bool { return !gone && p.Status.Phase == corev1.PodRunning })
	ended := pod(func(p *corev1.Pod, gone bool) bool { return gone || p.Status.Phase == corev1.PodSucceeded })
	removed := pod(func(_ *corev1.Pod, gone bool) bool { return gone })
	all := func(of int) func(int, metav1.Object, bool) bool {
		return func(kind int, _ metav1.Object, _ bool) bool { return kind == of }
	}
	for name, b := range map[string]broken{
		"the order of nodes": {at: all(nodes), part: func(c reflect.Value) func() {
			order := hidden(c, "inOrder")
			was := reflect.ValueOf(order.Interface())
			return func() { order.Set(was) }
		}},
		"a node on which a pod ends":         {at: ended, part: snaps("nodes")},
		"a node on which a pod starts":       {at: runs, part: snaps("nodes")},
		"a node that changes":                {at: all(nodes), part: snaps("nodes")},
		"a gang of which a pod is placed":    {at: placed, part: snaps("gangs")},
		"a gang of which a pod starts":       {at: runs, part: snaps("gangs")},
		"a gang of which a pod ends":         {at: ended, part: snaps("gangs")},
		"a gang whose PodGroup changes":      {at: all(groups), part: snaps("gangs")},
		"pods that left a node":              {at: ended, part: podsOf("nodes")},
		"pods that left a gang":              {at: removed, part: podsOf("gangs")},
		"bindings that are shown":            {at: placed, part: entriesOf("assumed")},
		"evictions of pods that are no more": {at: removed, part: entriesOf("evictions")},
		"pods with claims": {at: placed, part: func(c reflect.Value) func() {
			n := hidden(hidden(c, "claimed"), "claimants")
			return func() { n.SetInt(n.Int() + 1) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			found(t, "R7", schedtest.Pipeline(), func(f feed) feed {
				b.into, _ = f.(into)
				return b
			})
		})
	}
}
