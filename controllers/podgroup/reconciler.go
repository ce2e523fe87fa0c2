package podgroup

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// Name is the controller's name in logs, metrics, events and field ownership.
const Name = "isthmus-podgroup"

// podsByGroup is the cache index from a PodGroup's name to the pods that it is for.
const podsByGroup = "isthmus.owners-podgroup"

// ownerRetry is how soon an owner is looked for again that no cache shows yet.
const ownerRetry = 2 * time.Second

// Reconciler carries Next out, one PodGroup at a time. It is idempotent.
type Reconciler struct {
	// Client reads from a cache that has seen the client's own writes.
	Client client.Client
	// Events tells users what is wrong with an annotation.
	Events events.EventRecorder
	// Schedulers are the schedulerNames of pods that get a PodGroup.
	Schedulers []string
	// Inherit says that the annotations of owners count.
	Inherit bool
	// Workers is the number of PodGroups that are looked at in parallel.
	Workers int
}

// SetupWithManager registers the controller and its cache index with mgr.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &corev1.Pod{}, podsByGroup, func(o client.Object) []string {
		if name := r.nameFor(o); name != "" {
			return []string{name}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index pods by PodGroup: %w", err)
	}
	b := ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			return request(o.GetNamespace(), r.nameFor(o))
		}), builder.WithPredicates(podChanged())).
		Watches(&scheduling.PodGroup{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			if !strings.HasPrefix(o.GetName(), batch.PodgroupNamePrefix) {
				return nil
			}
			return request(o.GetNamespace(), o.GetName())
		}))
	for _, kind := range kinds() {
		b = b.Watches(kind, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			return request(o.GetNamespace(), batch.PodgroupNamePrefix+string(o.GetUID()))
		}), builder.WithPredicates(predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})))
	}
	err = b.WithOptions(controller.Options{MaxConcurrentReconciles: r.Workers, ReconciliationTimeout: 2 * time.Minute}).Complete(r)
	if err != nil {
		return fmt.Errorf("set up controller %s: %w", Name, err)
	}
	return nil
}

func request(namespace, name string) []reconcile.Request {
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}}
}

// podChanged leaves out what a kubelet tells of a pod that is under way.
func podChanged() predicate.Predicate {
	ended := func(o client.Object) bool {
		p, ok := o.(*corev1.Pod)
		return ok && (p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil)
	}
	return predicate.Or[client.Object](predicate.AnnotationChangedPredicate{}, predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool { return ended(e.ObjectNew) != ended(e.ObjectOld) },
	})
}

// nameFor is the name of the PodGroup that a pod gets from this controller, ""
// for pods of other schedulers and those that come with one.
func (r *Reconciler) nameFor(o client.Object) string {
	p, ok := o.(*corev1.Pod)
	if !ok || !slices.Contains(r.Schedulers, p.Spec.SchedulerName) || p.Spec.SchedulingGroup != nil {
		return ""
	}
	name := GroupName(p)
	for _, key := range []string{scheduling.KubeGroupNameAnnotationKey, scheduling.VolcanoGroupNameAnnotationKey} {
		if group := p.Annotations[key]; group != "" && group != name {
			return ""
		}
	}
	return name
}

// Reconcile handles one PodGroup.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	in, missing, err := r.read(ctx, req.NamespacedName)
	if err != nil {
		return ctrl.Result{}, err
	}
	if missing {
		return ctrl.Result{RequeueAfter: ownerRetry}, nil
	}
	err = r.carryOut(ctx, in, Next(in))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{RequeueAfter: 100 * time.Millisecond}, nil // somebody was faster: look again
	}
	return ctrl.Result{}, err
}

