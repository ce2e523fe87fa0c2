package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// memory is an API server in memory: versions and generations of objects, conflicts,
// preconditions, merge patches, statuses that are written apart, finalizers, and
// selection by labels and by the indexes of a cache. controller-runtime's own fake
// takes ten times as long, which is too long for thousands of runs. It has what the
// controllers use, and panics at what it does not know.
type memory struct {
	client.WithWatch
	scheme  *kruntime.Scheme
	indexes map[string]client.IndexerFunc // by kind and field
	apart   map[string]bool               // kinds whose status is written apart
	now     func() time.Time

	mu      sync.Mutex
	version int
	objects map[string]map[types.NamespacedName]client.Object // by kind
	made    map[string]int                                    // by kind and name
}

func (a *memory) GroupVersionKindFor(o kruntime.Object) (schema.GroupVersionKind, error) {
	return apiutil.GVKForObject(o, a.scheme)
}

// Scheme is of client.Client.
func (a *memory) Scheme() *kruntime.Scheme { return a.scheme }

func (a *memory) kind(o kruntime.Object) string {
	gvk, err := a.GroupVersionKindFor(o)
	if err != nil {
		panic(err)
	}
	// batch/v1 Jobs are not there, so that a word is enough.
	return gvk.Kind
}

func notFound(kind, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, name)
}

func conflicts(kind, name, why string) error {
	return apierrors.NewConflict(schema.GroupResource{Resource: kind}, name, errors.New(why))
}

// copyTo gives a caller a copy of its own.
func copyTo(from, to client.Object) {
	reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from.DeepCopyObject()).Elem())
}

// Get is of client.Reader.
func (a *memory) Get(_ context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.objects[a.kind(o)][key]
	if have == nil {
		return notFound(a.kind(o), key.Name)
	}
	copyTo(have, o)
	return nil
}

// List is of client.Reader; what it gives is sorted by name.
func (a *memory) List(_ context.Context, l client.ObjectList, opts ...client.ListOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	options := (&client.ListOptions{}).ApplyOptions(opts)
	kind := strings.TrimSuffix(a.kind(l), "List")
	var items []kruntime.Object
	for _, o := range a.sorted(kind) {
		if options.Namespace != "" && o.GetNamespace() != options.Namespace || options.LabelSelector != nil && !options.LabelSelector.Matches(labels.Set(o.GetLabels())) {
			continue
		}
		if options.FieldSelector != nil && !a.indexed(kind, o, options) {
			continue
		}
		if _, bare := l.(*metav1.PartialObjectMetadataList); bare {
			items = append(items, &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: o.GetName(), Labels: maps.Clone(o.GetLabels())}})
			continue
		}
		items = append(items, o.DeepCopyObject())
	}
	return meta.SetList(l, items)
}

func (a *memory) indexed(kind string, o client.Object, options *client.ListOptions) bool {
	for _, r := range options.FieldSelector.Requirements() {
		extract := a.indexes[kind+" "+r.Field]
		if extract == nil {
			panic(fmt.Sprintf("no index %s of %s", r.Field, kind))
		}
		if !slices.Contains(extract(o), r.Value) {
			return false
		}
	}
	return true
}

func (a *memory) sorted(kind string) []client.Object {
	return slices.SortedFunc(maps.Values(a.objects[kind]), func(x, y client.Object) int {
		return strings.Compare(x.GetNamespace()+"/"+x.GetName(), y.GetNamespace()+"/"+y.GetName())
	})
}

// store keeps a copy under a new version.
func (a *memory) store(kind string, o client.Object) {
	a.version++
	o.SetResourceVersion(strconv.Itoa(a.version))
	if a.objects[kind] == nil {
		a.objects[kind] = map[types.NamespacedName]client.Object{}
	}
	kept, ok := o.DeepCopyObject().(client.Object)
	if !ok {
		panic(fmt.Sprintf("%T is no object", o))
	}
	a.objects[kind][client.ObjectKeyFromObject(o)] = kept
}

// Create is of client.Writer. UIDs tell the kind, the name, and how many there were
// of it before, so that they are the same in every run. A pod is given a finalizer,
// which its kubelet takes away.
func (a *memory) Create(_ context.Context, o client.Object, _ ...client.CreateOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind, key := a.kind(o), client.ObjectKeyFromObject(o)
	switch {
	case o.GetResourceVersion() != "":
		return apierrors.NewBadRequest("resourceVersion must not be set")
	case a.objects[kind][key] != nil:
		return apierrors.NewAlreadyExists(schema.GroupResource{Resource: kind}, o.GetName())
	}
	if pod, ok := o.(*corev1.Pod); ok {
		pod.Finalizers, pod.Status.Phase = []string{ends}, corev1.PodPending
	}
	name := kind + "/" + o.GetName()
	a.made[name]++
	o.SetUID(types.UID(fmt.Sprintf("%s-%s-%d", strings.ToLower(kind), o.GetName(), a.made[name])))
	o.SetCreationTimestamp(metav1.NewTime(a.now()))
	o.SetGeneration(1)
	a.store(kind, o)
	return nil
}

