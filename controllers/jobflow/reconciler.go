package jobflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
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
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/owned"
	"github.com/isthmus-hpc/isthmus/controllers/report"
)

// Name is the controller's name in logs, metrics, events and field ownership.
const Name = "isthmus-jobflow"

// jobsByFlow is the cache index from a JobFlow's UID to its Jobs.
const jobsByFlow = "isthmus.jobflow-uid"

// probePause is how soon a probe that was not answered is tried again.
const probePause = 5 * time.Second

// Reconciler carries Next out, one JobFlow at a time. It is idempotent.
type Reconciler struct {
	// Client reads from a cache that has seen the client's own writes.
	Client client.Client
	// Live reads nodes without a cache: few flows need few nodes.
	Live client.Reader
	// Events tells users what happened.
	Events events.EventRecorder
	// Now is the clock.
	Now func() time.Time
}

// SetupWithManager registers the controller and its cache index with mgr.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	err := owned.Index(ctx, mgr, &batch.Job{}, jobsByFlow, flow.SchemeGroupVersion.WithKind("JobFlow"), owned.UID)
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		For(&flow.JobFlow{}).
		Owns(&batch.Job{}).
		Watches(&flow.JobTemplate{}, handler.EnqueueRequestsFromMapFunc(r.flowsOf)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.flowOfPod), builder.WithPredicates(placedOrEnded())).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2, ReconciliationTimeout: 2 * time.Minute}).
		Complete(owned.WhileNamespaceLasts(r))
	if err != nil {
		return fmt.Errorf("set up controller %s: %w", Name, err)
	}
	return nil
}

// flowsOf are the flows that may wait for a template.
func (r *Reconciler) flowsOf(ctx context.Context, template client.Object) []reconcile.Request {
	var flows flow.JobFlowList
	if err := r.Client.List(ctx, &flows, client.InNamespace(template.GetNamespace())); err != nil {
		return nil // the flow is looked at again when anything else changes
	}
	var out []reconcile.Request
	for i := range flows.Items {
		for _, step := range flows.Items[i].Spec.Flows {
			if step.Name == template.GetName() {
				out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&flows.Items[i])})
				break
			}
		}
	}
	return out
}

// flowOfPod is the flow that a pod's Job is of.
func (r *Reconciler) flowOfPod(ctx context.Context, pod client.Object) []reconcile.Request {
	owner := owned.By(pod, batch.SchemeGroupVersion.WithKind("Job"))
	if owner == nil {
		return nil
	}
	job := &batch.Job{}
	if err := r.Client.Get(ctx, client.ObjectKey{Namespace: pod.GetNamespace(), Name: owner.Name}, job); err != nil || job.UID != owner.UID {
		return nil // what it was of is gone, which the flow hears of by its Job
	}
	of := owned.By(job, flow.SchemeGroupVersion.WithKind("JobFlow"))
	if of == nil {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: job.Namespace, Name: of.Name}}}
}

// placedOrEnded lets pass what early and voids read of pods that are queued early, or may
// have others queued behind them. Jobs do not change when a pod is bound.
func placedOrEnded() predicate.Predicate {
	early := func(o client.Object) bool { return o.GetAnnotations()[wellknown.QueueEarly] == "true" }
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return early(e.Object) },
		DeleteFunc:  func(e event.DeleteEvent) bool { return early(e.Object) },
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			was, ok := e.ObjectOld.(*corev1.Pod)
			is, too := e.ObjectNew.(*corev1.Pod)
			return ok && too && early(is) && (was.Spec.NodeName != is.Spec.NodeName || was.Status.Phase != is.Status.Phase ||
				was.Status.Reason != is.Status.Reason || was.DeletionTimestamp.IsZero() != is.DeletionTimestamp.IsZero() ||
				was.Annotations[wellknown.GangAttempt] != is.Annotations[wellknown.GangAttempt] || started(was) != started(is))
		},
	}
}

