package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/owned"
	"github.com/isthmus-hpc/isthmus/controllers/report"
)

// Name is the controller's name in logs, metrics, events and field ownership.
const Name = "isthmus-dataset"

// Cache indexes: from a Dataset's name to Jobs of it and of others that had its name, and from a Dataset's name to the
// PodGroups of its namespace that ask for a copy.
const (
	jobsByDataset   = "isthmus.dataset"
	groupsByDataset = "isthmus.staging"
)

// maxAnnotation bounds what is read of an annotation.
const maxAnnotation = 64 << 10

// Reconciler carries Next out, one Dataset at a time. It is idempotent.
type Reconciler struct {
	// Client reads from a cache that has seen the client's own writes.
	Client client.Client
	// Live reads without a cache, where an old state would do harm.
	Live client.Reader
	// Events tells users what happened.
	Events events.EventRecorder
	// Now is the clock.
	Now func() time.Time
}

// SetupWithManager registers the controller and its cache indexes with mgr. Where the
// API server has no Datasets, as where only Volcano's definitions are, there is
// nothing to do.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	if _, err := mgr.GetRESTMapper().RESTMapping(hpc.GroupVersion.WithKind("Dataset").GroupKind(), hpc.GroupVersion.Version); meta.IsNoMatchError(err) {
		mgr.GetLogger().Info("the API server has no Datasets, so none are copied; for copies, install the definitions of charts/isthmus/crds and start again")
		return nil
	} else if err != nil {
		return fmt.Errorf("ask for Datasets: %w", err)
	}
	err := owned.Index(ctx, mgr, &batch.Job{}, jobsByDataset, hpc.GroupVersion.WithKind("Dataset"), owned.Name)
	if err != nil {
		return err
	}
	err = mgr.GetFieldIndexer().IndexField(ctx, &scheduling.PodGroup{}, groupsByDataset, func(o client.Object) []string {
		return slices.Sorted(maps.Keys(asked(o)))
	})
	if err != nil {
		return fmt.Errorf("index PodGroups by Dataset: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		For(&hpc.Dataset{}).
		Owns(&batch.Job{}).
		Watches(&scheduling.PodGroup{}, handler.EnqueueRequestsFromMapFunc(datasetsOf), builder.WithPredicates(asks())).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2, ReconciliationTimeout: 2 * time.Minute}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up controller %s: %w", Name, err)
	}
	return nil
}

// asked is the cluster that each Dataset is to be copied to for a PodGroup, by the
// Dataset's name. What is no such thing asks for nothing.
func asked(group client.Object) map[string]string {
	text := group.GetAnnotations()[wellknown.Staging]
	out := map[string]string{}
	if text == "" || len(text) > maxAnnotation || json.Unmarshal([]byte(text), &out) != nil {
		return nil
	}
	return out
}

// datasetsOf are the Datasets that a PodGroup asks to be copied.
func datasetsOf(_ context.Context, group client.Object) []reconcile.Request {
	var out []reconcile.Request
	for name := range asked(group) {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKey{Namespace: group.GetNamespace(), Name: name}})
	}
	return out
}

// asks lets pass what changes what PodGroups ask for.
func asks() predicate.Predicate {
	text := func(o client.Object) string { return o.GetAnnotations()[wellknown.Staging] }
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return text(e.Object) != "" },
		DeleteFunc:  func(event.DeleteEvent) bool { return false }, // a copy that was begun goes on
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc:  func(e event.UpdateEvent) bool { return text(e.ObjectOld) != text(e.ObjectNew) },
	}
}

// Reconcile handles one Dataset.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	d := &hpc.Dataset{}
	if err := r.Client.Get(ctx, req.NamespacedName, d); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	in, err := r.read(ctx, d)
	if err != nil {
		return ctrl.Result{}, err
	}
	out := Next(in)
	// A copy that cannot be begun holds up neither the others nor the status.
	failed := []error{r.create(ctx, in, &out)}
	if err := report.Status(ctx, r.Client, Name, d, func(d *hpc.Dataset) *hpc.DatasetStatus { return &d.Status }, &out.Status); err != nil {
		return ctrl.Result{}, errors.Join(append(failed, err)...)
	}
	report.Events(r.Events, d, out.Notices...)
	for _, job := range out.Delete {
		// The Job is there until its pods are gone, so that the next copy does not begin
		// while this one may still write.
		failed = append(failed, owned.DeleteJob(ctx, r.Client, job, metav1.DeletePropagationForeground))
	}
	return ctrl.Result{RequeueAfter: out.RequeueAfter}, errors.Join(failed...)
}

