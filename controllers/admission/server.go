package admission

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// Server serves the webhook at /validate and /default. It is a Runnable of every
// replica. All fields are required.
type Server struct {
	// Address is HOST:PORT.
	Address   string
	Validator *Validator
	// Certificate is asked at each connection, so that a new one counts at once.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Log         logr.Logger
}

// NeedLeaderElection says that every replica runs it.
func (s *Server) NeedLeaderElection() bool { return false }

// longest is the longest time that the API server waits for a webhook.
const longest = 30 * time.Second

// Start serves until ctx ends, and then answers what it was asked.
func (s *Server) Start(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Address)
	if err != nil {
		return fmt.Errorf("serve the admission webhook: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/validate", &admission.Webhook{Handler: s.Validator, RecoverPanic: ptr.To(true)})
	mux.Handle("/default", &admission.Webhook{Handler: admission.HandlerFunc(Default), RecoverPanic: ptr.To(true)})
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: longest, ReadTimeout: longest, WriteTimeout: 2 * longest, IdleTimeout: 3 * longest,
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ErrorLog:    slog.NewLogLogger(logr.ToSlogHandler(s.Log.V(1)), slog.LevelDebug), // probes of ports and the like
		TLSConfig:   &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.Certificate, NextProtos: []string{"h2", "http/1.1"}},
	}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(listener, "", "") }()
	s.Log.Info("the admission webhook is served", "address", listener.Addr().String())
	select {
	case err := <-done:
		return fmt.Errorf("serve the admission webhook: %w", err)
	case <-ctx.Done():
	}
	shut, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = server.Shutdown(shut)
	if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	if err != nil {
		return fmt.Errorf("end the admission webhook: %w", err)
	}
	return nil
}
