package owned

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

// CreateJob makes a Job that owner controls, as the field owner of that name, and
// tells users on the owner. One that is there already and is the owner's is
// success, and is in job then: a name says what its Job is for, so a crash or a
// second controller makes none twice. It fails when another holds the name.
func CreateJob(ctx context.Context, c client.Client, recorder events.EventRecorder, field string, owner client.Object, job *batch.Job) error {
	err := c.Create(ctx, job, client.FieldOwner(field))
	if err == nil {
		recorder.Eventf(owner, nil, corev1.EventTypeNormal, "SuccessfulCreate", "Reconcile", "created Job %s", job.Name)
		return nil
	}
	if apierrors.IsAlreadyExists(err) {
		have := &batch.Job{}
		if err := c.Get(ctx, client.ObjectKeyFromObject(job), have); err != nil {
			return fmt.Errorf("get job %s: %w", job.Name, err)
		}
		if metav1.IsControlledBy(have, owner) {
			*job = *have
			return nil
		}
		err = fmt.Errorf("a Job of that name exists and is another's: %w", err)
	}
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		recorder.Eventf(owner, nil, corev1.EventTypeWarning, "FailedCreate", "Reconcile", "cannot create Job %s: %s", job.Name, bounded(err.Error()))
	}
	return fmt.Errorf("create job %s: %w", job.Name, err)
}

// DeleteJob deletes that very Job, and its pods as policy says. One that is gone, or
// whose name another has by now, is success.
func DeleteJob(ctx context.Context, c client.Client, job *batch.Job, policy metav1.DeletionPropagation) error {
	err := c.Delete(ctx, job, client.Preconditions{UID: &job.UID}, client.PropagationPolicy(policy))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete job %s: %w", job.Name, err)
	}
	return nil
}

// maxReason bounds what is told of an error: the API server takes no event with a text
// of more than 1,024 bytes, and a name has at most 253.
const maxReason = 700

func bounded(text string) string {
	if len(text) <= maxReason {
		return text
	}
	return strings.ToValidUTF8(text[:maxReason-3], "") + "..."
}
