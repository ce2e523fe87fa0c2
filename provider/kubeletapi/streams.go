package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const (
	// streamIdle is how long a stream may be silent, a kubelet's default of
	// streamingConnectionIdleTimeout.
	streamIdle = 4 * time.Hour
	// streamCreation is how long a client may take to open its streams.
	streamCreation = 30 * time.Second
	// lastWord is how long the reason for a broken exchange may take to get out.
	lastWord = 2 * time.Second
	// maxStreams and maxPodStreams bound the requests of exec, attach and
	// portForward under way, in all and for one pod.
	maxStreams    = 1024
	maxPodStreams = 64
)

// StreamIO are the client's ends; nil fields are not connected.
type StreamIO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan TerminalSize
}

// TerminalSize is that of a terminal in characters.
type TerminalSize struct{ Width, Height uint16 }

// Streams reaches into running pods. Every method blocks until the exchange has
// ended, and ends what it started when ctx does. An *Error words what a client
// may know.
type Streams interface {
	// Exec runs a command in a container and gives its exit code.
	Exec(ctx context.Context, pod *corev1.Pod, container string, command []string, tty bool, streams StreamIO) (code int, err error)
	// Attach connects to a container's main program until that ends.
	Attach(ctx context.Context, pod *corev1.Pod, container string, tty bool, streams StreamIO) error
	// Forward connects to a port of the pod until both sides have ended.
	Forward(ctx context.Context, pod *corev1.Pod, port int32, conn io.ReadWriter) error
	// Reachable says why a pod cannot be reached at all now, or nil.
	Reachable(pod *corev1.Pod) error
}

// streamRoutes serves exec, attach and portForward.
func (s *Server) streamRoutes(mux *http.ServeMux) {
	for _, at := range []string{"{namespace}/{pod}/{container}", "{namespace}/{pod}/{uid}/{container}"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			mux.HandleFunc(method+" /exec/"+at, s.exec)
			mux.HandleFunc(method+" /attach/"+at, s.attach)
		}
	}
	for _, at := range []string{"{namespace}/{pod}", "{namespace}/{pod}/{uid}"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			mux.HandleFunc(method+" /portForward/"+at, s.portForward)
		}
	}
}

// begin checks a streaming request and counts it. The pod is nil when it was
// answered already; else end must be called.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) (pod *corev1.Pod, end func()) {
	pod, ok := s.pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if uid := r.PathValue("uid"); !ok || uid != "" && uid != string(pod.UID) {
		http.Error(w, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return nil, nil
	}
	if name := r.PathValue("container"); name != "" {
		if !hasContainer(pod, name) {
			http.Error(w, fmt.Sprintf("container %q not found in pod %q", name, pod.Name), http.StatusNotFound)
			return nil, nil
		}
		if why := notRunning(pod, name); why != "" {
			http.Error(w, why, http.StatusBadRequest)
			return nil, nil
		}
	}
	if err := s.streams.Reachable(pod); err != nil {
		s.refuse(w, err)
		return nil, nil
	}
	end, ok = s.running.enter(string(pod.UID))
	if !ok {
		http.Error(w, fmt.Sprintf("too many streams are open: %d in all and %d to one pod are served at once", maxStreams, maxPodStreams), http.StatusTooManyRequests)
		return nil, nil
	}
	return pod, end
}

