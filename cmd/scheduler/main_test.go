package main

import (
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/cmd/internal/version"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

func TestOptionsAreChecked(t *testing.T) {
	for _, args := range []string{"--kube-api-qps=0", "--kube-api-burst=-1", "--bind-workers=0", "--rights-interval=0s", "--log-format=xml", "--pprof-bind-address=0.0.0.0:6060", "--pprof-bind-address=:6060", "extra"} {
		c, _ := command()
		c.SetArgs([]string{args})
		if err := c.ExecuteContext(t.Context()); err == nil {
			t.Errorf("%s was accepted", args)
		}
	}
}

// TestFlagsThatWouldChangePlacesAreRefused: what Volcano's scheduler obeys and this one
// does not is told in words, and the value that means what is done here is no matter.
func TestFlagsThatWouldChangePlacesAreRefused(t *testing.T) {
	for arg, want := range map[string]string{
		"--node-selector=volcano.sh/role:train": "pods would go to all nodes",
		"--default-queue=shared":                "give queue default what shared has",
		"--default-queue=default":               "--log-format",
	} {
		c, _ := command()
		c.SetArgs([]string{arg, "--log-format=xml"})
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %q", arg, err, want)
		}
	}
}

// TestFlagsOfVolcanosLogAreKnown: a deployment that says where Volcano's log goes starts,
// whichever way the flags are written.
func TestFlagsOfVolcanosLogAreKnown(t *testing.T) {
	for _, arg := range []string{"--log-flush-frequency=1s", "--log_dir=/var/log", "--log-dir=/var/log", "--log_file=/var/log/volcano.log",
		"--log_file_max_size=100", "--log_backtrace_at=x.go:1", "--alsologtostderrthreshold=2", "--legacy_stderr_threshold_behavior=false", "--version=false", "--add_dir_header", "--one_output=true", "--skip_headers", "--skip-log-headers",
		"--resource-sync-timeout=30s", "--gate-removal-worker-num=2", "--scheduler_conf=/etc/volcano-scheduler.conf"} {
		c, _ := command()
		c.SetArgs([]string{arg, "--log-format=xml"})
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "--log-format") {
			t.Errorf("%s gives %v", arg, err)
		}
	}
}

// TestVersionIsTold: it is printed where Volcano's is asked for, and that is all.
func TestVersionIsTold(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"--version=true", "--kubeconfig=/nonexistent/kubeconfig", "2>&1"}} {
		c, _ := command()
		var out strings.Builder
		c.SetOut(&out)
		c.SetArgs(args)
		err := c.ExecuteContext(t.Context())
		if want := "scheduler version " + version.String() + "\n"; err != nil || out.String() != want {
			t.Errorf("%v gives %v and prints %q, want %q", args, err, out.String(), want)
		}
	}
}

// TestRunsUntilTold starts the program with a lease, waits until it has made the
// queues, and stops it: no error, and a second start takes over at once.
func TestRunsUntilTold(t *testing.T) {
	plane := shared(t)
	for _, name := range []string{"root", "default"} { // another test's scheduler made them
		q := &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := plane.Client.Delete(t.Context(), q); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
	for round := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		c, _ := command()
		c.SetArgs(strings.Fields("--kubeconfig=" + plane.Kubeconfig + " --leader-elect-namespace=default --metrics-bind-address=127.0.0.1:0 --health-probe-bind-address=127.0.0.1:0"))
		go func() { done <- c.ExecuteContext(ctx) }()
		var q volcanov1.Queue
		controllertest.Eventually(t, 60*time.Second, func(ctx context.Context) string {
			for _, name := range []string{"root", "default"} {
				if err := plane.Client.Get(ctx, types.NamespacedName{Name: name}, &q); err != nil {
					return err.Error()
				}
			}
			return ""
		})
		if err := plane.Client.Delete(t.Context(), &q); err != nil { // the next round has to make it again
			t.Fatal(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
}
