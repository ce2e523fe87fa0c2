package grpchealth_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/grpchealth"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// The server is the one that most programs use.
func TestCheck(t *testing.T) {
	l := listen(t)
	server, service := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, service)
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	service.SetServingStatus("good", grpc_health_v1.HealthCheckResponse_SERVING)
	service.SetServingStatus("bad", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	for name, message := range map[string]string{"": "", "good": "", "bad": "NOT_SERVING", "none": `gRPC status "5"`} {
		err := grpchealth.Check(t.Context(), l.Addr().String(), name, "test")
		if message == "" && err != nil || message != "" && (err == nil || !strings.Contains(err.Error(), message)) {
			t.Errorf("service %q: %v, want %q", name, err, message)
		}
	}
	service.Shutdown()
	if err := grpchealth.Check(t.Context(), l.Addr().String(), "", "test"); err == nil {
		t.Error("a server that shuts down is healthy")
	}
}

func TestOtherServers(t *testing.T) {
	plain := listen(t)
	server := grpc.NewServer()
	go func() { _ = server.Serve(plain) }() // ends with Stop
	t.Cleanup(server.Stop)
	if err := grpchealth.Check(t.Context(), plain.Addr().String(), "", "test"); err == nil || !strings.Contains(err.Error(), "does not implement") {
		t.Errorf("without the service: %v", err)
	}
	closed := listen(t)
	_ = closed.Close()
	if err := grpchealth.Check(t.Context(), closed.Addr().String(), "", "test"); err == nil {
		t.Error("nobody listens and all is well")
	}
	garbage, silent := listen(t), listen(t)
	go func() {
		for {
			c, err := garbage.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhello")
			_ = c.Close()
		}
	}()
	if err := grpchealth.Check(t.Context(), garbage.Addr().String(), "", "test"); err == nil {
		t.Error("garbage is health")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := grpchealth.Check(ctx, silent.Addr().String(), "", "test"); err == nil {
		t.Error("silence is health")
	}
}
