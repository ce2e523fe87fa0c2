package job

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/job/machine"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
	"github.com/isthmus-hpc/isthmus/controllers/owned"
	"github.com/isthmus-hpc/isthmus/controllers/report"
)

// Name is the controller's name in logs, metrics, events and field ownership.
const Name = "isthmus-job"

// podsByJob is the cache index from a job's UID to the pods it controls.
const podsByJob = "isthmus.controller-uid"

// createAtOnce bounds how many pods of one job are created in parallel.
const createAtOnce = 16

// conflictRetry is how soon a job is looked at again after a write conflict.
const conflictRetry = 100 * time.Millisecond

// Uncached lists the kinds that the controller reads from the API server: it
// looks at few of them, and a cache would hold those of the whole cluster. The
// manager's client must be told so.
func Uncached() []client.Object {
	return []client.Object{&corev1.ConfigMap{}, &corev1.Service{}, &networking.NetworkPolicy{}, &corev1.PersistentVolumeClaim{}, &corev1.Secret{}}
}

// Reconciler brings the cluster to what the machine says, one job at a time.
// Reconcile is idempotent and safe to repeat after any crash.
type Reconciler struct {
	// Client reads pods, jobs and PodGroups from a cache that has seen the
	// client's own writes, and everything else from the API server.
	Client client.Client
	// Live reads from the API server.
	Live client.Reader
	// Events tells users what happened.
	Events events.EventRecorder
	// Plugins are the job plugins that a job may name.
	Plugins plugins.Set
	// Now is the clock.
	Now func() time.Time
	// Workers is the number of jobs that are reconciled in parallel.
	Workers int
}

// SetupWithManager registers the controller and its cache index with mgr.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	err := owned.Index(ctx, mgr, &corev1.Pod{}, podsByJob, batch.SchemeGroupVersion.WithKind("Job"), owned.UID)
	if err != nil {
		return err
	}
	err = mgr.GetFieldIndexer().IndexField(ctx, &bus.Command{}, commandsByJob, func(o client.Object) []string {
		if name := targetJob(o); name != "" {
			return []string{name}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index commands by job: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		For(&batch.Job{}).
		Owns(&corev1.Pod{}).
		Owns(&scheduling.PodGroup{}).
		Watches(&scheduling.Queue{}, handler.EnqueueRequestsFromMapFunc(r.waitingFor), builder.WithPredicates(queueTurned())).
		Watches(&bus.Command{}, handler.EnqueueRequestsFromMapFunc(toJob)).
		WithOptions(controller.Options{MaxConcurrentReconciles: r.Workers, ReconciliationTimeout: 2 * time.Minute}).
		Complete(owned.WhileNamespaceLasts(r))
	if err != nil {
		return fmt.Errorf("set up controller %s: %w", Name, err)
	}
	return nil
}

// Reconcile handles one job.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	job := &batch.Job{}
	if err := r.Client.Get(ctx, req.NamespacedName, job); apierrors.IsNotFound(err) {
		_, err := r.commands(ctx, req.NamespacedName, "")
		return ctrl.Result{}, err
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("get job: %w", err)
	}
	if job.DeletionTimestamp != nil {
		return ctrl.Result{}, nil // the garbage collector does the rest
	}
	log := logr.FromContextOrDiscard(ctx).WithValues("jobUID", job.UID)
	result, err := r.reconcile(logr.NewContext(ctx, log), job)
	if apierrors.IsConflict(err) {
		// Somebody else wrote first; the next look sees what.
		log.V(1).Info("write conflict, looking again", "err", err.Error())
		return ctrl.Result{RequeueAfter: conflictRetry}, nil
	}
	return result, err
}

func (r *Reconciler) reconcile(ctx context.Context, job *batch.Job) (ctrl.Result, error) {
	in, active, err := r.read(ctx, job)
	if err != nil {
		return ctrl.Result{}, err
	}
	out := machine.Next(in)
	if taken, err := r.takenNames(ctx, job, out.CreatePods); err != nil {
		return ctrl.Result{}, err
	} else if len(taken) > 0 {
		in.Taken = taken
		out = machine.Next(in)
	}

	// First what is created, then the status, then what is deleted: see machine.Output.
	createErr := r.create(ctx, in, out, active)
	if createErr != nil && !owned.NamespaceEnds(createErr) {
		if retryAtOnce(createErr) {
			return ctrl.Result{}, createErr
		}
		in.Trouble = explainCreate(createErr)
		out = machine.Next(in)
	}
	if err := report.Status(ctx, r.Client, Name, job, func(j *batch.Job) *batch.JobStatus { return &j.Status }, &out.Status); err != nil {
		return ctrl.Result{}, err
	}
	for _, n := range out.Notices {
		report.Events(r.Events, job, report.Notice{Warning: n.Warning, Reason: n.Reason.Reason, Message: n.Message})
	}
	if err := r.remove(ctx, job, in.PodGroup, out); err != nil {
		return ctrl.Result{}, err
	}
	if createErr != nil {
		return ctrl.Result{}, createErr // tried again with growing pauses
	}
	return ctrl.Result{RequeueAfter: out.RequeueAfter}, nil
}

// read gathers the machine's input and the job's plugins by name.
func (r *Reconciler) read(ctx context.Context, job *batch.Job) (machine.Input, map[string]plugins.Plugin, error) {
	in := machine.Input{Job: job, Now: r.Now(), Resources: map[string]string{}}
	completed := machine.Default(job)
	active := map[string]plugins.Plugin{}
	in.Problems = machine.Validate(completed, func(name string, args []string) error {
		p, err := r.Plugins.New(name, args)
		if err != nil {
			return err
		}
		active[name] = p
		return p.Validate(completed)
	})
	if len(in.Problems) == 0 {
		for name := range active {
			in.Resources["plugin-"+name] = name
		}
		for _, claim := range machine.ClaimNames(completed) {
			in.Resources["volume-pvc-"+claim] = claim
		}
	}
	var err error
	if in.Commands, err = r.commands(ctx, client.ObjectKeyFromObject(job), job.UID); err != nil {
		return in, nil, err
	}
	if in.Pods, err = r.pods(ctx, job); err != nil {
		return in, nil, err
	}
	pg := &scheduling.PodGroup{}
	err = r.Client.Get(ctx, types.NamespacedName{Namespace: job.Namespace, Name: machine.PodGroupName(job)}, pg)
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return in, nil, fmt.Errorf("get PodGroup: %w", err)
	case !metav1.IsControlledBy(pg, job):
		in.Problems = append(in.Problems, field.Duplicate(field.NewPath("metadata", "name"),
			fmt.Sprintf("a PodGroup named %s exists and is not this job's", pg.Name)))
	default:
		in.PodGroup = pg
	}
	if err := r.resolveQueue(ctx, job, in.PodGroup); err != nil {
		return in, nil, err
	}
	if err := r.forward(ctx, job); err != nil {
		return in, nil, err
	}
	if in.PodGroup == nil {
		if in.QueueTrouble, err = r.queueTrouble(ctx, job.Spec.Queue); err != nil {
			return in, nil, err
		}
	}
	return in, active, nil
}