// Delete is of client.Writer.
func (a *memory) Delete(_ context.Context, o client.Object, opts ...client.DeleteOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind, key := a.kind(o), client.ObjectKeyFromObject(o)
	have := a.objects[kind][key]
	if have == nil {
		return notFound(kind, key.Name)
	}
	if p := (&client.DeleteOptions{}).ApplyOptions(opts).Preconditions; p != nil {
		if p.UID != nil && *p.UID != have.GetUID() || p.ResourceVersion != nil && *p.ResourceVersion != have.GetResourceVersion() {
			return conflicts(kind, key.Name, "a precondition does not hold")
		}
	}
	switch {
	case len(have.GetFinalizers()) == 0, slices.Equal(have.GetFinalizers(), []string{metav1.FinalizerDeleteDependents}):
		delete(a.objects[kind], key) // nobody collects garbage here
	case have.GetDeletionTimestamp() == nil:
		at := metav1.NewTime(a.now())
		have.SetDeletionTimestamp(&at)
		a.store(kind, have)
	}
	return nil
}

// Update is of client.Writer.
func (a *memory) Update(_ context.Context, o client.Object, _ ...client.UpdateOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind, key := a.kind(o), client.ObjectKeyFromObject(o)
	have := a.objects[kind][key]
	switch {
	case have == nil:
		return notFound(kind, key.Name)
	case o.GetResourceVersion() != have.GetResourceVersion():
		return conflicts(kind, key.Name, "it is of another version")
	case o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0:
		delete(a.objects[kind], key)
		return nil
	}
	a.store(kind, o)
	return nil
}

// Patch is of client.Writer.
func (a *memory) Patch(_ context.Context, o client.Object, p client.Patch, _ ...client.PatchOption) error {
	return a.patch(o, p, false)
}

// Status is of client.Client.
func (a *memory) Status() client.SubResourceWriter { return a.SubResource("status") }

// SubResource is of client.Client.
func (a *memory) SubResource(name string) client.SubResourceClient {
	return part{memory: a, name: name}
}

// part writes a subresource.
type part struct {
	client.SubResourceClient
	memory *memory
	name   string
}

// Patch is of client.SubResourceWriter.
func (s part) Patch(_ context.Context, o client.Object, p client.Patch, _ ...client.SubResourcePatchOption) error {
	if s.name != "status" {
		panic("patch of " + s.name)
	}
	return s.memory.patch(o, p, true)
}

// Update is of client.SubResourceWriter.
func (s part) Update(ctx context.Context, o client.Object, _ ...client.SubResourceUpdateOption) error {
	if s.name != "approval" {
		panic("update of " + s.name)
	}
	return s.memory.Update(ctx, o)
}

func (a *memory) patch(o client.Object, p client.Patch, status bool) error {
	data, err := p.Data(o)
	if err != nil {
		return err
	}
	if p.Type() != types.MergePatchType {
		panic(p.Type())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	kind, key := a.kind(o), client.ObjectKeyFromObject(o)
	have := a.objects[kind][key]
	if have == nil {
		return notFound(kind, key.Name)
	}
	before, change := document(have), map[string]any{}
	if err := json.Unmarshal(data, &change); err != nil {
		return err
	}
	if m, ok := change["metadata"].(map[string]any); ok {
		if v, set := m["resourceVersion"]; set && v != have.GetResourceVersion() {
			return conflicts(kind, key.Name, "it is of another version")
		}
		if uid, set := m["uid"]; set && uid != string(have.GetUID()) {
			return conflicts(kind, key.Name, "it is another object")
		}
	}
	after := document(have)
	merge(after, change)
	switch {
	case status && !a.apart[kind]:
		return notFound(kind+"/status", key.Name)
	case status:
		after = map[string]any{"metadata": before["metadata"], "spec": before["spec"], "status": after["status"]}
	case a.apart[kind]:
		after["status"] = before["status"]
	}
	result, ok := reflect.New(reflect.TypeOf(have).Elem()).Interface().(client.Object)
	if !ok {
		panic(fmt.Sprintf("%T is no object", have))
	}
	raw, err := json.Marshal(after)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return err
	}
	if !reflect.DeepEqual(before["spec"], after["spec"]) {
		result.SetGeneration(have.GetGeneration() + 1)
	}
	if !reflect.DeepEqual(before, document(result)) {
		a.store(kind, result)
	}
	copyTo(result, o)
	return nil
}

// document is an object as JSON has it.
func document(o client.Object) map[string]any {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(raw, &out); err != nil {
		panic(err)
	}
	return out
}

// merge is RFC 7386.
func merge(to, change map[string]any) {
	for k, v := range change {
		deep, isMap := v.(map[string]any)
		switch {
		case v == nil:
			delete(to, k)
		case isMap:
			inner, ok := to[k].(map[string]any)
			if !ok {
				inner = map[string]any{}
			}
			merge(inner, deep)
			to[k] = inner
		default:
			to[k] = v
		}
	}
}
