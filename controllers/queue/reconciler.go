// Package queue owns the status of Queues: their state and what their PodGroups
// and pods add up to. It also makes the queues "root" and "default", which exist
// in every cluster. All queues are counted together in one pass over the cache,
// so that their numbers belong to one moment; passes are at least a pause apart,
// however many objects change.
package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/queuetree"
)

// Name is the controller's name in logs, metrics and field ownership.
const Name = "isthmus-queue"

const queueLabel = batch.QueueNameKey

// defaultPause is how long changes are gathered before the queues are counted.
const defaultPause = time.Second

// Reconciler counts all queues. It is idempotent.
type Reconciler struct {
	// Client reads from a cache that has seen the client's own writes.
	Client client.Client
	// Events tells users why a Command for a queue was not carried out.
	Events events.EventRecorder
	// Pause is how long changes are gathered before a pass; 0 means one second.
	Pause time.Duration
}

// all is the only request there is: every pass counts every queue.
func all() reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKey{Name: "all-queues"}}
}

// SetupWithManager registers the controller with mgr.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if r.Pause == 0 {
		r.Pause = defaultPause
	}
	gather := handler.Funcs{
		CreateFunc: func(_ context.Context, _ event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			q.AddAfter(all(), r.Pause)
		},
		UpdateFunc: func(_ context.Context, _ event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			q.AddAfter(all(), r.Pause)
		},
		DeleteFunc: func(_ context.Context, _ event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			q.AddAfter(all(), r.Pause)
		},
	}
	// A cluster without any queue sends no event, and needs the first pass most.
	start := source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		q.Add(all())
		return nil
	})
	err := ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		Watches(&scheduling.Queue{}, gather).
		Watches(&scheduling.PodGroup{}, gather).
		Watches(&corev1.Pod{}, gather).
		Watches(&bus.Command{}, gather, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			c, ok := o.(*bus.Command)
			return ok && isFor(c)
		}))).
		WatchesRawSource(start).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1, ReconciliationTimeout: 2 * time.Minute}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up controller %s: %w", Name, err)
	}
	return nil
}

// Reconcile makes the two standing queues and writes every status that changed.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	var queues scheduling.QueueList
	if err := r.Client.List(ctx, &queues); err != nil {
		return ctrl.Result{}, fmt.Errorf("list queues: %w", err)
	}
	if err := r.makeStanding(ctx, queues.Items); err != nil {
		return ctrl.Result{}, err
	}
	var commands bus.CommandList
	if err := r.Client.List(ctx, &commands); err != nil {
		return ctrl.Result{}, fmt.Errorf("list commands: %w", err)
	}
	stored := map[string]*scheduling.Queue{}
	for i := range queues.Items {
		stored[queues.Items[i].Name] = queues.Items[i].DeepCopy()
	}
	command, refusal := oldest(commands.Items), ""
	if command != nil {
		refusal = operate(queues.Items, command)
	}
	var groups scheduling.PodGroupList
	if err := r.Client.List(ctx, &groups); err != nil {
		return ctrl.Result{}, fmt.Errorf("list PodGroups: %w", err)
	}
	var pods corev1.PodList
	if err := r.Client.List(ctx, &pods, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, fmt.Errorf("list pods: %w", err)
	}
	statuses := ledger(queues.Items, groups.Items, pods.Items)
	for i := range queues.Items {
		changed := &queues.Items[i]
		queue, status := stored[changed.Name], statuses[changed.Name]
		// The annotation is there before the queue is closed, and until it is open:
		// a crash in between leaves what the same Command finishes.
		annotate := func() error {
			if queue.Annotations[closedByParent] == changed.Annotations[closedByParent] {
				return nil
			}
			marked := queue.DeepCopy()
			marked.Annotations = changed.Annotations
			if err := r.Client.Patch(ctx, marked, client.MergeFrom(queue), client.FieldOwner(Name)); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("annotate queue %s: %w", queue.Name, err)
			}
			queue = marked
			return nil
		}
		if changed.Annotations[closedByParent] != "" {
			if err := annotate(); err != nil {
				return ctrl.Result{}, err
			}
		}
		if equality.Semantic.DeepEqual(&queue.Status, &status) {
			if err := annotate(); err != nil {
				return ctrl.Result{}, err
			}
			continue
		}
		opened := queue.DeepCopy()
		opened.Status = status
		// Whoever opens or closes the queue at the same time wins: the patch is
		// bound to the version that was read.
		patch := client.MergeFromWithOptions(queue, client.MergeFromWithOptimisticLock{})
		err := r.Client.Status().Patch(ctx, opened, patch, client.FieldOwner(Name))
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			logr.FromContextOrDiscard(ctx).V(1).Info("queue changed meanwhile, counting again", "queue", queue.Name)
			return ctrl.Result{RequeueAfter: r.Pause}, nil
		}
		if err != nil {
			return ctrl.Result{}, fmt.Errorf("patch status of queue %s: %w", queue.Name, err)
		}
		queue = opened
		if err := annotate(); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{}, r.taken(ctx, command, refusal, stored)
}

// taken deletes a Command that was carried out or refused; its deletion wakes the
// controller for the next one.
func (r *Reconciler) taken(ctx context.Context, c *bus.Command, refusal string, queues map[string]*scheduling.Queue) error {
	if c == nil {
		return nil
	}
	if refusal != "" {
		logr.FromContextOrDiscard(ctx).Info("a command for a queue is refused", "command", c.Namespace+"/"+c.Name, "action", c.Action, "reason", refusal)
		if q := queues[c.TargetObject.Name]; q != nil && r.Events != nil {
			r.Events.Eventf(q, nil, corev1.EventTypeWarning, string(bus.CommandIssuedEvent), "Reconcile",
				"command %s/%s (%s) is refused: %s", c.Namespace, c.Name, c.Action, refusal)
		}
	}
	if err := r.Client.Delete(ctx, c, client.Preconditions{UID: &c.UID}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete command %s/%s: %w", c.Namespace, c.Name, err)
	}
	return nil
}

// makeStanding creates the queues that every cluster has. Their creation wakes
// the controller again.
func (r *Reconciler) makeStanding(ctx context.Context, have []scheduling.Queue) error {
	exists := map[string]bool{}
	for i := range have {
		exists[have[i].Name] = true
	}
	for _, queue := range []*scheduling.Queue{
		{ObjectMeta: metav1.ObjectMeta{Name: queuetree.Root}, Spec: scheduling.QueueSpec{Weight: 1, Reclaimable: ptr.To(false)}},
		{ObjectMeta: metav1.ObjectMeta{Name: scheduling.DefaultQueue}, Spec: scheduling.QueueSpec{Weight: 1, Reclaimable: ptr.To(true), Parent: queuetree.Root}},
	} {
		if exists[queue.Name] {
			continue
		}
		// The type has no omitempty on this field, and the API server takes no null.
		queue.Status.Allocated = corev1.ResourceList{}
		if err := r.Client.Create(ctx, queue, client.FieldOwner(Name)); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create queue %s: %w", queue.Name, err)
		}
	}
	return nil
}
