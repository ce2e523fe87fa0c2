package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof" //nolint:gosec // served on loopback only, on a mux of its own
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// off is the address of what is not served.
const off = "0"

// newRegistry is what this process measures of itself; the daemon adds its own.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// serveMeasures serves metrics and profiles at their addresses. Neither asks who
// calls: metrics hold names of reasons and numbers, profiles what is in memory, so
// these are for this host alone.
func serveMeasures(ctx context.Context, metrics, profiles string, g prometheus.Gatherer, log logr.Logger) (stop func(), err error) {
	if err := checkLoopback(profiles); err != nil {
		return nil, err
	}
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	for _, e := range []struct {
		flag, address string
		handler       http.Handler
	}{{"metrics-bind-address", metrics, metricsOf(g)}, {"pprof-bind-address", profiles, profilesOf()}} {
		if e.address == off {
			continue
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", e.address)
		if err != nil {
			stop()
			return nil, fmt.Errorf("--%s: %w", e.flag, err)
		}
		server := &http.Server{Handler: e.handler, ReadHeaderTimeout: 10 * time.Second}
		stops = append(stops, func() { _ = server.Close() }) // nobody waits for a last measurement
		go func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				log.Error(err, "no longer served", "flag", e.flag)
			}
		}()
		log.Info("serving", "flag", e.flag, "address", listener.Addr().String())
	}
	return stop, nil
}

// checkLoopback looks at the address of the profiles.
func checkLoopback(address string) error {
	if address == off {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--pprof-bind-address: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("--pprof-bind-address: %q is not a loopback address; profiles tell what is in memory and are for this host alone", host)
	}
	return nil
}

func metricsOf(g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	return mux
}

func profilesOf() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
