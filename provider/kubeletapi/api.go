// Package kubeletapi serves the part of a kubelet's HTTPS API that virtual
// nodes have: logs, exec, attach,
// port-forward, pods, resource use and health. Clients are
// always authenticated (client certificate or TokenReview) and authorized
// (SubjectAccessReview on nodes and its subresources, as a kubelet with
// fine-grained authorization does); there is no way to switch that off.
package kubeletapi

import (
	"context"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// PodSource knows the pods that are bound to the nodes served. Both methods
// answer from memory. The pods must not be changed.
type PodSource interface {
	Pods() []*corev1.Pod
	Pod(namespace, name string) (*corev1.Pod, bool)
}

// LogOptions select what Logs writes. The fields are those of a kubelet's log
// endpoint; sinceSeconds has become SinceTime.
type LogOptions struct {
	Tail       *int64    // last lines; 0 is none, nil is all
	SinceTime  time.Time // zero is from the start
	LimitBytes *int64
	Timestamps bool
	Previous   bool
	Follow     bool
}

// Logs reads container logs.
type Logs interface {
	// ContainerLogs writes the log of one container of pod to w and returns when
	// all is written, or, with Follow, once the container has ended or ctx did.
	// Every Write is passed on to the client at once. An *Error decides the HTTP
	// code as long as nothing was written.
	ContainerLogs(ctx context.Context, pod *corev1.Pod, container string, opts LogOptions, w io.Writer) error
}

// Error is an answer with an HTTP code of its own.
type Error struct {
	Code    int
	Message string
}

func (e *Error) Error() string { return e.Message }
