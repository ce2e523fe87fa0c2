package binder

import (
	"context"
	"fmt"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	"volcano.sh/apis/pkg/client/clientset/versioned"
)

// RootQueue is the parent of all queues.
const RootQueue = "root"

// EnsureQueues makes the queues that have to exist from the start. It is
// idempotent and safe beside others that do the same. Whoever may not make them goes on
// without.
func EnsureQueues(ctx context.Context, volcano versioned.Interface) error {
	for _, q := range []volcanov1.Queue{
		{ObjectMeta: metav1.ObjectMeta{Name: RootQueue}, Spec: volcanov1.QueueSpec{Weight: 1, Reclaimable: ptr.To(false)}},
		{ObjectMeta: metav1.ObjectMeta{Name: volcanov1.DefaultQueue}, Spec: volcanov1.QueueSpec{Weight: 1, Reclaimable: ptr.To(true), Parent: RootQueue}},
	} {
		_, err := volcano.SchedulingV1beta1().Queues().Create(ctx, &q, metav1.CreateOptions{})
		if apierrors.IsForbidden(err) {
			logr.FromContextOrDiscard(ctx).Info("the queue cannot be made; it has to be there", "queue", q.Name, "reason", err.Error())
			continue
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create queue %s: %w", q.Name, err)
		}
	}
	return nil
}
