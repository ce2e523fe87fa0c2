package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	corev1 "k8s.io/api/core/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
	"github.com/isthmus-hpc/isthmus/provider/podstream"
)

// podStreams is kubeletapi.Streams: it finds where a pod runs and reaches its
// runner there through the batch system.
type podStreams struct {
	bridge *Bridge
	pool   *podstream.Pool // nil when there is no way
	why    string
}

var _ kubeletapi.Streams = (*podStreams)(nil)

// streamsOf is how exec, attach and port-forward reach the pods of a cluster:
// as it says, else through the batch system where that lets programs into
// running jobs, else over the network. enter is for StreamsBatch only.
func streamsOf(cluster *hpcv1alpha1.BatchCluster, backend backends.Backend) (how string, enter backends.Enterer) {
	enter, ok := backend.(backends.Enterer)
	ok = ok && backend.Capabilities().Enter
	how = cluster.Spec.Streams
	switch {
	case how == "" && ok:
		how = hpcv1alpha1.StreamsBatch
	case how == "":
		how = hpcv1alpha1.StreamsNetwork
	case how == hpcv1alpha1.StreamsBatch && !ok:
		how = hpcv1alpha1.StreamsOff
	}
	return how, enter
}

// capabilities are those of the batch system and of what stands in for one that
// it lacks.
func capabilities(cluster *hpcv1alpha1.BatchCluster, backend backends.Backend) backends.Capabilities {
	c := backend.Capabilities()
	how, _ := streamsOf(cluster, backend)
	c.Enter = how != hpcv1alpha1.StreamsOff
	return c
}

func newPodStreams(b *Bridge, system System, runner transport.Runner) *podStreams {
	s := &podStreams{bridge: b}
	how, enter := streamsOf(b.Cluster, system.Backend)
	switch {
	case how == hpcv1alpha1.StreamsBatch:
		s.pool = podstream.New(podstream.Through(enter), runner)
	case how == hpcv1alpha1.StreamsNetwork:
		s.pool = podstream.New(podstream.Network, runner)
	case b.Cluster.Spec.Streams == hpcv1alpha1.StreamsBatch:
		s.why = "exec, attach and port-forward are not served: this batch system has no way to start a program in a running job, and spec.streams of BatchCluster " + b.Cluster.Name + " allows no other"
	default:
		s.why = "exec, attach and port-forward are not served: spec.streams of BatchCluster " + b.Cluster.Name + " is off"
	}
	return s
}

// retire takes no more exchanges; those under way go on until their contexts
// end. With wait it blocks until then.
func (s *podStreams) retire(wait bool) {
	if s.pool == nil {
		return
	}
	s.pool.Retire()
	if wait {
		s.pool.Wait()
	}
}

// target finds the pod's runner.
func (s *podStreams) target(pod *corev1.Pod) (podstream.Target, error) {
	bad := func(code int, format string, args ...any) (podstream.Target, error) {
		return podstream.Target{}, &kubeletapi.Error{Code: code, Message: fmt.Sprintf(format, args...)}
	}
	if s.pool == nil {
		return bad(http.StatusNotImplemented, "%s", s.why)
	}
	key := backends.Key(pod.Annotations[wellknown.SubmitIntent])
	to, phase, ok := s.bridge.target(key, string(pod.UID))
	switch {
	case !ok && pod.Status.Phase == corev1.PodRunning:
		return bad(http.StatusServiceUnavailable, "pod %q runs, but its host was not asked yet since the node's daemon began or its BatchCluster changed: try again", pod.Name)
	case !ok:
		return bad(http.StatusBadRequest, "pod %q is not running yet: its batch job has not started", pod.Name)
	case phase.Terminal():
		return bad(http.StatusBadRequest, "pod %q has ended: %s", pod.Name, phase)
	}
	return to, nil
}

