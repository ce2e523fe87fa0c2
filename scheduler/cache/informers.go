package cache

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	kcache "k8s.io/client-go/tools/cache"
	batchv1 "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	nodeinfov1 "volcano.sh/apis/pkg/apis/nodeinfo/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topologyv1 "volcano.sh/apis/pkg/apis/topology/v1alpha1"
	"volcano.sh/apis/pkg/client/clientset/versioned"
	"volcano.sh/apis/pkg/client/informers/externalversions"
)

// Watch connects the cache to an API server and returns once every kind has been
// listed and handed to the cache: no decision is sound before. The watches go on
// until ctx ends; the returned function then waits for them to stop. The first
// listing must be done before sync ends.
func (c *Cache) Watch(ctx, sync context.Context, client kubernetes.Interface, volcano versioned.Interface) (wait func(), err error) {
	core := informers.NewSharedInformerFactory(client, 0)
	vol := externalversions.NewSharedInformerFactory(volcano, 0)
	wait = func() { core.Shutdown(); vol.Shutdown() }
	var all []followed
	kinds := []kind{
		{"nodes", core.Core().V1().Nodes().Informer(), on(c.SetNode), on(func(n *corev1.Node) { c.DeleteNode(n.Name, string(n.UID)) })},
		{"namespaces", core.Core().V1().Namespaces().Informer(), on(c.SetNamespace), on(c.DeleteNamespace)},
		{"pods", core.Core().V1().Pods().Informer(), on(c.SetPod), on(func(p *corev1.Pod) { c.DeletePod(string(p.UID)) })},
		{"priorityclasses.scheduling.k8s.io", core.Scheduling().V1().PriorityClasses().Informer(), on(c.SetPriorityClass), on(func(p *schedulingv1.PriorityClass) { c.DeletePriorityClass(p.Name) })},
		{"poddisruptionbudgets.policy", core.Policy().V1().PodDisruptionBudgets().Informer(), on(c.SetBudget), on(c.DeleteBudget)},
		{"resourcequotas", core.Core().V1().ResourceQuotas().Informer(), on(c.SetQuota), on(c.DeleteQuota)},
		{"podgroups.scheduling.volcano.sh", vol.Scheduling().V1beta1().PodGroups().Informer(), on(c.SetGroup), on(func(g *volcanov1.PodGroup) { c.DeleteGroup(g.Namespace, g.Name, string(g.UID)) })},
		{"queues.scheduling.volcano.sh", vol.Scheduling().V1beta1().Queues().Informer(), on(c.SetQueue), on(func(q *volcanov1.Queue) { c.DeleteQueue(q.Name, string(q.UID)) })},
	}
	ask := &asker{discovery: client.Discovery()}
	kinds = append(kinds, c.claimKinds(sync, ask, core)...)
	// Kinds that a cluster may do without are watched where the server has them at
	// the start.
	if ask.serves(sync, topologyv1.SchemeGroupVersion.String(), "hypernodes") {
		kinds = append(kinds, kind{"hypernodes.topology.volcano.sh", vol.Topology().V1alpha1().HyperNodes().Informer(), on(c.SetHyperNode), on(func(h *topologyv1.HyperNode) { c.DeleteHyperNode(h.Name, string(h.UID)) })})
	}
	if ask.serves(sync, nodeinfov1.SchemeGroupVersion.String(), "numatopologies") {
		kinds = append(kinds, kind{"numatopologies.nodeinfo.volcano.sh", vol.Nodeinfo().V1alpha1().Numatopologies().Informer(), on(c.SetNumatopology), on(func(n *nodeinfov1.Numatopology) { c.DeleteNumatopology(n.Name, string(n.UID)) })})
	}
	if ask.serves(sync, schedulingv1beta1.SchemeGroupVersion.String(), "podgroups") {
		kinds = append(kinds, kind{"podgroups.scheduling.k8s.io", core.Scheduling().V1beta1().PodGroups().Informer(), on(c.SetNativeGroup), on(func(g *schedulingv1beta1.PodGroup) { c.DeleteNativeGroup(g.Namespace, g.Name, string(g.UID)) })})
	}
	if ask.serves(sync, batchv1.SchemeGroupVersion.String(), "jobs") {
		jobs := kind{"jobs.batch.volcano.sh", vol.Batch().V1alpha1().Jobs().Informer(), on(c.SetJob), on(c.DeleteJob)}
		if err := jobs.informer.SetTransform(onlyPolicies); err != nil {
			return wait, fmt.Errorf("set transform: %w", err)
		}
		f, err := jobs.follow()
		if err != nil {
			return wait, err
		}
		all = append(all, f)
	}
	if ask.err != nil {
		return wait, ask.err
	}
	for _, k := range kinds {
		if err := k.informer.SetTransform(dropManagedFields); err != nil {
			return wait, fmt.Errorf("set transform: %w", err)
		}
		f, err := k.follow()
		if err != nil {
			return wait, err
		}
		all = append(all, f)
	}
	c.mu.Lock()
	c.objects = &objects{pods: core.Core().V1().Pods().Lister(), nodes: core.Core().V1().Nodes().Lister()}
	c.mu.Unlock()
	core.Start(ctx.Done())
	vol.Start(ctx.Done())
	return wait, c.handedOver(sync, all)
}

// asker asks the API server which kinds it has.
type asker struct {
	discovery discovery.DiscoveryInterface
	err       error // the first question that got no answer
}

// askAgain is the time between two tries of a question.
const askAgain = 500 * time.Millisecond

// serves reports whether the API server has a resource. One that it says it does not
// have, or will not tell of, is not there; any other error is asked about again, since a
// kind that is taken for absent stays so, and reserved nodes would be given to anybody.
// It blocks until there is an answer or ctx ends.
func (a *asker) serves(ctx context.Context, groupVersion, resource string) bool {
	log := logr.FromContextOrDiscard(ctx)
	for a.err == nil {
		list, err := a.discovery.ServerResourcesForGroupVersion(groupVersion)
		switch {
		case err == nil:
			there := slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == resource })
			if !there {
				log.V(1).Info("the API server has no such kind", "groupVersion", groupVersion, "resource", resource)
			}
			return there
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			log.V(1).Info("the API server tells of no such kind", "groupVersion", groupVersion, "resource", resource, "answer", err.Error())
			return false
		}
		log.Info("the API server does not say whether it has a kind; it is asked again", "groupVersion", groupVersion, "resource", resource, "error", err.Error())
		select {
		case <-ctx.Done():
			a.err = fmt.Errorf("ask whether the API server has %s of %s: %w", resource, groupVersion, err)
		case <-time.After(askAgain):
		}
	}
	return false
}

// dropManagedFields halves what the informers keep.
func dropManagedFields(o any) (any, error) {
	if m, ok := o.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return o, nil
}

// SyncTimeout is a sensible bound for the first listing.
const SyncTimeout = 2 * time.Minute

func on[T any](f func(T)) func(any) {
	return func(o any) {
		if v, ok := o.(T); ok {
			f(v)
		}
	}
}

// handler passes objects on. An update from one object to another of the same
// name, which a relist can produce, is a deletion and an addition.
func handler(set, del func(any)) kcache.ResourceEventHandler {
	return kcache.ResourceEventHandlerFuncs{
		AddFunc: set,
		UpdateFunc: func(old, now any) {
			a, okA := old.(metav1.Object)
			b, okB := now.(metav1.Object)
			if okA && okB && a.GetUID() != b.GetUID() {
				del(old)
			}
			set(now)
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(kcache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			del(o)
		},
	}
}
