package binder

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	"volcano.sh/apis/pkg/client/clientset/versioned"
)

// RootQueue is the parent of all queues.
const RootQueue = "root"

// EnsureQueues makes the queues that have to exist from the start. It is
// idempotent and safe beside others that do the same.
func EnsureQueues(ctx context.Context, volcano versioned.Interface) error {
	for _, q := range []volcanov1.Queue{
		{ObjectMeta: metav1.ObjectMeta{Name: RootQueue}, Spec: volcanov1.QueueSpec{Weight: 1, Reclaimable: ptr.To(false)}},
		{ObjectMeta: metav1.ObjectMeta{Name: volcanov1.DefaultQueue}, Spec: volcanov1.QueueSpec{Weight: 1, Reclaimable: ptr.To(true), Parent: RootQueue}},
	} {
		_, err := volcano.SchedulingV1beta1().Queues().Create(ctx, &q, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create queue %s: %w", q.Name, err)
		}
	}
	return nil
}
