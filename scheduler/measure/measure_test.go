package measure_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/measure"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

var at = time.Unix(1000, 0)

// keeper measures nodes n1, n2 and n3 of 4 processors and 1,000 bytes.
func keeper(t *testing.T, api http.Handler) (k *measure.Keeper, got func() []snapshot.Load, counted func() []string) {
	t.Helper()
	front := httptest.NewServer(api)
	t.Cleanup(front.Close)
	clients, err := kubernetes.NewForConfig(&rest.Config{Host: front.URL})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var loads []snapshot.Load
	var results []string
	nodes := func() (out []snapshot.NodeSpec) {
		for _, name := range []string{"n1", "n2", "n3"} {
			out = append(out, schedtest.Real(name, resource.Quantity{Name: "cpu", Amount: 4000}, resource.Quantity{Name: "memory", Amount: 1000}))
		}
		return out
	}
	k = &measure.Keeper{
		Nodes: nodes, API: clients.Discovery().RESTClient(), Now: func() time.Time { return at },
		Set: func(l []snapshot.Load) {
			mu.Lock()
			defer mu.Unlock()
			loads = l
		},
		Count: func(r string) {
			mu.Lock()
			defer mu.Unlock()
			results = append(results, r)
		},
	}
	got = func() []snapshot.Load {
		mu.Lock()
		defer mu.Unlock()
		slices.SortFunc(loads, func(a, b snapshot.Load) int { return strings.Compare(a.Node, b.Node) })
		return slices.Clone(loads)
	}
	counted = func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(results) }
	return k, got, counted
}

// TestMetricsServer reads what the resource metrics API tells, in parts of what the
// nodes offer.
func TestMetricsServer(t *testing.T) {
	k, got, _ := keeper(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apis/metrics.k8s.io/v1beta1/nodes" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, `{"kind":"NodeMetricsList","apiVersion":"metrics.k8s.io/v1beta1","items":[
			{"metadata":{"name":"n1"},"timestamp":"2026-01-01T00:00:00Z","window":"10s","usage":{"cpu":"3000000001n","memory":"250"}},
			{"metadata":{"name":"n2"},"usage":{"cpu":"0","memory":"1Ki"}},
			{"metadata":{"name":"elsewhere"},"usage":{"cpu":"1","memory":"1"}}]}`)
	}))
	if err := k.Measure(t.Context(), config.Measuring{Source: config.MetricsServer}); err != nil {
		t.Fatal(err)
	}
	want := []snapshot.Load{{Node: "n1", CPU: 750, Memory: 250, At: at.UnixNano()}, {Node: "n2", CPU: 0, Memory: 1024, At: at.UnixNano()}}
	if loads := got(); !reflect.DeepEqual(loads, want) {
		t.Errorf("got %+v, want %+v", loads, want)
	}
}

// prometheus answers as a Prometheus server does.
func prometheus(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query().Get("query")
	vector := func(samples ...string) {
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[%s]}}`, strings.Join(samples, ","))
	}
	switch {
	case r.URL.Path != "/prefix/api/v1/query":
		http.NotFound(w, r)
	case strings.Contains(q, "node_cpu_seconds_total"):
		vector(`{"metric":{"instance":"n1:9100"},"value":[1.5,"81.26"]}`, `{"metric":{"instance":"10.0.0.2:9100","node":"n2"},"value":[1.5,"-0.1"]}`,
			`{"metric":{"instance":"n3"},"value":[1.5,"NaN"]}`, `{"metric":{"instance":"other"},"value":[1.5,"1"]}`)
	case strings.Contains(q, "node_memory_MemAvailable_bytes"):
		vector(`{"metric":{"instance":"n1:9100"},"value":[1.5,"12"]}`, `{"metric":{"nodename":"n2"},"value":[1.5,"100"]}`, `{"metric":{"instance":"n3"},"value":[1.5,"5"]}`)
	default:
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"status":"error","errorType":"bad_data","error":"what?"}`)
	}
}

// TestPrometheus: a node of which only the half is known is not measured.
func TestPrometheus(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(prometheus))
	defer server.Close()
	k, got, _ := keeper(t, http.NotFoundHandler())
	if err := k.Measure(t.Context(), config.Measuring{Source: config.Prometheus, Address: server.URL + "/prefix/"}); err != nil {
		t.Fatal(err)
	}
	want := []snapshot.Load{{Node: "n1", CPU: 813, Memory: 120, At: at.UnixNano()}, {Node: "n2", CPU: 0, Memory: 1000, At: at.UnixNano()}}
	if loads := got(); !reflect.DeepEqual(loads, want) {
		t.Errorf("got %+v, want %+v", loads, want)
	}
}

// TestFailuresAreTold: what was measured before is kept, and each failure is an
// error that says who failed.
func TestFailuresAreTold(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"not found": http.NotFound,
		"not JSON":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"an error":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"status":"error","error":"too much"}`) },
		"hangs up":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		server := httptest.NewServer(answer)
		k, got, counted := keeper(t, answer)
		for source, who := range map[string]string{config.Prometheus: "Prometheus", config.MetricsServer: "metrics"} {
			if name == "an error" && source == config.MetricsServer {
				continue // an object without items is an empty list
			}
			err := k.Measure(t.Context(), config.Measuring{Source: source, Address: server.URL})
			if err == nil || !strings.Contains(err.Error(), who) {
				t.Errorf("%s of %s gave %v", name, source, err)
			}
		}
		if got() != nil || slices.Contains(counted(), "measured") {
			t.Errorf("%s: %v, %v", name, got(), counted())
		}
		server.Close()
	}
}

// TestKeeperFollowsTheConfiguration: nobody is asked before a configuration says
// so, nor after one takes it back.
func TestKeeperFollowsTheConfiguration(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked.Add(1); prometheus(w, r) }))
	defer server.Close()
	k, _, counted := keeper(t, http.NotFoundHandler())
	c := cache.New()
	k.Set = c.SetLoads
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	defer func() { stop(); <-done }()
	if n := asked.Load(); n != 0 {
		t.Errorf("asked %d times before it was wanted", n)
	}
	k.Use(&config.Measuring{Source: config.Prometheus, Address: server.URL + "/prefix", Interval: time.Millisecond})
	await(t, func() bool { return len(counted()) > 2 })
	if l, ok := c.Snapshot(at).Load("n1"); !ok || l.CPU != 813 {
		t.Errorf("the snapshot says %+v, %t", l, ok)
	}
	k.Use(nil)
	k.Use(nil)
	k.Use(&config.Measuring{Source: config.Prometheus, Address: server.URL, Interval: time.Hour})
	await(t, func() bool { return slices.Contains(counted(), "failed") })
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.After(time.Minute); !ok(); {
		select {
		case <-deadline:
			t.Fatal("not within a minute")
		case <-time.After(time.Millisecond):
		}
	}
}
