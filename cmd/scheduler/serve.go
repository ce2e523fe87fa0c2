package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof" //nolint:gosec // served on loopback only, on a mux of its own
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serve starts the servers that o asks for and returns what stops them.
func serve(ctx context.Context, o options, g prometheus.Gatherer, alive func() bool) (stop func(), err error) {
	metrics := http.NewServeMux()
	metrics.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	health := http.NewServeMux()
	probe := func(w http.ResponseWriter, _ *http.Request) {
		if !alive() {
			http.Error(w, "no scheduling cycle has run lately", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // a prober that hung up needs no answer
	}
	health.HandleFunc("GET /healthz", probe)
	health.HandleFunc("GET /readyz", probe)
	debug := http.NewServeMux()
	debug.HandleFunc("GET /debug/pprof/", pprof.Index)
	debug.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	debug.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	debug.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	debug.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	var servers []*http.Server
	stop = func() {
		for _, s := range servers {
			_ = s.Close() // nothing is lost with a scrape or a probe
		}
	}
	for _, e := range []struct {
		name, address string
		handler       http.Handler
	}{{"metrics", o.metrics, metrics}, {"health", o.health, health}, {"pprof", o.pprof, debug}} {
		if e.address == "0" || e.address == "" {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", e.address)
		if err != nil {
			stop()
			return nil, fmt.Errorf("listen for %s: %w", e.name, err)
		}
		s := &http.Server{Handler: e.handler, ReadHeaderTimeout: 10 * time.Second}
		servers = append(servers, s)
		logr.FromContextOrDiscard(ctx).Info("serving", "what", e.name, "address", l.Addr().String())
		go func() { _ = s.Serve(l) }() // ends with Close
	}
	return stop, nil
}
