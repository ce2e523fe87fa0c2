package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/vcctl"
)

// tools are Volcano's own programs, unmodified.
type tools struct{ dir string }

func volcanoTools(t *testing.T) tools {
	t.Helper()
	dir, err := vcctl.EnsureBuilt(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return tools{dir}
}

func (v tools) try(t *testing.T, line ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(v.dir, line[0]), line[1:]...) //nolint:gosec // a program of the testbed
	cmd.Env = []string{"KUBECONFIG=" + here(t).Kubeconfig, "HOME=" + t.TempDir(), "PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w", strings.Join(line, " "), err)
	}
	return string(out), nil
}

// run runs a line of words; it must succeed and print all of want.
func (v tools) run(t *testing.T, line string, want ...string) string {
	t.Helper()
	out, err := v.try(t, strings.Fields(line)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%s printed\n%s\nwithout %q", line, out, w)
		}
	}
	return out
}

// until runs a line until it prints want.
func (v tools) until(t *testing.T, line, want string) {
	t.Helper()
	eventually(t, 2*time.Minute, line+" prints "+want, func() (bool, string) {
		out, err := v.try(t, strings.Fields(line)...)
		return err == nil && strings.Contains(out, want), fmt.Sprint(out, err)
	})
}

// Every command of Volcano's vcctl and its Slurm-like siblings works on our
// controllers: section 2.13 of the reference, line by line.
func TestVcctl(t *testing.T) {
	v := volcanoTools(t)
	v.run(t, "vcctl version", "API Version")
	t.Run("job", func(t *testing.T) {
		ns := namespace(t, account.Alice)
		file := filepath.Join(t.TempDir(), "job.yaml")
		writeFile(t, file, strings.Replace(job{Name: "filed", Replicas: 2, Script: "exec sleep 300"}.yaml(), "name: filed", "name: filed\n  namespace: "+ns, 1))
		v.run(t, "vcctl job run -n "+ns+" -f "+file, "run job filed successfully")
		v.run(t, "vcctl job run -n "+ns+" -N flagged -i none -m 1 -r 2 -R cpu=100m,memory=10Mi -L cpu=100m,memory=10Mi -S volcano", "run job flagged successfully")
		v.until(t, "vcctl job list -n "+ns+" --selector filed", "Running")
		v.run(t, "vcctl job list --all-namespaces -q default -S volcano", "filed", "flagged")
		v.run(t, "vcctl job view -n "+ns+" -N filed", "Name:", "filed", "Min Available:")
		v.run(t, "vcctl pod list -n "+ns+" -j filed", "filed-task-0", "filed-task-1")
		v.run(t, "vcctl pod list --all-namespaces -q default", "filed-task-0")
		v.run(t, "vcctl job suspend -n "+ns+" -N filed")
		v.until(t, "vcctl job list -n "+ns+" --selector filed", "Aborted")
		v.run(t, "vcctl job resume -n "+ns+" -N filed")
		v.until(t, "vcctl job list -n "+ns+" --selector filed", "Running")
		v.run(t, "vcctl job delete -n "+ns+" -N filed", "delete job filed successfully")
		v.run(t, "vcctl job delete -n "+ns+" -N flagged")
	})
	t.Run("queue", func(t *testing.T) {
		t.Cleanup(func() { kubectlAfter(t, "delete", "queue", "e2e-vcctl", "--ignore-not-found") })
		v.run(t, "vcctl queue create -n e2e-vcctl -w 3 -S Open")
		v.until(t, "vcctl queue get -n e2e-vcctl", "Open")
		v.run(t, "vcctl queue list", "e2e-vcctl", "default", "root")
		v.run(t, "vcctl queue operate -n e2e-vcctl -a update -w 7")
		v.until(t, "vcctl queue get -n e2e-vcctl", "7")
		v.run(t, "vcctl queue operate -n e2e-vcctl -a close")
		v.until(t, "vcctl queue get -n e2e-vcctl", "Closed")
		v.run(t, "vcctl queue operate -n e2e-vcctl -a open")
		v.until(t, "vcctl queue get -n e2e-vcctl", "Open")
		v.run(t, "vqueues -n e2e-vcctl", "e2e-vcctl", "Open")
		v.run(t, "vqueues", "e2e-vcctl", "default")
		v.run(t, "vcctl queue delete -n e2e-vcctl")
		if out, err := v.try(t, "vcctl", "queue", "delete", "-n", "default"); err == nil {
			t.Errorf("queue default is deleted: %s", out)
		}
	})
	t.Run("flow", func(t *testing.T) {
		ns := namespace(t, account.Alice)
		templates, flow := filepath.Join(t.TempDir(), "templates.yaml"), filepath.Join(t.TempDir(), "flow.yaml")
		writeFile(t, templates, "apiVersion: flow.volcano.sh/v1alpha1\nkind: JobTemplate\nmetadata: {name: one, namespace: "+ns+"}\nspec:\n"+specOf(job{Name: "x", Replicas: 1, Script: "true"}.yaml()))
		writeFile(t, flow, "apiVersion: flow.volcano.sh/v1alpha1\nkind: JobFlow\nmetadata: {name: river, namespace: "+ns+"}\nspec:\n  jobRetainPolicy: retain\n  flows:\n  - name: one\n")
		v.run(t, "vcctl jobtemplate create -f "+templates, "Created JobTemplate: "+ns+"/one")
		v.run(t, "vcctl jobtemplate list -n "+ns, "one")
		v.run(t, "vcctl jobtemplate get -n "+ns+" -N one", "one")
		v.run(t, "vcctl jobtemplate describe -n "+ns+" -N one -o yaml", "name: one")
		v.run(t, "vcctl jobflow create -f "+flow, "Created JobFlow: "+ns+"/river")
		v.until(t, "vcctl jobflow get -n "+ns+" -N river", "Succeed")
		v.run(t, "vcctl jobflow list --all-namespaces", "river")
		v.run(t, "vcctl jobflow describe -n "+ns+" -N river -o yaml", "name: river")
		v.run(t, "vcctl jobflow delete -n "+ns+" -N river")
		v.run(t, "vcctl jobtemplate delete -n "+ns+" -f "+templates)
	})
	t.Run("as on Slurm", func(t *testing.T) {
		ns := namespace(t, account.Alice)
		out, err := v.try(t, "vsub", "-N", ns, "-n", "hello", "-i", "none", "-c", "echo hello from vsub")
		if err != nil {
			t.Fatal(err, out)
		}
		phase(t, ns, "hello", "Completed", 2*time.Minute)
		if got := kubectl(t, "logs", "-n", ns, "hello-default0-0"); got != "hello from vsub\n" {
			t.Errorf("it printed %q", got)
		}
		if out, err := v.try(t, "vsub", "-N", ns, "-n", "sleeps", "-i", "none", "-c", "sleep 300"); err != nil {
			t.Fatal(err, out)
		}
		v.until(t, "vjobs -N "+ns, "Running")
		v.run(t, "vjobs -N "+ns+" -n sleeps", "sleeps")
		v.run(t, "vsuspend -N "+ns+" -n sleeps")
		v.until(t, "vjobs -N "+ns, "Aborted")
		v.run(t, "vresume -N "+ns+" -n sleeps")
		v.until(t, "vjobs -N "+ns, "Running")
		v.run(t, "vcancel -N "+ns+" -n sleeps")
		eventually(t, time.Minute, "the job is gone", func() (bool, string) {
			out := kubectl(t, "get", "vcjob", "sleeps", "-n", ns, "--ignore-not-found", "-o", "name")
			return out == "", out
		})
	})
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
