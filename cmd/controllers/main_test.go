package main

import (
	"os"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

func TestMain(m *testing.M) {
	if os.Getenv(asControllers) != "" {
		main()
		os.Exit(0)
	}
	ctrl.SetLogger(logr.Discard())
	code := m.Run()
	stopPlane()
	os.Exit(code)
}

// keepLogger leaves the process's logger alone, which tests share.
func keepLogger(logr.Logger) {}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"must be positive":          {"--workers=0"},
		"load client configuration": {"--kubeconfig=/nonexistent/kubeconfig"},
		"unknown flag":              {"--nope"},
		"unknown command":           {"extra"},
	} {
		cmd := command(keepLogger)
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want %q", args, err, want)
		}
	}
}

// The arguments that Volcano's chart gives its controller manager are taken, its
// stray last one included; what they turn on is on.
func TestVolcanosFlagsAreTaken(t *testing.T) {
	t.Parallel()
	cmd := command(keepLogger)
	cmd.SetArgs([]string{
		"--logtostderr", "--enable-healthz=true", "--enable-metrics=true", "--leader-elect=false", "--leader-elect-resource-namespace=volcano-system",
		"--kube-api-qps=50", "--kube-api-burst=100", "--worker-threads=3", "--worker-threads-for-gc=5", "--worker-threads-for-podgroup=5",
		"--feature-gates=CronVolcanoJobSupport=true", "--inherit-owner-annotations=true", "--scheduler-name=volcano",
		"-v=4", "2>&1", "--kubeconfig=/nonexistent/kubeconfig",
	})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "load client configuration") {
		t.Errorf("error %v, want one of the kubeconfig, the last thing to be looked at", err)
	}
	o := options{metricsAddress: "0", healthAddress: "0", volcano: volcanoFlags{metrics: true, health: true}}
	o.volcano.resolve(&o)
	if o.metricsAddress != ":8081" || o.healthAddress != ":11251" {
		t.Errorf("metrics on %s, health on %s", o.metricsAddress, o.healthAddress)
	}
	o = options{metricsAddress: "127.0.0.1:1", healthAddress: "127.0.0.1:2", volcano: volcanoFlags{metrics: true, health: true}}
	o.volcano.resolve(&o)
	if o.metricsAddress != "127.0.0.1:1" || o.healthAddress != "127.0.0.1:2" {
		t.Errorf("metrics on %s, health on %s: those that were given are gone", o.metricsAddress, o.healthAddress)
	}
}

// TestVersionIsTold: it is printed where Volcano's is asked for, and that is all.
func TestVersionIsTold(t *testing.T) {
	t.Parallel()
	cmd := command(keepLogger)
	var out strings.Builder
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--version", "--kubeconfig=/nonexistent/kubeconfig"})
	if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.HasPrefix(out.String(), "controllers version ") {
		t.Errorf("error %v, prints %q", err, out.String())
	}
}

func TestListsAreWithoutRepetition(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, f := range jobPlugins() {
		if seen[f.Name] {
			t.Errorf("plugin %s is listed twice", f.Name)
		}
		seen[f.Name] = true
		p, err := f.New(nil)
		if err != nil || p == nil {
			t.Errorf("plugin %s without arguments: %v", f.Name, err)
		}
	}
}
