package provider

import (
	"context"
	"io"
	"net/http"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
)

// switchboard connects the kubelet API, which lives as long as the daemon, with
// the configuration that is served now. A stream keeps what it was connected to.
type switchboard struct {
	mu   sync.RWMutex
	pods kubeletapi.PodSource
	logs kubeletapi.Logs
}

// connect makes new requests go to another configuration.
func (s *switchboard) connect(pods kubeletapi.PodSource, logs kubeletapi.Logs) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods, s.logs = pods, logs
}

func (s *switchboard) now() (kubeletapi.PodSource, kubeletapi.Logs) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.pods, s.logs
}

// Pods implements kubeletapi.PodSource.
func (s *switchboard) Pods() []*corev1.Pod {
	if pods, _ := s.now(); pods != nil {
		return pods.Pods()
	}
	return nil
}

// Pod implements kubeletapi.PodSource.
func (s *switchboard) Pod(namespace, name string) (*corev1.Pod, bool) {
	if pods, _ := s.now(); pods != nil {
		return pods.Pod(namespace, name)
	}
	return nil, false
}

// ContainerLogs implements kubeletapi.Logs.
func (s *switchboard) ContainerLogs(ctx context.Context, pod *corev1.Pod, container string, opts kubeletapi.LogOptions, w io.Writer) error {
	if _, logs := s.now(); logs != nil {
		return logs.ContainerLogs(ctx, pod, container, opts, w)
	}
	return &kubeletapi.Error{Code: http.StatusServiceUnavailable, Message: "the virtual node is starting"}
}
