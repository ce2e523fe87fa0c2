package provider

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
)

// settling bounds how long a request waits for a configuration that has just
// begun to know its pods and their files.
const settling = 15 * time.Second

// switchboard connects the kubelet API, which lives as long as the daemon, with
// the configuration that is served now. A stream keeps what it was connected to.
type switchboard struct {
	mu      sync.RWMutex
	to      kubeletapi.Sources
	set     bool
	settled chan struct{}   // closed once all pods and what their jobs left are known
	limit   <-chan struct{} // closed once nobody waits for that any more
}

// newSwitchboard is one that is connected to nothing yet: requests wait for the
// first configuration.
func newSwitchboard() *switchboard {
	s := &switchboard{}
	s.unsettle()
	return s
}

func (s *switchboard) unsettle() {
	limit := make(chan struct{})
	s.settled, s.limit = make(chan struct{}), limit
	time.AfterFunc(settling, func() { close(limit) })
}

// connect makes new requests go to another configuration. Those for pods that it
// does not know yet wait until settled is called, which may be called again, or
// for a while: each change of a BatchCluster begins anew, and a pod that has been
// there for long is not to be denied in between.
func (s *switchboard) connect(to kubeletapi.Sources) (settled func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set { // those that wait for the first wait on
		s.unsettle()
	}
	s.to, s.set = to, true
	done := s.settled
	return sync.OnceFunc(func() { close(done) })
}

// wait blocks until the configuration that is served knows its pods, but not for
// long after it began.
func (s *switchboard) wait() {
	s.mu.RLock()
	settled, limit := s.settled, s.limit
	s.mu.RUnlock()
	select {
	case <-settled:
	case <-limit:
	}
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

// Pod implements kubeletapi.PodSource. Every request for a pod asks here first.
func (s *switchboard) Pod(namespace, name string) (*corev1.Pod, bool) {
	s.wait()
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
