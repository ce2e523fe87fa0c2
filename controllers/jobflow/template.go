package jobflow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/report"
)

// TemplatesName is the controller's name in logs, metrics and field ownership.
const TemplatesName = "isthmus-jobtemplate"

// jobsByTemplate is the cache index from a JobTemplate's name to the Jobs made of it.
const jobsByTemplate = "isthmus.jobtemplate"

// Templates lists in the status of a JobTemplate the Jobs that were made of it. It
// is idempotent.
type Templates struct {
	// Client reads from a cache that has seen the client's own writes.
	Client client.Client
}

// templateOf is the JobTemplate that a Job was made of, "" for none.
func templateOf(o client.Object) string {
	name, ok := strings.CutPrefix(o.GetAnnotations()[byTemplate], o.GetNamespace()+".")
	if !ok {
		return ""
	}
	return name
}

// SetupWithManager registers the controller and its cache index with mgr.
func (t *Templates) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &batch.Job{}, jobsByTemplate, func(o client.Object) []string {
		if name := templateOf(o); name != "" {
			return []string{name}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index jobs by JobTemplate: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named(TemplatesName).
		For(&flow.JobTemplate{}).
		Watches(&batch.Job{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			name := templateOf(o)
			if name == "" {
				return nil
			}
			return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}}
		})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1, ReconciliationTimeout: time.Minute}).
		Complete(t)
	if err != nil {
		return fmt.Errorf("set up controller %s: %w", TemplatesName, err)
	}
	return nil
}

// Reconcile handles one JobTemplate.
func (t *Templates) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	template := &flow.JobTemplate{}
	if err := t.Client.Get(ctx, req.NamespacedName, template); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var jobs batch.JobList
	if err := t.Client.List(ctx, &jobs, client.InNamespace(req.Namespace), client.MatchingFields{jobsByTemplate: req.Name}); err != nil {
		return ctrl.Result{}, fmt.Errorf("list jobs: %w", err)
	}
	var names []string
	for i := range jobs.Items {
		if jobs.Items[i].DeletionTimestamp == nil {
			names = append(names, jobs.Items[i].Name)
		}
	}
	slices.Sort(names)
	err := report.Status(ctx, t.Client, TemplatesName, template, func(t *flow.JobTemplate) *[]string { return &t.Status.JobDependsOnList }, &names)
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: 100 * time.Millisecond}, nil
	}
	return ctrl.Result{}, err
}