// target tells where a pod's runner is, as last collected and observed.
func (b *Bridge) target(key backends.Key, uid string) (to podstream.Target, phase manifest.Phase, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, found := b.view.Files[key]
	if !found {
		return to, "", false
	}
	rank, found := c.gang.Ranks[uid]
	st, reported := c.gang.Pods[rank]
	if !found || !reported || st.UID != uid || st.Host == "" {
		return to, "", false
	}
	for _, j := range b.view.Jobs[key] {
		if j.Owner == b.Owner && j.User == c.user && !j.State.Terminal() && j.State != backends.StatePending && st.Restart >= j.Restarts {
			return podstream.Target{
				Job:  backends.JobRef{ID: j.ID, Key: key, User: c.user, Component: component(c.gang.Components, rank)},
				Rank: rank, Restart: st.Restart, Host: st.Host, WorkDir: b.Stager.WorkDir(c.user, key),
			}, st.Phase, true
		}
	}
	return to, "", false
}

// component is which component of a heterogeneous job a rank is in, from 1.
func component(list []manifest.Component, rank int) int {
	if len(list) < 2 {
		return 0
	}
	for i, c := range list {
		if rank < c.Tasks {
			return i + 1
		}
		rank -= c.Tasks
	}
	return 0
}

// errEnding is the end of what is open when the daemon is asked to end.
var errEnding = errors.New("the daemon of the virtual node ends, and this connection to the pod with it: try again")

// do carries out one exchange and words its failure.
func (s *podStreams) do(ctx context.Context, pod *corev1.Pod, req stream.Request, streams stream.IO) (stream.Exit, error) {
	to, err := s.target(pod)
	if err != nil {
		return stream.Exit{}, err
	}
	exit, err := s.pool.Do(ctx, to, req, streams)
	var refused *stream.Refusal
	switch {
	case errors.As(err, &refused) || err == nil && exit.Message == "":
	case err != nil && ctx.Err() != nil: // the client has gone, or hears this
		err = errEnding
	case err != nil:
		s.bridge.Log.V(1).Info("stream ended", "pod", pod.Namespace+"/"+pod.Name, "verb", req.Verb, "error", err.Error())
	default:
		err = errors.New(exit.Message)
	}
	return exit, err
}

func (s *podStreams) Reachable(pod *corev1.Pod) error {
	_, err := s.target(pod)
	return err
}

func (s *podStreams) Exec(ctx context.Context, pod *corev1.Pod, container string, command []string, tty bool, streams kubeletapi.StreamIO) (int, error) {
	req := stream.Request{Verb: stream.VerbExec, Container: container, TTY: tty}
	for _, w := range command {
		req.Command = append(req.Command, []byte(w))
	}
	exit, err := s.do(ctx, pod, req, joinedIO(ctx, streams))
	return exit.Code, err
}

func (s *podStreams) Attach(ctx context.Context, pod *corev1.Pod, container string, tty bool, streams kubeletapi.StreamIO) error {
	_, err := s.do(ctx, pod, stream.Request{Verb: stream.VerbAttach, Container: container, TTY: tty}, joinedIO(ctx, streams))
	return err
}

func (s *podStreams) Forward(ctx context.Context, pod *corev1.Pod, port int32, conn io.ReadWriter) error {
	_, err := s.do(ctx, pod, stream.Request{Verb: stream.VerbForward, Port: port}, stream.IO{Stdin: conn, Stdout: conn})
	return err
}

// joinedIO hands the client's ends on. The sizes end with ctx at the latest.
func joinedIO(ctx context.Context, in kubeletapi.StreamIO) stream.IO {
	out := stream.IO{Stdin: in.Stdin, Stdout: in.Stdout, Stderr: in.Stderr}
	if in.Resize == nil {
		return out
	}
	sizes := make(chan stream.Size)
	out.Resize = sizes
	go func() {
		defer close(sizes)
		for s := range in.Resize {
			select {
			case sizes <- stream.Size{Width: s.Width, Height: s.Height}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
