package cronjob

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/owned"
	"github.com/isthmus-hpc/isthmus/controllers/report"
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
	err := owned.Index(ctx, mgr, &batch.Job{}, jobsByCronJob, batch.SchemeGroupVersion.WithKind("CronJob"), owned.UID)
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		For(&batch.CronJob{}).
		Owns(&batch.Job{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2, ReconciliationTimeout: 2 * time.Minute}).
		Complete(owned.WhileNamespaceLasts(r))
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
	report.Events(r.Events, cj, out.Notices...)
	for _, j := range out.Delete {
		if err := owned.DeleteJob(ctx, r.Client, j, metav1.DeletePropagationBackground); err != nil {
			return ctrl.Result{}, err
		}
	}
	if out.Create != nil {
		if err := owned.CreateJob(ctx, r.Client, r.Events, Name, cj, out.Create); err != nil {
			return ctrl.Result{}, err
		}
		for i := range out.Status.Active {
			if a := &out.Status.Active[i]; a.Name == out.Create.Name {
				a.UID = out.Create.UID
			}
		}
	}
	return ctrl.Result{RequeueAfter: out.RequeueAfter}, report.Status(ctx, r.Client, Name, cj, func(c *batch.CronJob) *batch.CronJobStatus { return &c.Status }, &out.Status)
}
