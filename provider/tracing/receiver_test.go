package tracing_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// receiver is an OpenTelemetry collector that keeps what it gets.
type receiver struct {
	t      *testing.T
	server *httptest.Server

	mu    sync.Mutex
	raw   bytes.Buffer
	spans map[string]*tracev1.Span // by id; a span that is told again is the same
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t, spans: map[string]*tracev1.Span{}}
	r.server = httptest.NewServer(r)
	t.Cleanup(r.server.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	var request collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &request)
	}
	if err != nil || q.URL.Path != "/v1/traces" {
		r.t.Errorf("request %s: %v", q.URL.Path, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raw.Write(body)
	for _, of := range request.ResourceSpans {
		for _, list := range of.ScopeSpans {
			for _, s := range list.Spans {
				r.spans[hex.EncodeToString(s.SpanId)] = s
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// attribute gives an attribute as text, "" when the span lacks it.
func attribute(s *tracev1.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			if v := a.Value.GetStringValue(); v != "" {
				return v
			}
			return fmt.Sprint(a.Value.GetIntValue())
		}
	}
	return ""
}

// tree gives one line a span, "pod name: path of span names", sorted, and the traces.
func (r *receiver) tree() (lines, traces []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		path, up := s.Name, s
		for len(up.ParentSpanId) > 0 {
			parent, ok := r.spans[hex.EncodeToString(up.ParentSpanId)]
			if !ok {
				path = "(lost) > " + path
				break
			}
			up, path = parent, parent.Name+" > "+path
		}
		lines = append(lines, attribute(s, "k8s.pod.name")+": "+path)
		if id := hex.EncodeToString(s.TraceId); !slices.Contains(traces, id) {
			traces = append(traces, id)
		}
	}
	slices.Sort(lines)
	return lines, traces
}

// find gives the spans of a pod with the name.
func (r *receiver) find(pod, name string) (out []*tracev1.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.Name == name && attribute(s, "k8s.pod.name") == pod {
			out = append(out, s)
		}
	}
	return out
}

func (r *receiver) holds(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(r.raw.String(), text)
}