// read gathers what Next needs; missing says that the owner of the pods is of a
// kind that is read and is not there, or not seen yet.
func (r *Reconciler) read(ctx context.Context, name types.NamespacedName) (in Input, missing bool, err error) {
	in = Input{Name: name.Name, Inherit: r.Inherit}
	var pods corev1.PodList
	if err := r.Client.List(ctx, &pods, client.InNamespace(name.Namespace), client.MatchingFields{podsByGroup: name.Name}); err != nil {
		return in, false, fmt.Errorf("list pods: %w", err)
	}
	for i := range pods.Items {
		in.Pods = append(in.Pods, &pods.Items[i])
	}
	pg := &scheduling.PodGroup{}
	switch err := r.Client.Get(ctx, name, pg); {
	case err == nil:
		in.PodGroup = pg
	case !apierrors.IsNotFound(err):
		return in, false, fmt.Errorf("get PodGroup: %w", err)
	}
	if in.PodGroup == nil && len(in.Pods) == 0 {
		return in, false, nil
	}
	ref := metav1.GetControllerOfNoCopy(pg)
	if len(in.Pods) > 0 {
		ref = metav1.GetControllerOfNoCopy(in.Pods[0])
	}
	if ref != nil {
		if owner := blank(ref); owner != nil {
			err := r.Client.Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: ref.Name}, owner)
			switch {
			case apierrors.IsNotFound(err) || err == nil && owner.GetUID() != ref.UID:
				// Its pods go with it, or it shows in a moment.
				return in, len(in.Pods) > 0, nil
			case err != nil:
				return in, false, fmt.Errorf("get %s %s: %w", ref.Kind, ref.Name, err)
			}
			in.Owner = ownerOf(owner)
		}
	}
	namespace := &corev1.Namespace{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: name.Namespace}, namespace); client.IgnoreNotFound(err) != nil {
		return in, false, fmt.Errorf("get namespace: %w", err)
	}
	in.NamespaceQueue = namespace.Annotations[scheduling.QueueNameAnnotationKey]
	return in, false, nil
}

// refused tells users on pods that wait why their PodGroup is not let in. It is tried
// again, since a queue may open; until then no scheduler takes the pods.
func (r *Reconciler) refused(pods []*corev1.Pod, err error) {
	for _, p := range pods {
		if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodPending {
			r.Events.Eventf(p, nil, corev1.EventTypeWarning, "PodGroupRefused", "Reconcile",
				"the pod waits, since the PodGroup that it needs is not let in: %s", err)
		}
	}
}

func (r *Reconciler) carryOut(ctx context.Context, in Input, out Output) error {
	switch {
	case out.Create != nil:
		err := r.Client.Create(ctx, out.Create, client.FieldOwner(Name))
		switch {
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return nil // the pods go with their namespace
		case apierrors.IsAlreadyExists(err):
			return nil // it shows in a moment, and is looked at then
		case err != nil:
			if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
				r.refused(in.Pods, err)
			}
			return fmt.Errorf("create PodGroup %s: %w", out.Create.Name, err)
		}
	case out.Update != nil:
		patch := client.MergeFromWithOptions(in.PodGroup, client.MergeFromWithOptimisticLock{})
		if err := r.Client.Patch(ctx, out.Update, patch, client.FieldOwner(Name)); err != nil {
			return fmt.Errorf("patch PodGroup %s: %w", in.Name, err)
		}
	case out.Delete:
		if err := r.Client.Delete(ctx, in.PodGroup, client.Preconditions{UID: &in.PodGroup.UID}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete PodGroup %s: %w", in.Name, err)
		}
	}
	for _, n := range out.Notices {
		r.Events.Eventf(n.Pod, nil, corev1.EventTypeWarning, n.Reason, "Reconcile", "%s", n.Message)
	}
	for _, p := range out.Annotate {
		body, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": p.UID, "annotations": map[string]string{scheduling.KubeGroupNameAnnotationKey: in.Name},
		}})
		if err != nil {
			return fmt.Errorf("encode annotation: %w", err)
		}
		err = r.Client.Patch(ctx, p.DeepCopy(), client.RawPatch(types.MergePatchType, body), client.FieldOwner(Name))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // gone, or another pod of the name
			return fmt.Errorf("annotate pod %s: %w", p.Name, err)
		}
	}
	return nil
}