// accept begins a streaming request that ends with its client, after a last word of so
// long. The executor is nil when the request was answered already; else end must be called.
func (s *Server) accept(w http.ResponseWriter, r *http.Request, last time.Duration) (x *executor, watched http.ResponseWriter, end func()) {
	pod, leave := s.begin(w, r)
	if pod == nil {
		return nil, nil, nil
	}
	ctx, watched, stop := watch(r, w, last)
	return &executor{s: s, ctx: ctx, pod: pod}, watched, func() {
		stop()
		leave()
	}
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	var own *Error
	if errors.As(err, &own) {
		http.Error(w, own.Message, own.Code)
		return
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	command := r.Form["command"]
	if len(command) == 0 || command[0] == "" {
		http.Error(w, "you must specify a command for exec", http.StatusBadRequest)
		return
	}
	x, watched, end := s.accept(w, r, lastWord)
	if x == nil {
		return
	}
	defer end()
	remotecommand.ServeExec(watched, r, x, x.pod.Name, string(x.pod.UID), r.PathValue("container"), command, opts,
		streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	x, watched, end := s.accept(w, r, lastWord)
	if x == nil {
		return
	}
	defer end()
	remotecommand.ServeAttach(watched, r, x, x.pod.Name, string(x.pod.UID), r.PathValue("container"), opts,
		streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	x, watched, end := s.accept(w, r, 0)
	if x == nil {
		return
	}
	defer end()
	portforward.ServePortForward(watched, r, x, x.pod.Name, string(x.pod.UID), opts,
		streamIdle, streamCreation, portforward.SupportedProtocols)
}

// executor serves one request. The context that the library gives does not end
// when the client goes, so it has its own.
type executor struct {
	s   *Server
	ctx context.Context
	pod *corev1.Pod
}

var (
	_ remotecommand.Executor    = (*executor)(nil)
	_ remotecommand.Attacher    = (*executor)(nil)
	_ portforward.PortForwarder = (*executor)(nil)
)

// ExecInContainer is remotecommand.Executor.
func (x *executor) ExecInContainer(_ context.Context, _, _, container string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	streams, stop := ends(in, out, errs, resize)
	defer stop()
	defer x.s.running.begin()()
	code, err := x.s.streams.Exec(x.ctx, x.pod, container, cmd, tty, streams)
	switch {
	case err != nil:
		return err
	case code != 0:
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

// AttachContainer is remotecommand.Attacher.
func (x *executor) AttachContainer(_ context.Context, _, _, container string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	streams, stop := ends(in, out, errs, resize)
	defer stop()
	defer x.s.running.begin()()
	return x.s.streams.Attach(x.ctx, x.pod, container, tty, streams)
}

// PortForward is portforward.PortForwarder.
func (x *executor) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer x.s.running.begin()()
	return x.s.streams.Forward(x.ctx, x.pod, port, stream)
}

// ends makes StreamIO of what the library gives, whose absent streams may be
// interfaces that hold nil.
func ends(in io.Reader, out, errs io.WriteCloser, resize <-chan remotecommand.TerminalSize) (streams StreamIO, stop func()) {
	if in != nil {
		streams.Stdin = in
	}
	if out != nil {
		streams.Stdout = out
	}
	if errs != nil {
		streams.Stderr = errs
	}
	done := make(chan struct{})
	if resize != nil {
		sizes := make(chan TerminalSize)
		streams.Resize = sizes
		go func() {
			defer close(sizes)
			for {
				select {
				case s, ok := <-resize:
					if !ok {
						return
					}
					select {
					case sizes <- TerminalSize{Width: s.Width, Height: s.Height}:
					case <-done:
						return
					}
				case <-done:
					return
				}
			}
		}()
	}
	return streams, func() { close(done) }
}

// notRunning words why nothing can be started in a container now.
func notRunning(pod *corev1.Pod, container string) string {
	st, ok := statusOf(pod, container)
	switch {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return fmt.Sprintf("cannot exec into or attach to a container in a completed pod; current phase is %s", pod.Status.Phase)
	case !ok:
		return fmt.Sprintf("container %q in pod %q is waiting to start: no status yet", container, pod.Name)
	case st.State.Waiting != nil:
		reason := st.State.Waiting.Reason
		if st.State.Waiting.Message != "" {
			reason += ": " + st.State.Waiting.Message
		}
		return fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, pod.Name, reason)
	}
	return "" // what has ended by the last report may run again by now: the runner knows
}

func statusOf(pod *corev1.Pod, container string) (corev1.ContainerStatus, bool) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for _, st := range list {
			if st.Name == container {
				return st, true
			}
		}
	}
	return corev1.ContainerStatus{}, false
}

// census counts streams that are open and exchanges with pods under way.
type census struct {
	mu    sync.Mutex
	all   int
	pods  map[string]int
	begun int
	none  *sync.Cond // begun is 0
}

func newCensus() *census {
	c := &census{pods: map[string]int{}}
	c.none = sync.NewCond(&c.mu)
	return c
}

// enter counts a stream of a pod; ok is false when there are too many.
func (c *census) enter(pod string) (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= maxStreams || c.pods[pod] >= maxPodStreams {
		return nil, false
	}
	c.all++
	c.pods[pod]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all--
		if c.pods[pod]--; c.pods[pod] == 0 {
			delete(c.pods, pod)
		}
	}), true
}

// begin counts an exchange, until end is called.
func (c *census) begin() (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.begun--; c.begun == 0 {
			c.none.Broadcast()
		}
	}
}

// wait blocks until no exchange is under way.
func (c *census) wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.begun > 0 {
		c.none.Wait()
	}
}
