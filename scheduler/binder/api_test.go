package binder_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	typedpolicyv1 "k8s.io/client-go/kubernetes/typed/policy/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	"volcano.sh/apis/pkg/client/clientset/versioned"
	typedvolcanov1 "volcano.sh/apis/pkg/client/clientset/versioned/typed/scheduling/v1beta1"
)

// The kinds that the simulated API server has.
const (
	nodes = iota
	pods
	groups
	queues
	kinds
)

const namespace = "ns"

// event is an object as a write left it, or as it was when it went.
type event struct {
	object metav1.Object
	gone   bool
}

// api is an API server as far as the scheduler sees one: objects by name, and what
// happened to each kind in order. Objects are never changed once they are in it.
type api struct {
	now     func() time.Time
	version int
	objects [kinds]map[string]metav1.Object
	log     [kinds][]event
	// faults are what goes wrong at the next calls, one each.
	faults []string
	hit    int // faults that came
}

func newAPI(now func() time.Time) *api {
	a := &api{now: now}
	for k := range a.objects {
		a.objects[k] = map[string]metav1.Object{}
	}
	return a
}

func (a *api) put(kind int, o metav1.Object) {
	a.version++
	o.SetResourceVersion(fmt.Sprint(a.version))
	a.objects[kind][o.GetName()] = o
	a.log[kind] = append(a.log[kind], event{object: o})
}

func (a *api) drop(kind int, name string) {
	if o := a.objects[kind][name]; o != nil {
		delete(a.objects[kind], name)
		a.version++
		a.log[kind] = append(a.log[kind], event{o, true})
	}
}

func (a *api) names(kind int) []string { return slices.Sorted(maps.Keys(a.objects[kind])) }

func (a *api) pod(name string) *corev1.Pod {
	p, _ := a.objects[pods][name].(*corev1.Pod)
	return p
}

// remove deletes a pod as a user does: what is bound ends first.
func (a *api) remove(p *corev1.Pod) {
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodSucceeded {
		a.drop(pods, p.Name)
		return
	}
	if p.DeletionTimestamp == nil {
		p = p.DeepCopy()
		p.DeletionTimestamp = &metav1.Time{Time: a.now()}
		a.put(pods, p)
	}
}

// faultKinds are what may go wrong with a call.
var faultKinds = []string{"conflict", "down", "lost", "busy", "broken", "refused"}

var resourcePods = schema.GroupResource{Resource: "pods"}

// call carries a call out, or what goes wrong with it.
func (a *api) call(name string, apply func() error) error {
	fault := ""
	if len(a.faults) > 0 {
		fault, a.faults = a.faults[0], a.faults[1:]
		a.hit++
	}
	switch fault {
	case "conflict":
		return apierrors.NewConflict(resourcePods, name, errors.New("it was changed in between"))
	case "down":
		return errors.New("dial tcp: connection refused")
	case "lost": // carried out, and nobody hears so
		_ = apply()
		return apierrors.NewTimeoutError("the answer is late", 1)
	case "busy":
		return apierrors.NewTooManyRequests("try again", 1)
	case "broken":
		return apierrors.NewInternalError(errors.New("etcd has no leader"))
	case "refused":
		return apierrors.NewForbidden(resourcePods, name, errors.New("an admission plugin says no"))
	}
	return apply()
}

// find returns the pod of a name, and an error when it is gone or another.
func (a *api) find(name string, uid types.UID) (*corev1.Pod, error) {
	p := a.pod(name)
	switch {
	case p == nil:
		return nil, apierrors.NewNotFound(resourcePods, name)
	case uid != "" && p.UID != uid:
		return nil, apierrors.NewConflict(resourcePods, name, errors.New("the UID is another"))
	}
	return p, nil
}

// clients are a client of Kubernetes' kinds. What a scheduler without claims does not
// call is not there.
type clients struct {
	kubernetes.Interface
	api *api
}

func (c clients) CoreV1() typedcorev1.CoreV1Interface       { return coreClient{api: c.api} }
func (c clients) PolicyV1() typedpolicyv1.PolicyV1Interface { return policyClient{api: c.api} }

type coreClient struct {
	typedcorev1.CoreV1Interface
	api *api
}

func (c coreClient) Pods(string) typedcorev1.PodInterface { return podClient{api: c.api} }

