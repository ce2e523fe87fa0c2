package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
)

// TestMeasures: what is served where metrics are is no profile, and the other way
// round; and profiles are for loopback alone.
func TestMeasures(t *testing.T) {
	registry := newRegistry()
	for path, want := range map[string][2]int{"/metrics": {200, 404}, "/debug/pprof/": {404, 200}} {
		for i, h := range []http.Handler{metricsOf(registry), profilesOf()} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			if w.Code != want[i] {
				t.Errorf("server %d answers %d to %s, want %d", i, w.Code, path, want[i])
			}
		}
	}
	var said []string
	log := funcr.New(func(_, args string) { said = append(said, args) }, funcr.Options{})
	stop, err := serveMeasures(t.Context(), "0.0.0.0:0", "127.0.0.1:0", registry, log)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if len(said) != 2 || !strings.Contains(said[0], "metrics-bind-address") || !strings.Contains(said[1], `"127.0.0.1:`) {
		t.Errorf("it says %q", said)
	}
	for _, address := range []string{"0.0.0.0:0", ":0", "localhost", "example.com:80"} {
		if _, err := serveMeasures(t.Context(), off, address, registry, log); err == nil || !strings.Contains(err.Error(), "--pprof-bind-address") {
			t.Errorf("profiles at %s: %v", address, err)
		}
	}
	if _, err := serveMeasures(t.Context(), "127.0.0.1", off, registry, log); err == nil || !strings.Contains(err.Error(), "--metrics-bind-address") {
		t.Errorf("an address without a port: %v", err)
	}
}
