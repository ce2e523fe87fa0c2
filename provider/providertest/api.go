// Package providertest holds what tests and benchmarks of the provider need in
// place of an API server and a compute cluster: memory versions of its two
// interfaces, with the preconditions of the real ones.
package providertest

import (
	"context"
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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
)

// API is an API server for pods in memory, with the preconditions of the
// real one: the crash tests need thousands of runs. The end-to-end tests prove
// the same on the real API server.
type API struct {
	mu      sync.Mutex
	version int
	pods    map[types.UID]*corev1.Pod
	gone    map[types.UID]*corev1.Pod // last state of what was deleted
	events  []string
}

// NewAPI gives an empty one.
func NewAPI() *API {
	return &API{pods: map[types.UID]*corev1.Pod{}, gone: map[types.UID]*corev1.Pod{}}
}

// Create adds a pod.
func (a *API) Create(p *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.store(p.DeepCopy())
}

// store must be called with the lock held. It bumps the version and removes a
// pod that is being deleted and has no finalizer left.
func (a *API) store(p *corev1.Pod) *corev1.Pod {
	a.version++
	p.ResourceVersion = strconv.Itoa(a.version)
	if p.DeletionTimestamp != nil && len(p.Finalizers) == 0 && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0 {
		delete(a.pods, p.UID)
		a.gone[p.UID] = p
		return p
	}
	a.pods[p.UID] = p
	return p
}

// Delete is what kubectl does: a bound pod goes once its node has let it go and
// it has no finalizer left.
func (a *API) Delete(uid types.UID, now metav1.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pods[uid]; p != nil && p.DeletionTimestamp == nil {
		p = p.DeepCopy()
		p.DeletionTimestamp = &now
		p.DeletionGracePeriodSeconds = p.Spec.TerminationGracePeriodSeconds
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			p.DeletionGracePeriodSeconds = new(int64(0))
		}
		if grace := p.DeletionGracePeriodSeconds; grace != nil { // the time by which it is to be gone
			p.DeletionTimestamp = new(metav1.NewTime(now.Add(time.Duration(*grace) * time.Second)))
		}
		a.store(p)
	}
}

// Patient gives pods another grace, as their authors would have.
func (a *API) Patient(uids []types.UID, seconds int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, uid := range uids {
		p := a.pods[uid].DeepCopy()
		p.Spec.TerminationGracePeriodSeconds = &seconds
		a.store(p)
	}
}

// Shorten is another deletion of a pod, with less grace.
func (a *API) Shorten(uid types.UID, seconds int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pods[uid]; p != nil && p.DeletionTimestamp != nil {
		p = p.DeepCopy()
		if grace := p.DeletionGracePeriodSeconds; grace != nil {
			p.DeletionTimestamp = new(metav1.NewTime(p.DeletionTimestamp.Add(time.Duration(seconds-*grace) * time.Second)))
		}
		p.DeletionGracePeriodSeconds = &seconds
		a.store(p)
	}
}

// List implements provider.PodAPI.
func (a *API) List() []*corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.pods))
}

// ListLive implements provider.PodAPI.
func (a *API) ListLive(context.Context) ([]*corev1.Pod, error) { return a.List(), nil }

// change applies fn to a copy if the precondition holds.
func (a *API) change(pod *corev1.Pod, precondition bool, fn func(*corev1.Pod) error) (*corev1.Pod, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.pods[pod.UID]
	if have == nil {
		return nil, fmt.Errorf("pod %s: %w", pod.Name, provider.ErrGone)
	}
	if precondition && have.ResourceVersion != pod.ResourceVersion {
		return nil, fmt.Errorf("pod %s: %w", pod.Name, provider.ErrConflict)
	}
	next := have.DeepCopy()
	if err := fn(next); err != nil {
		return nil, err
	}
	return a.store(next), nil
}

// WriteIntent implements provider.PodAPI.
func (a *API) WriteIntent(_ context.Context, pod *corev1.Pod, key backends.Key) (*corev1.Pod, error) {
	return a.change(pod, true, func(p *corev1.Pod) error {
		if p.DeletionTimestamp != nil && !slices.Contains(p.Finalizers, wellknown.FinalizerBatchJob) {
			return fmt.Errorf("pod %s: no new finalizers while it is deleted", p.Name)
		}
		setAnnotation(p, wellknown.SubmitIntent, string(key))
		if !slices.Contains(p.Finalizers, wellknown.FinalizerBatchJob) {
			p.Finalizers = append(p.Finalizers, wellknown.FinalizerBatchJob)
		}
		return nil
	})
}

// Record implements provider.PodAPI.
func (a *API) Record(_ context.Context, pod *corev1.Pod, id backends.JobID, user string) (*corev1.Pod, error) {
	return a.change(pod, true, func(p *corev1.Pod) error {
		setAnnotation(p, wellknown.BatchJobID, string(id))
		setAnnotation(p, wellknown.BatchUser, user)
		return nil
	})
}

