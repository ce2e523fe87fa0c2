package provider

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
)

// ErrConflict says that a write's precondition did not hold: the object was
// changed or replaced. The next pass sees the new state.
var ErrConflict = errors.New("object was changed by another")

// ErrGone says that the object with that UID no longer exists.
var ErrGone = errors.New("object is gone")

// PodAPI is the Kubernetes side of the bridge. Every write has a UID and, where
// it records a decision, a resourceVersion precondition; it returns the pod as
// written.
type PodAPI interface {
	// List gives the pods bound to our nodes, from a cache that was complete once.
	// The caller must not change them.
	List() []*corev1.Pod
	// ListLive asks the API server itself. It is the check before anything that
	// looks ownerless is cancelled.
	ListLive(ctx context.Context) ([]*corev1.Pod, error)
	// WriteIntent records the key, adds the finalizer and lifts the bounds on how
	// long the pod outlasts its node's absence, in one write.
	WriteIntent(ctx context.Context, pod *corev1.Pod, key backends.Key) (*corev1.Pod, error)
	// Record writes the job's id and user.
	Record(ctx context.Context, pod *corev1.Pod, id backends.JobID, user string) (*corev1.Pod, error)
	// PatchStatus applies a patch made by provider/podstatus.
	PatchStatus(ctx context.Context, pod *corev1.Pod, patch []byte) (*corev1.Pod, error)
	// Forget removes our finalizer. A pod that is being deleted then goes at
	// once, which on an ordinary node is the kubelet's last act: the API server
	// keeps a bound pod until its node says so. A pod that is gone is success.
	Forget(ctx context.Context, pod *corev1.Pod) error
	// Event tells the user; it is best effort and never blocks.
	Event(pod *corev1.Pod, eventType, reason, message string)
}
