package kubeletapi

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Config makes a Server. All fields but Log are required, unless they say otherwise.
type Config struct {
	// CertFile and KeyFile are read again when they change. Certificate stands in
	// for them.
	CertFile, KeyFile string
	Certificate       func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAFile is the authority of client certificates, read again when it
	// changes. Without it, the authority is the one that the API server publishes
	// in the ConfigMap kube-system/extension-apiserver-authentication.
	ClientCAFile string
	// Client reviews tokens and access.
	Client kubernetes.Interface
	Log    logr.Logger
	// Metrics, when set, answers GET /metrics.
	Metrics http.Handler
}

// Server is the HTTPS server. Make it with New.
type Server struct {
	cfg    Config
	pods   PodSource
	logs   Logs
	access *access
	cert   func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	streams Streams
	usage   Usage
	running *census
}

// Sources are where the answers come from. All are required.
type Sources struct {
	Pods    PodSource
	Logs    Logs
	Streams Streams
	Usage   Usage
}

// New checks the configuration and refuses anything that would leave the API
// without TLS or without client authentication.
func New(cfg Config, from Sources) (*Server, error) {
	switch {
	case cfg.Certificate == nil && (cfg.CertFile == "" || cfg.KeyFile == ""):
		return nil, errors.New("kubelet API: a serving certificate and its key are required")
	case cfg.Client == nil:
		return nil, errors.New("kubelet API: a client for token and access reviews is required")
	}
	cert := cfg.Certificate
	if cert == nil {
		files := &certificate{certFile: cfg.CertFile, keyFile: cfg.KeyFile}
		if _, err := files.get(nil); err != nil {
			return nil, fmt.Errorf("kubelet API: %w", err)
		}
		cert = files.get
	}
	a, err := newAccess(cfg)
	if err != nil {
		return nil, fmt.Errorf("kubelet API: %w", err)
	}
	return &Server{cfg: cfg, pods: from.Pods, logs: from.Logs, streams: from.Streams, usage: from.Usage, running: newCensus(), access: a, cert: cert}, nil
}

// Serve answers on listener until ctx ends, then lets requests under way finish
// for a few seconds. It closes the listener and returns nil after a graceful stop.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.access.ca.Run(ctx, 1)
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	config := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: s.cert,
		// A token may stand in for a certificate, so none is demanded here; a
		// request with neither, or with one that the authority did not sign, is
		// refused by the authenticator.
		ClientAuth: tls.RequestClientCert,
		NextProtos: []string{"h2", "http/1.1"},
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(tls.NewListener(listener, config)) }()
	select {
	case err := <-done:
		return graceful(err)
	case <-ctx.Done():
		stop, end := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer end()
		if server.Shutdown(stop) != nil {
			_ = server.Close() // streams that follow do not end by themselves
		}
		err := <-done
		s.running.wait() // exchanges end with ctx
		return graceful(err)
	}
}

func graceful(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Handler serves the routes behind authentication and authorization.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	mux.HandleFunc("GET /pods", s.podList)
	mux.HandleFunc("GET /runningpods/", s.podList)
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("GET /metrics", s.metrics)
	// Prometheus' usual job for kubelets takes a node for down that does not have these.
	// Containers are told of below resource, and probes are the pods' own there.
	mux.HandleFunc("GET /metrics/cadvisor", noMetrics)
	mux.HandleFunc("GET /metrics/probes", noMetrics)
	mux.HandleFunc("GET /metrics/resource", s.resource)
	mux.HandleFunc("GET /metrics/resource/{node}", s.resource)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	s.streamRoutes(mux)
	mux.HandleFunc("/run/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "run is not served by this virtual node: use exec", http.StatusNotImplemented)
	})
	return s.access.guard(mux, s.pods)
}

// metrics are those of the process, which all its nodes have.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Metrics == nil {
		noMetrics(w, r)
		return
	}
	s.cfg.Metrics.ServeHTTP(w, r)
}

// noMetrics says that there are none, in Prometheus' text format.
func noMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
}

func (s *Server) podList(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, p := range s.pods.Pods() {
		list.Items = append(list.Items, *p)
	}
	s.json(w, list)
}

func (s *Server) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.cfg.Log.V(1).Info("client went away", "error", err.Error())
	}
}
