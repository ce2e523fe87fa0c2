// Command witness is what the compared pods run where a shell cannot tell
// precisely what it was given: arguments and environment byte for byte, and
// servers for probes. It is static, so that one file serves every container and
// every compute host.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: witness args|env|serve|signals|stdin and further words")
	}
	switch args[0] {
	case "args":
		for i, a := range args[1:] {
			fmt.Printf("%d: %q\n", i, a)
		}
	case "env": // those whose names begin with one of the prefixes; all without
		vars := os.Environ()
		slices.Sort(vars)
		for _, v := range vars {
			if len(args) == 1 || slices.ContainsFunc(args[1:], func(p string) bool { return strings.HasPrefix(v, p) }) {
				fmt.Printf("%q\n", v)
			}
		}
	case "order": // the order of variables as they are in memory
		for _, v := range os.Environ() {
			if strings.HasPrefix(v, args[1]) {
				fmt.Printf("%q\n", v)
			}
		}
	case "serve":
		return serve(args[1:])
	case "serve-once":
		return serveOnce(args[1])
	case "fetch":
		return fetch(args[1])
	case "signals":
		return signals()
	case "stdin":
		return stdin()
	default:
		return fmt.Errorf("there is no %q", args[0])
	}
	return nil
}

// serve listens until SIGTERM: serve KIND ADDRESS. The kinds http-failing and
// grpc-failing answer that they are not well.
func serve(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: serve KIND ADDRESS")
	}
	l, err := net.Listen("tcp", args[1])
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Println("listening")
	failed := make(chan error, 1)
	switch args[0] {
	case "tcp":
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				_ = c.Close()
			}
		}()
	case "http", "http-failing":
		server := &http.Server{Handler: pages(args[0] == "http"), ReadHeaderTimeout: 5 * time.Second}
		go func() { failed <- server.Serve(l) }()
	case "grpc", "grpc-failing":
		server := grpc.NewServer()
		h := health.NewServer()
		h.SetServingStatus("ready", grpc_health_v1.HealthCheckResponse_SERVING)
		if args[0] == "grpc-failing" {
			h.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		}
		grpc_health_v1.RegisterHealthServer(server, h)
		go func() { failed <- server.Serve(l) }()
	default:
		return fmt.Errorf("there is no server %q", args[0])
	}
	select {
	case err := <-failed:
		return err
	case <-stop:
		fmt.Println("terminated")
		return nil
	}
}

// pages answers /healthz, /header (whose answer depends on a header) and
// /redirect, and tells what asked.
func pages(healthy bool) http.Handler {
	mux := http.NewServeMux()
	told := map[string]bool{}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		agent, _, _ := strings.Cut(r.UserAgent(), "/")
		line := fmt.Sprintf("%s %s agent=%s accept=%s x=%q", r.Method, r.URL, agent, r.Header.Get("Accept"), r.Header.Get("X-Parity"))
		if !told[line] { // probes repeat
			told[line] = true
			fmt.Println(line)
		}
		switch {
		case !healthy:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/header" && r.Header.Get("X-Parity") == "":
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/redirect":
			w.Header().Set("Location", "/healthz")
			w.WriteHeader(http.StatusFound)
		}
	})
	return mux
}

// serveOnce answers one request and ends.
func serveOnce(address string) error {
	done := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "you asked for", r.URL.Path)
		close(done)
	})
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-done:
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return server.Shutdown(ctx)
	}
}

// fetch asks until it gets an answer, for half a minute at most, and prints it.
func fetch(url string) error {
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		res, err := http.Get(url) //nolint:gosec,noctx // the test's own address
		if err == nil {
			_, err = io.Copy(os.Stdout, res.Body)
			return errors.Join(err, res.Body.Close())
		}
		if time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// signals tells which signals come, and ends with SIGTERM's.
func signals() error {
	got := make(chan os.Signal, 8)
	signal.Notify(got, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGQUIT)
	fmt.Println("waiting")
	s := <-got
	fmt.Println("got", s)
	return nil
}

// stdin tells what comes until its end.
func stdin() error {
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			fmt.Printf("read %q\n", line)
		}
		if errors.Is(err, io.EOF) {
			fmt.Println("end of input")
			return nil
		}
		if err != nil {
			fmt.Println("no input:", err)
			return nil
		}
	}
}
