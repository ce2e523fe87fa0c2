package main

import (
	"os"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

func TestMain(m *testing.M) {
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
