package cache

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// defaultBandwidth is how many bytes a second are copied where nobody says.
const defaultBandwidth = 100_000_000

// maxDatasets bounds how many datasets of a gang count.
const maxDatasets = 64

// dataset is a Dataset as scheduling sees it.
type dataset struct {
	snapshot.Data
	uid string
}

// SetDataset takes in a Dataset.
func (c *Cache) SetDataset(d *hpcv1alpha1.Dataset) {
	entry := &dataset{uid: string(d.UID), Data: snapshot.Data{Name: d.Name, Size: d.Spec.Size.Value(), PerSecond: defaultBandwidth}}
	if b := d.Spec.Bandwidth; b != nil {
		entry.PerSecond = b.Value()
	}
	for _, l := range d.Spec.Locations {
		p := snapshot.DataPlace{Labels: l.Nodes, Path: l.Path}
		if l.Cluster != "" {
			p.Labels = map[string]string{wellknown.Cluster: l.Cluster}
		}
		entry.Places = append(entry.Places, p)
	}
	if d.Spec.Staging != nil {
		entry.setTargets(d)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := d.Namespace + "/" + d.Name
	if old := c.datasets[key]; old != nil && reflect.DeepEqual(*old, *entry) {
		return
	}
	c.datasets[key] = entry
	c.touchReaders(d.Namespace, d.Name)
}

// setTargets takes in where a Dataset is copied to, and what became of that: a copy that
// is ready is a place like others.
func (e *dataset) setTargets(d *hpcv1alpha1.Dataset) {
	e.Staged = true
	for _, target := range d.Spec.Staging.Targets {
		t := snapshot.DataTarget{Cluster: target.Cluster, Labels: map[string]string{wellknown.Cluster: target.Cluster}}
		switch c := d.Copy(target); {
		case c == nil:
		case c.Phase == hpcv1alpha1.CopyReady:
			e.Places = append(e.Places, snapshot.DataPlace{Labels: t.Labels, Path: target.Path})
			continue
		case c.Phase == hpcv1alpha1.CopyCopying && c.StartTime != nil:
			t.Since = c.StartTime.UnixNano()
		case c.Phase == hpcv1alpha1.CopyFailed:
			t.Failed, t.Why = c.RetryTime == nil, plan.Bound(c.Message)
			if c.RetryTime != nil {
				t.RetryAt = c.RetryTime.UnixNano()
				t.Begins = beginsAt(c)
			}
		}
		e.Targets = append(e.Targets, t)
	}
}

// beginsAt is when a copy that was tried in vain may be thought to begin, in nanoseconds
// since 1970: one whose Job is refused is thought to be refused as much longer again, so
// that another cluster may become the better one.
func beginsAt(c *hpcv1alpha1.DatasetCopy) int64 {
	if c.Attempts > 0 || c.StartTime == nil || c.CompletionTime == nil {
		return 0
	}
	return max(c.RetryTime.UnixNano(), c.CompletionTime.Add(c.CompletionTime.Sub(c.StartTime.Time)).UnixNano())
}

// DeleteDataset forgets a Dataset.
func (c *Cache) DeleteDataset(namespace, name, uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := namespace + "/" + name
	if d := c.datasets[key]; d != nil && d.uid == uid {
		delete(c.datasets, key)
		c.touchReaders(namespace, name)
	}
}

// touchReaders marks the gangs that read a dataset.
func (c *Cache) touchReaders(namespace, name string) {
	for _, e := range c.gangs {
		if s := e.snap; s != nil && s.Namespace == namespace && slices.ContainsFunc(s.Data, func(d snapshot.Data) bool { return d.Name == name }) {
			e.snap = nil
		}
	}
	c.signal()
}

// dataOf is what a gang reads: what its PodGroup and its pods name.
func (c *Cache) dataOf(namespace string, e *gangEntry) []snapshot.Data {
	names := map[string]bool{}
	add := func(list []string) {
		for _, n := range list {
			names[n] = true
		}
	}
	if e.group != nil {
		add(e.group.reads)
	}
	for _, p := range e.pods {
		add(p.reads)
	}
	var out []snapshot.Data
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if len(out) == maxDatasets {
			break
		}
		if d := c.datasets[namespace+"/"+name]; d != nil {
			out = append(out, d.Data)
		} else {
			out = append(out, snapshot.Data{Name: name, Unknown: true})
		}
	}
	return out
}

// WatchOwn follows the kinds of Isthmus' own, Reservations and Datasets, until ctx
// ends, as Watch does the rest, and returns when all there are have been handed to
// the cache. Where the API server has no such kind there are none.
func (c *Cache) WatchOwn(ctx, sync context.Context, d discovery.DiscoveryInterface, client dynamic.Interface) (wait func(), err error) {
	log := logr.FromContextOrDiscard(ctx)
	var all []followed
	factory := dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	ask := &asker{discovery: d}
	for _, own := range []struct {
		resource string
		set      func(o *unstructured.Unstructured) error
		del      func(o *unstructured.Unstructured)
	}{
		{"reservations", func(o *unstructured.Unstructured) error {
			r := &hpcv1alpha1.Reservation{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, r); err != nil {
				return fmt.Errorf("decode: %w", err)
			}
			c.SetReservation(r)
			return nil
		}, func(o *unstructured.Unstructured) { c.DeleteReservation(o.GetName(), string(o.GetUID())) }},
		{"datasets", func(o *unstructured.Unstructured) error {
			d := &hpcv1alpha1.Dataset{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, d); err != nil {
				return fmt.Errorf("decode: %w", err)
			}
			c.SetDataset(d)
			return nil
		}, func(o *unstructured.Unstructured) {
			c.DeleteDataset(o.GetNamespace(), o.GetName(), string(o.GetUID()))
		}},
	} {
		if !ask.serves(sync, hpcv1alpha1.GroupVersion.String(), own.resource) {
			continue
		}
		k := kind{resource: own.resource + "." + hpcv1alpha1.GroupVersion.Group, informer: factory.ForResource(hpcv1alpha1.GroupVersion.WithResource(own.resource)).Informer()}
		k.set = on(func(u *unstructured.Unstructured) {
			if err := own.set(u); err != nil {
				log.Error(err, "read an object", "resource", own.resource, "namespace", u.GetNamespace(), "name", u.GetName())
			}
		})
		k.del = on(own.del)
		f, err := k.follow()
		if err != nil {
			return factory.Shutdown, err
		}
		all = append(all, f)
	}
	if ask.err != nil {
		return factory.Shutdown, ask.err
	}
	factory.Start(ctx.Done())
	return factory.Shutdown, c.handedOver(sync, all)
}
