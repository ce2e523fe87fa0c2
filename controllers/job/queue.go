package job

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/job/machine"
	"github.com/isthmus-hpc/isthmus/controllers/queuetree"
)

// resolveQueue gives a job that names no queue, or the default one, that of its
// PodGroup, or else of its namespace, in the copy of the job that is worked on.
func (r *Reconciler) resolveQueue(ctx context.Context, job *batch.Job, pg *scheduling.PodGroup) error {
	if job.Spec.Queue != "" && job.Spec.Queue != scheduling.DefaultQueue {
		return nil
	}
	if pg != nil {
		job.Spec.Queue = pg.Spec.Queue // it stays where it began
		return nil
	}
	namespace := &corev1.Namespace{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: job.Namespace}, namespace); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("get namespace: %w", err)
	}
	if name := namespace.Annotations[scheduling.QueueNameAnnotationKey]; name != "" {
		job.Spec.Queue = name
	}
	return nil
}

// forward marks a job whose queue extends to other clusters, in the copy of the job
// that is worked on: its PodGroup and pods carry the mark for whoever forwards them.
func (r *Reconciler) forward(ctx context.Context, job *batch.Job) error {
	if job.Spec.Queue == "" {
		return nil
	}
	queue := &scheduling.Queue{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: job.Spec.Queue}, queue); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("get queue %s: %w", job.Spec.Queue, err)
	}
	if len(queue.Spec.ExtendClusters) > 0 {
		metav1.SetMetaDataAnnotation(&job.ObjectMeta, batch.JobForwardingKey, "true")
	}
	return nil
}

// queueTrouble says why a new job cannot be in its queue, nil when it can.
func (r *Reconciler) queueTrouble(ctx context.Context, name string) (*machine.Reason, error) {
	if name == "" {
		name = scheduling.DefaultQueue
	}
	var queues scheduling.QueueList
	if err := r.Client.List(ctx, &queues, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	verdict, queue, beneath := queuetree.Judge(name, queues.Items)
	text := ""
	switch verdict {
	case queuetree.Takes:
		return nil, nil
	case queuetree.NotFound:
		text = fmt.Sprintf("spec.queue: Not found: %q: the job waits until there is a queue of this name", name)
	case queuetree.NotOpen:
		text = fmt.Sprintf("spec.queue: Invalid value: %q: the queue is %s and takes no new jobs; the job waits until it is opened", name, queue.Status.State)
	case queuetree.NotLeaf:
		text = fmt.Sprintf("spec.queue: Invalid value: %q: jobs are in queues below it; name one of these", name)
		if len(beneath) > 0 {
			text += ", such as " + beneath[0]
		}
	}
	return &machine.Reason{Reason: string(verdict), Message: text}, nil
}

// waitingFor lists the jobs that a queue kept out.
func (r *Reconciler) waitingFor(ctx context.Context, _ client.Object) []reconcile.Request {
	var jobs batch.JobList
	if err := r.Client.List(ctx, &jobs, client.UnsafeDisableDeepCopy); err != nil {
		return nil // they are looked at again with the next change
	}
	var out []reconcile.Request
	for i := range jobs.Items {
		switch queuetree.Verdict(jobs.Items[i].Status.State.Reason) {
		case queuetree.NotFound, queuetree.NotOpen, queuetree.NotLeaf:
			out = append(out, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&jobs.Items[i])})
		}
	}
	return out
}

// queueTurned leaves out what only counts in a queue's status.
func queueTurned() predicate.Predicate {
	return predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		old, ok := e.ObjectOld.(*scheduling.Queue)
		now, too := e.ObjectNew.(*scheduling.Queue)
		return ok && too && old.Status.State != now.Status.State
	}})
}