// pods lists the job's pods. When the cache shows fewer than the status counted,
// the API server is asked, because a policy may act on a pod that is gone.
func (r *Reconciler) pods(ctx context.Context, job *batch.Job) ([]*corev1.Pod, error) {
	var list corev1.PodList
	if err := r.Client.List(ctx, &list, client.InNamespace(job.Namespace), client.MatchingFields{podsByJob: string(job.UID)}); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	pods := controlled(&list, job)
	if !machine.Vanished(job, pods) {
		return pods, nil
	}
	if err := r.Live.List(ctx, &list, client.InNamespace(job.Namespace), client.MatchingLabels{batch.JobNameKey: job.Name}); err != nil {
		return nil, fmt.Errorf("list pods at the API server: %w", err)
	}
	return controlled(&list, job), nil
}

func controlled(list *corev1.PodList, job *batch.Job) []*corev1.Pod {
	var pods []*corev1.Pod
	for i := range list.Items {
		if metav1.IsControlledBy(&list.Items[i], job) {
			pods = append(pods, &list.Items[i])
		}
	}
	return pods
}

// takenNames looks for pods that hold a name the job needs and are not the job's.
func (r *Reconciler) takenNames(ctx context.Context, job *batch.Job, wanted []machine.NewPod) (map[string]string, error) {
	taken := map[string]string{}
	for _, w := range wanted {
		pod := &corev1.Pod{}
		err := r.Client.Get(ctx, client.ObjectKeyFromObject(w.Pod), pod)
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return nil, fmt.Errorf("get pod: %w", err)
		case !metav1.IsControlledBy(pod, job):
			taken[pod.Name] = describeHolder(pod)
		}
	}
	return taken, nil
}

// remove carries out deletions. Each has a UID precondition, so that an object
// of the same name that was created in between is never hit.
func (r *Reconciler) remove(ctx context.Context, job *batch.Job, pg *scheduling.PodGroup, out machine.Output) error {
	err := inParallel(ctx, createAtOnce, out.DeletePods, func(ctx context.Context, pod *corev1.Pod) error {
		err := r.Client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID})
		if err != nil && !gone(err) {
			return fmt.Errorf("delete pod %s: %w", pod.Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if out.DeleteCommand != nil {
		if err := r.deleteCommand(ctx, out.DeleteCommand); err != nil {
			return err
		}
	}
	if out.DeletePodGroup && pg != nil {
		if err := r.Client.Delete(ctx, pg, client.Preconditions{UID: &pg.UID}); err != nil && !gone(err) {
			return fmt.Errorf("delete PodGroup: %w", err)
		}
	}
	if out.DeleteJob {
		err := r.Client.Delete(ctx, job, client.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
			client.PropagationPolicy(metav1.DeletePropagationBackground))
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete finished job: %w", err)
		}
	}
	return nil
}

// gone says that the object is no more: a UID precondition that fails means that
// another object has its name now.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

func podGroupPatch(pg *scheduling.PodGroup, want *scheduling.PodGroupSpec) (*scheduling.PodGroup, client.Patch) {
	changed := pg.DeepCopy()
	groups := changed.Spec.SubGroupPolicy
	changed.Spec = *want.DeepCopy()
	if len(want.SubGroupPolicy) == 0 {
		changed.Spec.SubGroupPolicy = groups
	}
	changed.Spec.MinTaskMember = maps.Clone(want.MinTaskMember)
	return changed, client.MergeFrom(pg)
}
