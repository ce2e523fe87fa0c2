package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/go-logr/logr"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
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
		c.load(logr.Discard())
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
