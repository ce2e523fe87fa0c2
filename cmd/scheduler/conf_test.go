package main

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestConfigurationIsReadAgain replaces the file as a mounted ConfigMap is
// replaced, by a link to another folder, through good, wrong and absent ones.
func TestConfigurationIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	version := func(name, text string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "volcano-scheduler.conf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		next := filepath.Join(dir, "next")
		if err := os.Symlink(name, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	var used []framework.Pipeline
	var results []string
	c := &confFile{
		path: filepath.Join(dir, "..data", "volcano-scheduler.conf"), warned: map[string]bool{},
		use: func(p framework.Pipeline) { used = append(used, p) }, loaded: func(r string) { results = append(results, r) },
	}
	look := func(what string, want int) {
		t.Helper()
		err := c.load(logr.Discard())
		if wrong := strings.Contains(what, "wrong") || strings.Contains(what, "absent") || what == "gone"; (err != nil) != wrong {
			t.Errorf("%s: the error is %v", what, err)
		}
		if len(used) != want {
			t.Errorf("%s: %d pipelines were used so far, want %d", what, len(used), want)
		}
	}
	look("absent", 0)
	look("still absent", 0)
	version("v1", "actions: enqueue, allocate\n")
	look("good", 1)
	look("the same", 1)
	version("v2", "actions: enqueue, allocat\n")
	look("wrong", 1)
	look("still wrong", 1)
	version("v3", "actions: enqueue, allocate\ntiers: [{plugins: [{name: capacity}]}]\n")
	look("good again", 2)
	if err := os.Remove(filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	look("gone", 2)
	if want := []string{"unreadable", "good", "invalid", "good", "unreadable"}; !reflect.DeepEqual(results, want) {
		t.Errorf("results %v, want %v", results, want)
	}
	if got := used[1].Plugins[0].Name(); got != "capacity" {
		t.Errorf("the first plugin is %s", got)
	}
}

// TestStartsWithNoWrongConfiguration: with a file that brings none the program ends and
// says what is wrong, since the standard one would evict.
func TestStartsWithNoWrongConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	// Nobody is there: one that starts all the same ends by that.
	nobody := file("kubeconfig", "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"https://127.0.0.1:1\"}}]\n"+
		"contexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n")
	for conf, says := range map[string]string{
		file("typo.conf", "actions: enqueue, allocat\n"): "allocat",
		filepath.Join(dir, "misspelt.conf"):              "no such file",
	} {
		c, _ := command()
		c.SetArgs([]string{"--kubeconfig=" + nobody, "--leader-elect=false", "--scheduler-conf=" + conf})
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "--scheduler-conf="+conf) || !strings.Contains(err.Error(), says) {
			t.Errorf("with %s it ends with %v, which should name the file and %q", conf, err, says)
		}
	}
}

// TestNewLeaderReadsAgain: what was changed while another instance had the lease is
// in force in the first cycle.
func TestNewLeaderReadsAgain(t *testing.T) {
	plane := shared(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", plane.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	_, o := command()
	s, err := newScheduler(config, *o, driver.NewMetrics(prometheus.NewRegistry()))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "volcano-scheduler.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var used atomic.Int32
	s.conf = &confFile{path: path, warned: map[string]bool{}, loaded: func(string) {}, use: func(p framework.Pipeline) {
		used.Add(1)
		s.pipelines.configure(p)
	}}
	write("actions: enqueue, allocate, backfill, preempt\n")
	if err := s.conf.first(logr.Discard()); err != nil {
		t.Fatal(err)
	}
	write("actions: enqueue, allocate, backfill\n")
	cycles := make(chan int32, 1)
	s.driver.Looked = func(*snapshot.Snapshot, plan.Plan) {
		select {
		case cycles <- used.Load():
		default:
		}
	}
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	select {
	case n := <-cycles:
		if n != 2 {
			t.Errorf("in the first cycle %d configurations had been used, want 2", n)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	case err := <-done:
		t.Fatalf("the scheduler ended: %v", err)
	case <-time.After(patience):
		t.Fatal("there was no cycle")
	}
}

// TestVolcanosFlagsAreTaken starts from the arguments of Volcano's own chart.
func TestVolcanosFlagsAreTaken(t *testing.T) {
	c, o := command()
	if err := c.ParseFlags([]string{
		"--logtostderr", "--scheduler-conf=/volcano.scheduler/volcano-scheduler.conf", "--enable-healthz=true", "--enable-metrics=true",
		"--leader-elect=false", "--kube-api-qps=2000", "--kube-api-burst=2000", "--schedule-period=1s", "--node-worker-threads=20",
		"--feature-gates=VolcanoJobSupport=true", "--scheduler-name=volcano", "--scheduler-name=mine", "--lock-object-namespace=volcano-system", "--scheduler-sharding-mode=none", "-v=3", "2>&1",
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		t.Error(err)
	}
	if err := c.ValidateArgs([]string{"again"}); err == nil {
		t.Error("any argument is taken")
	}
	o.resolve()
	if o.metrics != ":8080" || o.health != ":11251" || o.pprof != "0" || o.leaderElect || o.qps != 2000 || o.leaseNS != "volcano-system" ||
		o.verbosity != 3 || !reflect.DeepEqual(o.names, []string{"volcano", "mine"}) || o.conf == "" {
		t.Errorf("options are %+v", *o)
	}
	if err := o.validate(); err != nil {
		t.Error(err)
	}
}
