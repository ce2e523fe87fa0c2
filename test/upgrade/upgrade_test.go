//go:build upgrade

// Package upgrade has no code of its own: its test goes from the previous version of
// Isthmus to the present one and back while jobs run on a real Slurm. It builds another
// version's programs and plays for ten minutes, so it has a build tag of its own:
//
//	ISTHMUS_UPGRADE=200 go test -tags upgrade -timeout 60m ./test/upgrade
package upgrade_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// jobsOf is the environment variable with the number of jobs.
const jobsOf = "ISTHMUS_UPGRADE"

// R14: jobs go on while vnode, scheduler, controllers, pod runner, definitions and the
// rest of the chart go from the previous version to the present one, back to the
// previous one, and to the present one again. Jobs, pods, restart counts, versions and
// retries stay as they are; what a version began is looked into, told to end and
// finished by the other; each version runs new jobs meanwhile.
func TestUpgradeAndBack(t *testing.T) {
	jobs := 40
	if text := os.Getenv(jobsOf); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("%s is %q, must be a number of jobs", jobsOf, text)
		}
		jobs = n
	}
	previous, err := buildPrevious(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	present, err := environment.Present(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	marks := openMarks(t)
	w := newWorld(t, marks, previous)
	if w.env.Slurm() == nil {
		t.Fatal("this machine runs the local batch system, and this is about jobs of a Slurm")
	}

	w.begin("a", jobs)
	steps := []struct {
		name        string
		to          environment.Version
		definitions bool // or they stay, as helm leaves them
		first       bool // the runner of pods before the programs
		programs    []string
	}{
		{"to the present version", present, true, true, []string{"vnode", "controllers", "scheduler"}},
		{"back to the previous version, with the present definitions", previous, false, false, []string{"scheduler", "controllers", "vnode"}},
		{"with the previous definitions", previous, true, false, nil},
		{"to the present version again", present, true, false, []string{"controllers", "scheduler", "vnode"}},
	}
	for i, step := range steps {
		before := w.record()
		if step.definitions {
			w.must(w.env.ApplyDefinitions(t.Context(), step.to.Checkout))
		}
		if len(step.programs) > 0 {
			w.must(w.env.ApplyChart(t.Context(), step.to.Checkout))
			if step.first {
				w.must(w.env.ReplaceRunner(step.to))
			}
			for _, name := range step.programs {
				// The others are of the other version meanwhile.
				w.replace(name, step.to)
				w.proves(fmt.Sprintf("s%d-%s", i, name))
			}
			if !step.first {
				w.must(w.env.ReplaceRunner(step.to))
			}
		}
		w.proves(fmt.Sprintf("s%d", i))
		w.same(step.name, before)
		w.reach(i)
		w.tellToEnd(i)
		t.Logf("%s: %d jobs at the batch system, %d pods, %d containers started: all as before", step.name, before.count("batch "), before.count("pod "), before.count("mark "))
		if i < 2 { // begun by the present version, and by the previous one beside newer definitions
			w.begin(string(rune('b'+i)), max(2, jobs/20))
		}
	}
	w.finish()
	t.Logf("R14 on real Slurm: %d jobs through %d changes: 0 lost, 0 restarted", w.jobs, len(steps))
}

// newWorld starts the version on a Slurm, with accounts and a class of volumes.
func newWorld(t *testing.T, marks string, v environment.Version) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	top, err := os.MkdirTemp("", "isthmus-upgrade-")
	if err != nil {
		t.Fatal(err)
	}
	env, err := environment.Start(ctx, environment.Config{
		Dir: filepath.Join(top, "env"), Progress: t.Output(), Version: &v,
		Cluster: func(c *hpcv1alpha1.BatchCluster) {
			for _, ns := range []string{"fresh", "guest"} {
				c.Spec.Accounts = append(c.Spec.Accounts, hpcv1alpha1.Account{
					NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": ns}}, User: account.Alice,
				})
			}
			c.Spec.VolumeClasses = []hpcv1alpha1.VolumeClass{{StorageClassName: "hpc", Path: filepath.Join(marks, "claims", "{namespace}-{claim}")}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("logs are kept in %s", env.Dir)
			return
		}
		_ = os.RemoveAll(top) // only logs of a run that passed
	})
	return &world{T: t, env: env, marks: marks, starts: map[string]int{}}
}

// openMarks makes a directory where the jobs' user may write.
func openMarks(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; strings.HasPrefix(d, os.TempDir()) && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil { //nolint:gosec // the mapped user writes marks here
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "claims"), 0o777); err != nil { //nolint:gosec // likewise
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "claims"), 0o777); err != nil { //nolint:gosec // likewise
		t.Fatal(err)
	}
	return dir
}

// replace has another version's program go on.
func (w *world) replace(name string, v environment.Version) {
	w.Helper()
	w.must(w.env.Replace(name, v))
}

// proves runs a pod and a gang to their end, which takes all three programs.
func (w *world) proves(name string) {
	w.Helper()
	w.apply("fresh", pod(name, "Never", "echo fresh", "")+gang(name+"-gang", 2, "", "echo fresh"))
	w.eventually(4*time.Minute, "a new pod and a new gang run: "+name, func() (bool, string) {
		if dead := w.env.Dead(); len(dead) > 0 {
			w.Fatalf("%v ended:\n%s", dead, w.env.Log(dead[0], 20))
		}
		out := w.kubectl("get", "pod", name, "-n", "fresh", "-o", "jsonpath={.status.phase}") + " " +
			w.kubectl("get", "vcjob", name+"-gang", "-n", "fresh", "-o", "jsonpath={.status.state.phase}")
		return out == "Succeeded Completed", out + "; " + w.env.Log("scheduler", 3)
	})
	if out := w.kubectl("logs", name, "-n", "fresh"); out != "fresh\n" {
		w.Errorf("kubectl logs %s: %q", name, out)
	}
	w.kubectl("delete", "pod/"+name, "vcjob/"+name+"-gang", "-n", "fresh")
}

// same waits until all is as it was, since statuses take their time; what has gone
// wrong does not come back.
func (w *world) same(when string, before record) {
	w.Helper()
	var diff []string
	w.eventually(2*time.Minute, "all is as it was: "+when, func() (bool, string) {
		now := w.record()
		diff = diff[:0]
		for _, line := range before {
			if !slices.Contains(now, line) {
				diff = append(diff, "was "+line)
			}
		}
		for _, line := range now {
			if !slices.Contains(before, line) {
				diff = append(diff, "is  "+line)
			}
		}
		return len(diff) == 0, strings.Join(diff, "\n")
	})
}