// Reconcile handles one JobFlow.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	f := &flow.JobFlow{}
	if err := r.Client.Get(ctx, req.NamespacedName, f); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	in, err := r.read(ctx, f)
	if err != nil {
		return ctrl.Result{}, err
	}
	out := Next(in)
	if f.DeletionTimestamp != nil {
		// The garbage collector deletes the Jobs; while it does, the flow says so.
		err := r.writeStatus(ctx, f, &out.Status)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	waits := false
	if len(out.Ask) > 0 {
		for _, q := range out.Ask {
			if in.Answers[q], err = r.ask(ctx, f.Namespace, in.Jobs[q.Job], q); err != nil {
				return ctrl.Result{}, err
			}
			waits = waits || in.Answers[q] != ""
		}
		out = Next(in)
	}
	report.Events(r.Events, f, out.Notices...)
	// A Job that cannot be made holds up neither the others nor the status.
	var failed []error
	for _, job := range out.Create {
		failed = append(failed, owned.CreateJob(ctx, r.Client, r.Events, Name, f, job))
	}
	for _, job := range out.Settle {
		failed = append(failed, r.settle(ctx, job))
	}
	failed = append(failed, r.writeStatus(ctx, f, &out.Status))
	if err := errors.Join(failed...); err != nil {
		return ctrl.Result{}, err
	}
	for _, job := range out.Delete {
		if err := owned.DeleteJob(ctx, r.Client, job, metav1.DeletePropagationBackground); err != nil {
			return ctrl.Result{}, err
		}
	}
	if waits {
		return ctrl.Result{RequeueAfter: probePause}, nil
	}
	return ctrl.Result{}, nil
}

func (r *Reconciler) read(ctx context.Context, f *flow.JobFlow) (Input, error) {
	in := Input{Flow: f, Jobs: map[string]*batch.Job{}, Templates: map[string]*flow.JobTemplate{}, Answers: map[Question]string{}, Now: r.Now()}
	var jobs batch.JobList
	if err := r.Client.List(ctx, &jobs, client.InNamespace(f.Namespace), client.MatchingFields{jobsByFlow: string(f.UID)}); err != nil {
		return in, fmt.Errorf("list jobs: %w", err)
	}
	for i := range jobs.Items {
		in.Jobs[jobs.Items[i].Name] = &jobs.Items[i]
	}
	if concerned(f, in.Jobs) {
		if err := r.placement(ctx, &in); err != nil {
			return in, err
		}
	}
	var templates flow.JobTemplateList
	if err := r.Client.List(ctx, &templates, client.InNamespace(f.Namespace)); err != nil {
		return in, fmt.Errorf("list JobTemplates: %w", err)
	}
	for i := range templates.Items {
		in.Templates[templates.Items[i].Name] = &templates.Items[i]
	}
	return in, nil
}

// placement reads where the pods of a flow's Jobs are, and which queue is that of their
// namespace.
func (r *Reconciler) placement(ctx context.Context, in *Input) error {
	in.Pods, in.Clusters = map[string][]*corev1.Pod{}, map[string]string{}
	namespace := &corev1.Namespace{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: in.Flow.Namespace}, namespace); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("get namespace: %w", err)
	}
	in.NamespaceQueue = namespace.Annotations[scheduling.QueueNameAnnotationKey]
	for name, job := range in.Jobs {
		var pods corev1.PodList
		if err := r.Client.List(ctx, &pods, client.InNamespace(job.Namespace), client.MatchingLabels{batch.JobNameKey: name}); err != nil {
			return fmt.Errorf("list pods of job %s: %w", name, err)
		}
		for i := range pods.Items {
			p := &pods.Items[i]
			if !metav1.IsControlledBy(p, job) {
				continue
			}
			in.Pods[name] = append(in.Pods[name], p)
			if _, known := in.Clusters[p.Spec.NodeName]; known || p.Spec.NodeName == "" {
				continue
			}
			node := &corev1.Node{}
			if err := r.Live.Get(ctx, client.ObjectKey{Name: p.Spec.NodeName}, node); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("read node %s: %w", p.Spec.NodeName, err)
			}
			in.Clusters[p.Spec.NodeName] = node.Labels[wellknown.Cluster]
		}
	}
	return nil
}

// settle makes a Job that was made early one like any other.
func (r *Reconciler) settle(ctx context.Context, job *batch.Job) error {
	changed := job.DeepCopy()
	delete(changed.Annotations, wellknown.After)
	delete(changed.Annotations, wellknown.AfterJobs)
	patch := client.MergeFromWithOptions(job, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, changed, patch, client.FieldOwner(Name)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("settle job %s: %w", job.Name, err)
	}
	return nil
}

func (r *Reconciler) writeStatus(ctx context.Context, f *flow.JobFlow, status *flow.JobFlowStatus) error {
	return report.Status(ctx, r.Client, Name, f, func(f *flow.JobFlow) *flow.JobFlowStatus { return &f.Status }, status)
}
