package e2e

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/fetch"
)

// spans is an OpenTelemetry collector of traces by OTLP over HTTP. While it hangs,
// it takes requests and answers none.
type spans struct {
	t *testing.T

	mu   sync.Mutex
	byID map[string]*tracev1.Span
	hung chan struct{}
	held int
}

func (s *spans) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	s.mu.Lock()
	hung := s.hung
	if hung != nil {
		s.held++
	}
	s.mu.Unlock()
	if hung != nil {
		select {
		case <-hung:
		case <-q.Context().Done():
		}
		return
	}
	var request collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &request)
	}
	if err != nil || q.URL.Path != "/v1/traces" {
		s.t.Errorf("collector: request %s: %v", q.URL.Path, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range request.ResourceSpans {
		for _, list := range of.ScopeSpans {
			for _, span := range list.Spans {
				s.byID[hex.EncodeToString(span.SpanId)] = span
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// paths are the spans of the pods of a namespace, "pod: outer > inner", sorted,
// and the number of traces that they are in.
func (s *spans) paths(namespace string) ([]string, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	word := func(span *tracev1.Span, key string) string {
		for _, a := range span.Attributes {
			if a.Key == key {
				return a.Value.GetStringValue()
			}
		}
		return ""
	}
	var out []string
	traces := map[string]bool{}
	for _, span := range s.byID {
		if word(span, "k8s.namespace.name") != namespace {
			continue
		}
		traces[hex.EncodeToString(span.TraceId)] = true
		path := span.Name
		for up := s.byID[hex.EncodeToString(span.ParentSpanId)]; up != nil; up = s.byID[hex.EncodeToString(up.ParentSpanId)] {
			path = up.Name + " > " + path
		}
		out = append(out, word(span, "k8s.pod.name")+": "+path)
	}
	slices.Sort(out)
	return out, len(traces)
}

// hang stops the answers; the function that it returns lets them go on.
func (s *spans) hang() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hung := make(chan struct{})
	s.hung = hung
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hung = nil
		close(hung)
	})
}

// The whole daemon tells its traces to a collector and its measurements to
// whoever asks on loopback; neither a collector that hangs nor one that is gone
// keeps a pod from running.
func TestObserve(t *testing.T) {
	ns := namespace(t, account.Alice)
	told := &spans{t: t, byID: map[string]*tracev1.Span{}}
	server := httptest.NewServer(told)
	t.Cleanup(server.Close)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	argv := slices.Clone(vnode(t).Argv)
	t.Cleanup(func() {
		if err := here(t).Restart("vnode", argv, nil); err != nil {
			t.Error(err)
		}
	})
	if err := here(t).Restart("vnode", append(slices.Clone(argv), "--otlp-endpoint="+server.URL, "--metrics-bind-address="+address), nil); err != nil {
		t.Fatal(err)
	}
	if err := here(t).CheckNodes(t.Context()); err != nil {
		t.Fatal(err)
	}

	apply(t, ns, job{Name: "traced", Replicas: 2, Script: "true"}.yaml())
	phase(t, ns, "traced", "Completed", 2*time.Minute)
	var want []string
	for _, pod := range []string{"traced-task-0", "traced-task-1"} {
		for _, path := range []string{"pod", "pod > intent", "pod > queued", "pod > record", "pod > running", "pod > running > container main"} {
			want = append(want, pod+": "+path)
		}
	}
	for _, path := range []string{"pod > stage", "pod > submit", "pod > release"} { // of the gang, told with its first pod
		want = append(want, "traced-task-0: "+path)
	}
	eventually(t, time.Minute, "the collector has one trace from the pods to their containers", func() (bool, string) {
		paths, traces := told.paths(ns)
		missing := slices.DeleteFunc(slices.Clone(want), func(w string) bool { return slices.Contains(paths, w) })
		return len(missing) == 0 && traces == 1, fmt.Sprintf("%d traces, without %q, with:\n%s", traces, missing, strings.Join(paths, "\n"))
	})

	shown := func() string {
		text, err := fetch.Text(t.Context(), "http://"+address+"/metrics")
		if err != nil {
			return err.Error()
		}
		return text
	}
	// value is of the first series that begins with the words; -1 without one.
	value := func(text, begins string) float64 {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, begins) {
				var v float64
				if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &v); err == nil {
					return v
				}
			}
		}
		return -1
	}
	text := shown()
	for begins, ok := range map[string]func(float64) bool{
		`isthmus_vnode_effect_seconds_count{effect="submit"}`:  func(v float64) bool { return v >= 1 },
		`isthmus_vnode_effect_seconds_sum{effect="submit"}`:    func(v float64) bool { return v > 0 },
		`isthmus_vnode_effect_seconds_count{effect="observe"}`: func(v float64) bool { return v >= 1 },
		`isthmus_vnode_effect_seconds_count{effect="release"}`: func(v float64) bool { return v >= 1 },
		`isthmus_vnode_effect_seconds_count{effect="record"}`:  func(v float64) bool { return v >= 2 },
		`isthmus_vnode_observation_age_seconds`:                func(v float64) bool { return v >= 0 && v < 600 },
		`isthmus_vnode_batch_system_reachable`:                 func(v float64) bool { return v == 1 },
		`isthmus_vnode_ownerless_jobs`:                         func(v float64) bool { return v >= 0 },
		`isthmus_vnode_sweep_braked`:                           func(v float64) bool { return v == 0 },
		`isthmus_vnode_adopted_jobs_total`:                     func(v float64) bool { return v == 0 },
		`process_resident_memory_bytes`:                        func(v float64) bool { return v > 0 },
	} {
		if v := value(text, begins); !ok(v) {
			t.Errorf("%s is %g", begins, v)
		}
	}
	if t.Failed() {
		t.Log(text)
	}

	end := told.hang()
	t.Cleanup(end)
	apply(t, ns, job{Name: "hangs", Replicas: 1, Script: "exec sleep 3"}.yaml())
	eventually(t, time.Minute, "a job is measured as running", func() (bool, string) {
		text := shown()
		return value(text, `isthmus_vnode_jobs{state="Running"}`) >= 1, text
	})
	phase(t, ns, "hangs", "Completed", 2*time.Minute)
	eventually(t, time.Minute, "the collector was asked while it hung", func() (bool, string) {
		told.mu.Lock()
		defer told.mu.Unlock()
		return told.held > 0, fmt.Sprint(told.held, " requests")
	})
	end()
	server.Close()
	apply(t, ns, job{Name: "gone", Replicas: 1, Script: "true"}.yaml())
	phase(t, ns, "gone", "Completed", 2*time.Minute)

	if here(t).Slurm() == nil {
		t.Log("failures are not provoked: this machine runs the local batch system, which has no controller to stop")
		return
	}
	if err := here(t).Slurm().StopController(); err != nil {
		t.Fatal(err)
	}
	restart := sync.OnceFunc(func() {
		if err := here(t).Slurm().StartController(t.Context()); err != nil {
			t.Error(err)
		}
	})
	defer restart()
	eventually(t, time.Minute, "the outage is measured", func() (bool, string) {
		text := shown()
		return value(text, `isthmus_vnode_batch_system_reachable`) == 0 && value(text, `isthmus_vnode_effect_failures_total{class="Transient",effect="observe"}`) >= 1, text
	})
	restart()
	eventually(t, time.Minute, "its end is measured", func() (bool, string) {
		text := shown()
		return value(text, `isthmus_vnode_batch_system_reachable`) == 1, text
	})
}