// PatchStatus implements provider.PodAPI.
func (a *API) PatchStatus(_ context.Context, pod *corev1.Pod, patch []byte) (*corev1.Pod, error) {
	return a.change(pod, false, func(p *corev1.Pod) error {
		var change map[string]any
		if err := json.Unmarshal(patch, &change); err != nil {
			return err
		}
		// Only what this patch changes: the tests make a million of them.
		status, _ := change["status"].(map[string]any)
		rest := named(p.Status, status, false)
		before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: p.UID, Annotations: p.Annotations}, Status: named(p.Status, status, true)})
		if err != nil {
			return err
		}
		after, err := strategicpatch.StrategicMergeMapPatch(before, change, corev1.Pod{})
		if err != nil {
			return err
		}
		var out corev1.Pod
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(after, &out); err != nil {
			return err
		}
		if out.UID != p.UID {
			return fmt.Errorf("pod %s: %w", p.Name, provider.ErrConflict)
		}
		was := p.Status.Phase
		p.Status, p.Annotations = join(out.Status, rest), out.Annotations
		if is := p.Status.Phase; (was == corev1.PodSucceeded || was == corev1.PodFailed) && was != is {
			return fmt.Errorf("pod %s: phase goes from %s to %s", p.Name, was, is)
		}
		return nil
	})
}

// named leaves of a status the fields that a patch names, or the others.
func named(status corev1.PodStatus, patch map[string]any, in bool) corev1.PodStatus {
	all := status.Conditions
	v := reflect.ValueOf(&status).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		_, whole := patch[name]
		_, order := patch["$setElementOrder/"+name]
		_, removed := patch["$deleteFromPrimitiveList/"+name]
		if (whole || order || removed) != in {
			v.Field(i).SetZero()
		}
	}
	if !in {
		_, status.Conditions = conditionsOf(all, patch)
	} else if len(status.Conditions) > 0 {
		status.Conditions, _ = conditionsOf(all, patch)
	}
	return status
}

// join is a status of which each field is in a or in b; conditions may be in both.
func join(a, b corev1.PodStatus) corev1.PodStatus {
	x, y := reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem()
	conditions := slices.Concat(b.Conditions, a.Conditions)
	for i := range x.NumField() {
		if !y.Field(i).IsZero() {
			x.Field(i).Set(y.Field(i))
		}
	}
	a.Conditions = conditions
	return a
}

// conditionsOf splits conditions into those of the types that a patch names and the others.
func conditionsOf(all []corev1.PodCondition, patch map[string]any) (in, out []corev1.PodCondition) {
	named := map[any]bool{}
	list, _ := patch["conditions"].([]any)
	for _, c := range list {
		if m, ok := c.(map[string]any); ok {
			named[m["type"]] = true
		}
	}
	for _, c := range all {
		if named[string(c.Type)] {
			in = append(in, c)
		} else {
			out = append(out, c)
		}
	}
	return in, out
}

// Forget implements provider.PodAPI.
func (a *API) Forget(_ context.Context, pod *corev1.Pod) error {
	_, err := a.change(pod, true, func(p *corev1.Pod) error {
		p.Finalizers = slices.DeleteFunc(p.Finalizers, func(f string) bool { return f == wellknown.FinalizerBatchJob })
		if p.DeletionTimestamp != nil {
			p.DeletionGracePeriodSeconds = new(int64(0))
		}
		return nil
	})
	return err
}

// Event implements provider.PodAPI.
func (a *API) Event(pod *corev1.Pod, eventType, reason, message string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, fmt.Sprintf("%s %s %s: %s", pod.Name, eventType, reason, message))
}

func setAnnotation(p *corev1.Pod, key, value string) {
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[key] = value
}

// Gone gives the last state of a pod that was deleted, nil for one that exists.
func (a *API) Gone(uid types.UID) *corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gone[uid]
}

// Get gives the pod as it is, nil when it is gone.
func (a *API) Get(uid types.UID) *corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pods[uid]
}

// Events gives all events in order, one line each.
func (a *API) Events() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.events)
}

// Objects has the namespace "ns" and no ConfigMaps or Secrets.
type Objects struct{}

// ConfigMap implements provider.Objects.
func (Objects) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

// Secret implements provider.Objects.
func (Objects) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

// Claim implements provider.Objects.
func (Objects) Claim(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, error) {
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumeclaims"}, name)
}

// PodGroup implements provider.Objects.
func (Objects) PodGroup(context.Context, string, string) (int32, error) {
	return 0, provider.ErrNoPodGroups
}

// PodGroups implements provider.Objects.
func (Objects) PodGroups(context.Context, string) (map[string]int32, error) {
	return nil, provider.ErrNoPodGroups
}

// Token implements provider.Objects.
func (Objects) Token(_ context.Context, pod *corev1.Pod, _ string, _ time.Duration) (string, time.Time, error) {
	return "", time.Time{}, apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, pod.Spec.ServiceAccountName)
}

// NamespaceLabels implements provider.Objects.
func (Objects) NamespaceLabels(name string) (map[string]string, bool) {
	return map[string]string{"kubernetes.io/metadata.name": name}, name == "ns" || strings.HasPrefix(name, "ns-")
}

// ForgetGone drops the last states of deleted pods, and all events.
func (a *API) ForgetGone() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone, a.events = map[types.UID]*corev1.Pod{}, nil
}
