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
	mu  sync.RWMutex
	to  kubeletapi.Sources
	set bool
}

// connect makes new requests go to another configuration.
func (s *switchboard) connect(to kubeletapi.Sources) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to, s.set = to, true
}

func (s *switchboard) now() (to kubeletapi.Sources, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.to, s.set
}

// sources is the kubelet API's view of whatever is served.
func (s *switchboard) sources() kubeletapi.Sources {
	return kubeletapi.Sources{Pods: s, Logs: s, Streams: s, Usage: s}
}

// starting is the answer as long as nothing is served.
func starting() error {
	return &kubeletapi.Error{Code: http.StatusServiceUnavailable, Message: "the virtual node is starting"}
}

// Pods implements kubeletapi.PodSource.
func (s *switchboard) Pods() []*corev1.Pod {
	if to, ok := s.now(); ok {
		return to.Pods.Pods()
	}
	return nil
}

// Pod implements kubeletapi.PodSource.
func (s *switchboard) Pod(namespace, name string) (*corev1.Pod, bool) {
	if to, ok := s.now(); ok {
		return to.Pods.Pod(namespace, name)
	}
	return nil, false
}

// ContainerLogs implements kubeletapi.Logs.
func (s *switchboard) ContainerLogs(ctx context.Context, pod *corev1.Pod, container string, opts kubeletapi.LogOptions, w io.Writer) error {
	if to, ok := s.now(); ok {
		return to.Logs.ContainerLogs(ctx, pod, container, opts, w)
	}
	return starting()
}

// Exec implements kubeletapi.Streams.
func (s *switchboard) Exec(ctx context.Context, pod *corev1.Pod, container string, command []string, tty bool, streams kubeletapi.StreamIO) (int, error) {
	if to, ok := s.now(); ok {
		return to.Streams.Exec(ctx, pod, container, command, tty, streams)
	}
	return 0, starting()
}

// Attach implements kubeletapi.Streams.
func (s *switchboard) Attach(ctx context.Context, pod *corev1.Pod, container string, tty bool, streams kubeletapi.StreamIO) error {
	if to, ok := s.now(); ok {
		return to.Streams.Attach(ctx, pod, container, tty, streams)
	}
	return starting()
}

// Forward implements kubeletapi.Streams.
func (s *switchboard) Forward(ctx context.Context, pod *corev1.Pod, port int32, conn io.ReadWriter) error {
	if to, ok := s.now(); ok {
		return to.Streams.Forward(ctx, pod, port, conn)
	}
	return starting()
}

// Reachable implements kubeletapi.Streams.
func (s *switchboard) Reachable(pod *corev1.Pod) error {
	if to, ok := s.now(); ok {
		return to.Streams.Reachable(pod)
	}
	return starting()
}

// PodUsage implements kubeletapi.Usage.
func (s *switchboard) PodUsage(pod *corev1.Pod) []kubeletapi.ContainerUsage {
	if to, ok := s.now(); ok {
		return to.Usage.PodUsage(pod)
	}
	return nil
}

// NodeUsage implements kubeletapi.Usage.
func (s *switchboard) NodeUsage(node string) kubeletapi.NodeUsage {
	if to, ok := s.now(); ok {
		return to.Usage.NodeUsage(node)
	}
	return kubeletapi.NodeUsage{}
}
