package cronjob

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
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/ownedjob"
)

// Name is the controller's name in logs, metrics, events and field ownership.
const Name = "isthmus-cronjob"

// jobsByCronJob is the cache index from a CronJob's UID to its Jobs.
const jobsByCronJob = "isthmus.cronjob-uid"

// Reconciler carries Next out, one CronJob at a time. It is idempotent.
type Reconciler struct {
	// Client reads from a cache that has seen the client's own writes.
	Client client.Client
	// Events tells users what happened.
	Events events.EventRecorder
	// Now is the clock.
	Now func() time.Time
}

// SetupWithManager registers the controller and its cache index with mgr.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &batch.Job{}, jobsByCronJob, func(o client.Object) []string {
		owner := metav1.GetControllerOfNoCopy(o)
		if owner == nil || owner.Kind != "CronJob" || owner.APIVersion != batch.SchemeGroupVersion.String() {
			return nil
		}
		return []string{string(owner.UID)}
	})
	if err != nil {
		return fmt.Errorf("index jobs by CronJob: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		For(&batch.CronJob{}).
		Owns(&batch.Job{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2, ReconciliationTimeout: 2 * time.Minute}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up controller %s: %w", Name, err)
	}
	return nil
}

// Reconcile handles one CronJob.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cj := &batch.CronJob{}
	if err := r.Client.Get(ctx, req.NamespacedName, cj); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if cj.DeletionTimestamp != nil {
		return ctrl.Result{}, nil // the garbage collector deletes the Jobs
	}
	var list batch.JobList
	if err := r.Client.List(ctx, &list, client.InNamespace(cj.Namespace), client.MatchingFields{jobsByCronJob: string(cj.UID)}); err != nil {
		return ctrl.Result{}, fmt.Errorf("list jobs: %w", err)
	}
	in := Input{CronJob: cj, Now: r.Now()}
	for i := range list.Items {
		in.Jobs = append(in.Jobs, &list.Items[i])
	}
	out := Next(in)
	for _, n := range out.Notices {
		kind := corev1.EventTypeNormal
		if n.Warning {
			kind = corev1.EventTypeWarning
		}
		r.Events.Eventf(cj, nil, kind, n.Reason, "Reconcile", "%s", n.Message)
	}
	for _, j := range out.Delete {
		err := r.Client.Delete(ctx, j, client.Preconditions{UID: &j.UID}, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return ctrl.Result{}, fmt.Errorf("delete job %s: %w", j.Name, err)
		}
	}
	if out.Create != nil {
		if err := ownedjob.Create(ctx, r.Client, r.Events, Name, cj, out.Create); err != nil {
			return ctrl.Result{}, err
		}
		for i := range out.Status.Active {
			if a := &out.Status.Active[i]; a.Name == out.Create.Name {
				a.UID = out.Create.UID
			}
		}
	}
	return ctrl.Result{RequeueAfter: out.RequeueAfter}, r.writeStatus(ctx, cj, &out.Status)
}

func (r *Reconciler) writeStatus(ctx context.Context, cj *batch.CronJob, status *batch.CronJobStatus) error {
	if equality.Semantic.DeepEqual(&cj.Status, status) {
		return nil
	}
	changed := cj.DeepCopy()
	changed.Status = *status
	patch := client.MergeFromWithOptions(cj, client.MergeFromWithOptimisticLock{})
	err := r.Client.Status().Patch(ctx, changed, patch, client.FieldOwner(Name))
	if apierrors.IsConflict(err) {
		logr.FromContextOrDiscard(ctx).V(1).Info("write conflict, looking again", "err", err.Error())
		return err
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("patch status of CronJob: %w", err)
	}
	return nil
}
