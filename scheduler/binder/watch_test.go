package binder_test

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
)

// feed is what watches tell of one kind.
type feed interface {
	set(kind int, o metav1.Object)
	del(kind int, o metav1.Object)
}

// into gives the cache what watches tell, as its informers do.
type into struct{ *cache.Cache }

func (c into) set(_ int, o metav1.Object) {
	switch o := o.(type) {
	case *corev1.Node:
		c.SetNode(o)
	case *corev1.Pod:
		c.SetPod(o)
	case *volcanov1.PodGroup:
		c.SetGroup(o)
	case *volcanov1.Queue:
		c.SetQueue(o)
	}
}

func (c into) del(_ int, o metav1.Object) {
	switch o := o.(type) {
	case *corev1.Node:
		c.DeleteNode(o.Name, string(o.UID))
	case *corev1.Pod:
		c.DeletePod(string(o.UID))
	case *volcanov1.PodGroup:
		c.DeleteGroup(o.Namespace, o.Name, string(o.UID))
	case *volcanov1.Queue:
		c.DeleteQueue(o.Name, string(o.UID))
	}
}

// deliver tells the scheduler up to n events of a kind.
func (w *world) deliver(kind, n int) error {
	if kind == pods && w.held {
		return nil
	}
	for ; n > 0 && w.seen[kind] < len(w.api.log[kind]); n-- {
		e := w.api.log[kind][w.seen[kind]]
		w.seen[kind]++
		if e.gone {
			w.gone(kind, e.object)
		} else {
			w.told(kind, e.object)
		}
		w.events++
		if w.closely {
			if err := w.agrees(); err != nil {
				return err
			}
		}
	}
	return nil
}

// told and gone keep an informer's store, and pass on what it does.
func (w *world) told(kind int, o metav1.Object) {
	if old := w.store[kind][o.GetName()]; old != nil && old.GetUID() != o.GetUID() {
		w.gone(kind, old)
	}
	w.store[kind][o.GetName()] = o
	w.feed.set(kind, o)
	if p, ok := o.(*corev1.Pod); ok && (p.Spec.NodeName != "" || p.Status.Phase == corev1.PodSucceeded) {
		delete(w.assumed, string(p.UID))
	}
}

func (w *world) gone(kind int, o metav1.Object) {
	delete(w.store[kind], o.GetName())
	w.feed.del(kind, o)
	if kind == pods {
		delete(w.assumed, string(o.GetUID()))
	}
}

// relist is what an informer does whose watch was cut for too long: it takes what is
// there now, and what it knew and does not find is gone.
func (w *world) relist(kind int) {
	w.held = w.held && kind != pods
	w.seen[kind] = len(w.api.log[kind])
	for name, o := range w.store[kind] {
		if w.api.objects[kind][name] == nil {
			w.gone(kind, o)
		}
	}
	for _, name := range w.api.names(kind) {
		w.told(kind, w.api.objects[kind][name])
	}
}

// all tells everything that happened, but for a watch that is held back.
func (w *world) all() error {
	for k := range kinds {
		if err := w.deliver((k+w.cycles)%kinds, 1<<30); err != nil {
			return err
		}
	}
	w.fresh = w.now
	return nil
}