func (r *Reconciler) read(ctx context.Context, d *hpc.Dataset) (Input, error) {
	in := Input{Dataset: d, Wanted: map[string]bool{}, Now: r.Now()}
	var jobs batch.JobList
	if err := r.Client.List(ctx, &jobs, client.InNamespace(d.Namespace), client.MatchingFields{jobsByDataset: d.Name}); err != nil {
		return in, fmt.Errorf("list jobs: %w", err)
	}
	for i := range jobs.Items {
		if job := &jobs.Items[i]; metav1.IsControlledBy(job, d) {
			in.Jobs = append(in.Jobs, job)
		} else {
			in.Others = append(in.Others, job)
		}
	}
	if err := r.lookFor(ctx, &in); err != nil {
		return in, err
	}
	var groups scheduling.PodGroupList
	if err := r.Client.List(ctx, &groups, client.InNamespace(d.Namespace), client.MatchingFields{groupsByDataset: d.Name}); err != nil {
		return in, fmt.Errorf("list PodGroups: %w", err)
	}
	for i := range groups.Items {
		if groups.Items[i].DeletionTimestamp == nil {
			in.Wanted[asked(&groups.Items[i])[d.Name]] = true
		}
	}
	return in, nil
}

// lookFor reads the Jobs of copies under way that the cache does not have: after a
// start it may be behind the status, and a Job that is gone is an attempt that failed.
func (r *Reconciler) lookFor(ctx context.Context, in *Input) error {
	for i := range in.Dataset.Status.Copies {
		c := &in.Dataset.Status.Copies[i]
		if c.Phase != hpc.CopyCopying || slices.ContainsFunc(in.Jobs, func(j *batch.Job) bool { return j.Name == c.Job }) {
			continue
		}
		var list batch.JobList
		if err := r.Live.List(ctx, &list, client.InNamespace(in.Dataset.Namespace), client.MatchingFields{metav1.ObjectNameField: c.Job}); err != nil {
			return fmt.Errorf("look for job %s: %w", c.Job, err)
		}
		for i := range list.Items {
			if metav1.IsControlledBy(&list.Items[i], in.Dataset) {
				in.Jobs = append(in.Jobs, &list.Items[i])
			}
		}
	}
	return nil
}

// create makes the Jobs. Where one is refused, the copy says so. Where it is not known
// whether it was made, the copy stays as it was, and the next pass finds out.
func (r *Reconciler) create(ctx context.Context, in Input, out *Output) error {
	var failed []error
	for _, job := range out.Create {
		err := owned.CreateJob(ctx, r.Client, r.Events, Name, in.Dataset, job)
		if err == nil {
			continue
		}
		was := copyTo(&in.Dataset.Status, job.Labels[wellknown.Cluster])
		c := copyTo(&out.Status, job.Labels[wellknown.Cluster])
		out.Notices = slices.DeleteFunc(out.Notices, func(n report.Notice) bool { return n == started(c) })
		switch {
		case refusal(err):
			refuse(in, c, was, err)
			(&state{in: in, out: out}).wake(c.RetryTime.Sub(in.Now))
			continue
		case was != nil:
			*c = *was.DeepCopy()
		default:
			out.Status.Copies = slices.DeleteFunc(out.Status.Copies, func(o hpc.DatasetCopy) bool { return o.Cluster == job.Labels[wellknown.Cluster] })
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// refusal reports whether an error means that the Job was not made, and will not be
// before somebody changes something.
func refusal(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) || apierrors.IsAlreadyExists(err)
}

// copyTo is the copy to a cluster, nil for none.
func copyTo(status *hpc.DatasetStatus, cluster string) *hpc.DatasetCopy {
	for i := range status.Copies {
		if status.Copies[i].Cluster == cluster {
			return &status.Copies[i]
		}
	}
	return nil
}
