package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// maxSince bounds sinceSeconds, so that a huge one is simply "everything".
const maxSince = 100 * 365 * 24 * time.Hour

// containerLogs answers what `kubectl logs` asks.
func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	pod, ok := s.pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if !ok {
		http.Error(w, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	container := r.PathValue("container")
	if !hasContainer(pod, container) {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", container, pod.Name), http.StatusNotFound)
		return
	}
	opts, err := logOptions(r.URL.Query(), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pod, why := s.settled(r.Context(), pod, container, opts.Previous)
	if why != "" {
		http.Error(w, why, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := &flusher{w: w}
	err = s.logs.ContainerLogs(r.Context(), pod, container, opts, out)
	if err == nil {
		if !out.began {
			w.WriteHeader(http.StatusOK)
		}
		return
	}
	if r.Context().Err() != nil {
		return // the client went away
	}
	var own *Error
	switch {
	case out.began:
		s.cfg.Log.Info("log stream broke", "pod", pod.Namespace+"/"+pod.Name, "error", err.Error())
		// A clean end would pass a cut log off as a whole one.
		panic(http.ErrAbortHandler)
	case errors.As(err, &own):
		http.Error(w, own.Message, own.Code)
	default:
		s.cfg.Log.Info("could not read logs", "pod", pod.Namespace+"/"+pod.Name, "error", err.Error())
		http.Error(w, "the log could not be read from the cluster: "+err.Error(), http.StatusInternalServerError)
	}
}

// flusher passes every write on at once, so that a follower sees it.
type flusher struct {
	w     http.ResponseWriter
	began bool
}

var _ io.Writer = (*flusher)(nil)

func (f *flusher) Write(p []byte) (int, error) {
	f.began = true
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

func hasContainer(pod *corev1.Pod, name string) bool {
	is := func(c corev1.Container) bool { return c.Name == name }
	return slices.ContainsFunc(pod.Spec.Containers, is) || slices.ContainsFunc(pod.Spec.InitContainers, is) ||
		slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
}

// settleTime bounds the wait for our copy of a pod to catch up with the status
// that a client may have seen already, since it was written a moment ago.
const settleTime = time.Second

// settled is notStarted with the newest copy of the pod, and waits a little
// before it says no.
func (s *Server) settled(ctx context.Context, pod *corev1.Pod, container string, previous bool) (*corev1.Pod, string) {
	limit := time.NewTimer(settleTime)
	defer limit.Stop()
	tick := time.NewTicker(settleTime / 20)
	defer tick.Stop()
	for {
		why := notStarted(pod, container, previous)
		if why == "" {
			return pod, ""
		}
		select {
		case <-ctx.Done():
			return pod, why
		case <-limit.C:
			return pod, why
		case <-tick.C:
		}
		if now, ok := s.pods.Pod(pod.Namespace, pod.Name); ok {
			pod = now
		}
	}
}

// notStarted words why there is no log yet, as a kubelet does.
func notStarted(pod *corev1.Pod, container string, previous bool) string {
	for _, st := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		if st.Name != container {
			continue
		}
		if previous {
			if st.RestartCount == 0 && st.LastTerminationState.Terminated == nil {
				return fmt.Sprintf("previous terminated container %q in pod %q not found", container, pod.Name)
			}
			return ""
		}
		if st.State.Waiting != nil && st.RestartCount == 0 && st.LastTerminationState.Terminated == nil {
			reason := st.State.Waiting.Reason
			if st.State.Waiting.Message != "" {
				reason += ": " + st.State.Waiting.Message
			}
			return fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, pod.Name, reason)
		}
		return ""
	}
	return fmt.Sprintf("container %q in pod %q is waiting to start: no status yet", container, pod.Name)
}

// logOptions reads the query strictly: a wrong value is told, not ignored.
func logOptions(q url.Values, now time.Time) (LogOptions, error) {
	var o LogOptions
	var err error
	number := func(name string, least int64) *int64 {
		text := q.Get(name)
		if text == "" || err != nil {
			return nil
		}
		n, perr := strconv.ParseInt(text, 10, 64)
		if perr != nil || n < least {
			err = fmt.Errorf("%s: %q is not a number of at least %d", name, text, least)
			return nil
		}
		return &n
	}
	flag := func(name string) bool {
		text := q.Get(name)
		if text == "" || err != nil {
			return false
		}
		v, perr := strconv.ParseBool(text)
		if perr != nil {
			err = fmt.Errorf("%s: %q is not true or false", name, text)
		}
		return v
	}
	o.Tail, o.LimitBytes = number("tailLines", 0), number("limitBytes", 1)
	since := number("sinceSeconds", 1)
	if since != nil {
		*since = min(*since, int64(maxSince/time.Second))
	}
	o.Follow, o.Previous, o.Timestamps = flag("follow"), flag("previous"), flag("timestamps")
	if err != nil {
		return LogOptions{}, err
	}
	if since != nil {
		o.SinceTime = now.Add(-time.Duration(*since) * time.Second)
	}
	if text := q.Get("sinceTime"); text != "" {
		if since != nil {
			return LogOptions{}, errors.New("sinceTime: must not be given with sinceSeconds")
		}
		if o.SinceTime, err = time.Parse(time.RFC3339, text); err != nil {
			return LogOptions{}, fmt.Errorf("sinceTime: %q is not an RFC 3339 time", text)
		}
	}
	return o, nil
}