type podClient struct {
	typedcorev1.PodInterface
	api *api
}

// List finds the pod of one name, which is all that it is asked for.
func (c podClient) List(_ context.Context, o metav1.ListOptions) (*corev1.PodList, error) {
	name, only := strings.CutPrefix(o.FieldSelector, "metadata.name=")
	if !only {
		panic("a list of pods that the test does not know: " + o.FieldSelector)
	}
	list := &corev1.PodList{}
	err := c.api.call(name, func() error {
		if p, err := c.api.find(name, ""); err == nil {
			list.Items = append(list.Items, *p)
		}
		return nil
	})
	return list, err
}

// Bind does what the API server does: a pod is bound once, and not while it goes.
func (c podClient) Bind(_ context.Context, b *corev1.Binding, _ metav1.CreateOptions) error {
	return c.api.call(b.Name, func() error {
		p, err := c.api.find(b.Name, b.UID)
		if err != nil {
			return err
		}
		if p.DeletionTimestamp != nil || p.Spec.NodeName != "" {
			return apierrors.NewConflict(resourcePods, b.Name, errors.New("it is bound or deleted"))
		}
		p = p.DeepCopy()
		p.Spec.NodeName = b.Target.Name
		maps.Copy(p.Annotations, b.Annotations)
		c.api.put(pods, p)
		return nil
	})
}

// Patch sets the condition that tells why a pod waits.
func (c podClient) Patch(_ context.Context, name string, _ types.PatchType, body []byte, _ metav1.PatchOptions, _ ...string) (*corev1.Pod, error) {
	var patch struct {
		Metadata metav1.ObjectMeta
		Status   struct{ Conditions []corev1.PodCondition }
	}
	err := c.api.call(name, func() error {
		if err := json.Unmarshal(body, &patch); err != nil {
			return err
		}
		p, err := c.api.find(name, patch.Metadata.UID)
		if err != nil {
			return err
		}
		p = p.DeepCopy()
		p.Status.Conditions = patch.Status.Conditions
		c.api.put(pods, p)
		return nil
	})
	return nil, err
}

type policyClient struct {
	typedpolicyv1.PolicyV1Interface
	api *api
}

func (c policyClient) Evictions(string) typedpolicyv1.EvictionInterface {
	return evictionClient{api: c.api}
}

type evictionClient struct {
	typedpolicyv1.EvictionInterface
	api *api
}

func (c evictionClient) Evict(_ context.Context, e *policyv1.Eviction) error {
	return c.api.call(e.Name, func() error {
		p, err := c.api.find(e.Name, *e.DeleteOptions.Preconditions.UID)
		if err == nil {
			c.api.remove(p)
		}
		return err
	})
}

type volcanoClients struct {
	versioned.Interface
	api *api
}

func (c volcanoClients) SchedulingV1beta1() typedvolcanov1.SchedulingV1beta1Interface {
	return schedulingClient{api: c.api}
}

type schedulingClient struct {
	typedvolcanov1.SchedulingV1beta1Interface
	api *api
}

func (c schedulingClient) PodGroups(string) typedvolcanov1.PodGroupInterface {
	return groupClient{api: c.api}
}

type groupClient struct {
	typedvolcanov1.PodGroupInterface
	api *api
}

// Patch merges annotations and the fields of the status.
func (c groupClient) Patch(_ context.Context, name string, _ types.PatchType, body []byte, _ metav1.PatchOptions, _ ...string) (out *volcanov1.PodGroup, err error) {
	err = c.api.call(name, func() error {
		was, _ := c.api.objects[groups][name].(*volcanov1.PodGroup)
		if was == nil {
			return apierrors.NewNotFound(schema.GroupResource{Resource: "podgroups"}, name)
		}
		patch := &volcanov1.PodGroup{}
		if err := json.Unmarshal(body, patch); err != nil {
			return err
		}
		if patch.UID != was.UID {
			return apierrors.NewConflict(schema.GroupResource{Resource: "podgroups"}, name, errors.New("the UID is another"))
		}
		out = was.DeepCopy()
		if len(patch.Annotations) > 0 {
			out.Annotations = patch.Annotations
		} else {
			out.Status = patch.Status
		}
		c.api.put(groups, out)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
