package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
	"github.com/isthmus-hpc/isthmus/provider/staging"
)

// logReader is kubeletapi.Logs: it finds the pod's place in its gang directory
// and lets the agent print the log there.
type logReader struct {
	bridge *Bridge
	client *staging.Client
}

var _ kubeletapi.Logs = (*logReader)(nil)

func (l *logReader) ContainerLogs(ctx context.Context, pod *corev1.Pod, container string, o kubeletapi.LogOptions, w io.Writer) error {
	key := backends.Key(pod.Annotations[wellknown.SubmitIntent])
	rank, user, ok := l.bridge.place(key, string(pod.UID))
	if !ok {
		return &kubeletapi.Error{Code: http.StatusBadRequest, Message: fmt.Sprintf(
			"container %q in pod %q is waiting to start: the batch job of the pod has not been handed over yet", container, pod.Name)}
	}
	err := l.client.Logs(ctx, user, key, rank, container, staging.LogOptions{
		Tail: o.Tail, SinceTime: o.SinceTime, LimitBytes: o.LimitBytes,
		Timestamps: o.Timestamps, Previous: o.Previous, Follow: o.Follow,
	}, w)
	if errors.Is(err, staging.ErrNotFound) {
		return &kubeletapi.Error{Code: http.StatusNotFound, Message: fmt.Sprintf("no log of container %q in pod %q", container, pod.Name)}
	}
	return err
}

// place tells where a pod lies in the staging area, as last collected.
func (b *Bridge) place(key backends.Key, uid string) (rank int, user string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, found := b.view.Files[key]
	if !found {
		return 0, "", false
	}
	rank, ok = c.gang.Ranks[uid]
	return rank, c.user, ok
}

// podSource is kubeletapi.PodSource over the informers.
type podSource struct{ pods *podInformers }

func (s podSource) Pods() []*corev1.Pod { return s.pods.List() }

func (s podSource) Pod(namespace, name string) (*corev1.Pod, bool) {
	p := s.pods.Get(namespace, name)
	return p, p != nil
}
