package controllertest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// Main runs the tests of a package with a control plane, which plane is set to, and
// returns the exit status. More is started before, like the garbage collector.
func Main(m *testing.M, plane **Plane, more ...func(*Plane) error) int {
	ctrl.SetLogger(logr.Discard())
	p, err := Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer p.Stop()
	for _, start := range more {
		if err := start(p); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	*plane = p
	return m.Run()
}

// Run runs controllers as the program does, until the test ends or stop is called,
// which waits until nothing of them runs any more. Options that are not given are
// those of a test: no metrics, and names that may be there twice.
func (p *Plane) Run(t testing.TB, o ctrl.Options, setUp func(context.Context, ctrl.Manager) error) (stop func()) {
	t.Helper()
	o.Scheme, o.Metrics, o.Controller.SkipNameValidation = p.Scheme, metricsserver.Options{BindAddress: "0"}, ptr.To(true)
	if o.Client.Cache == nil {
		o.Client.Cache = &client.CacheOptions{}
	}
	o.Client.Cache.EnableReadYourWritesConsistency = ptr.To(true)
	mgr, err := ctrl.NewManager(p.Config, o)
	if err != nil {
		t.Fatalf("make manager: %v", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	if err := setUp(ctx, mgr); err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("manager: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
