package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// kubectl runs it as a user would and returns what it prints on stdout.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryKubectl(t, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func tryKubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := here(t).KubectlCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w\n%s", err, stderr.String())
	}
	return stdout.String(), nil
}

// namespace makes one whose jobs run as user, removed with all it holds.
func namespace(t *testing.T, user string) string {
	t.Helper()
	name := "t-" + strings.ToLower(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name()))
	if len(name) > 50 {
		name = name[:50]
	}
	name = strings.Trim(name, "-")
	kubectl(t, "create", "namespace", name)
	if user != "" {
		kubectl(t, "label", "namespace", name, "test-user="+user)
	}
	t.Cleanup(func() {
		if t.Failed() {
			report(t, name)
		}
		// The test's own context has ended; a namespace that hangs fails the
		// last test, which finds its pods.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if out, err := here(t).KubectlCommand(ctx, "delete", "namespace", name, "--wait=true", "--timeout=50s").CombinedOutput(); err != nil {
			t.Errorf("delete namespace %s: %v\n%s", name, err, out)
		}
	})
	return name
}

// report shows what a person would look at first.
func report(t *testing.T, ns string) {
	for _, args := range [][]string{
		{"get", "vcjob,podgroup,pods", "-n", ns, "-o", "wide"},
		{"get", "events", "-n", ns, "--sort-by=.lastTimestamp"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		out, _ := here(t).KubectlCommand(ctx, args...).CombinedOutput()
		cancel()
		t.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
	}
}

// apply gives kubectl a manifest.
func apply(t *testing.T, ns, yaml string, flags ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, append([]string{"apply", "-n", ns, "-f", file}, flags...)...)
}

// job is a Volcano Job of equal members that run a shell line.
type job struct {
	Name     string
	Replicas int
	CPU      string
	GPUs     int
	Script   string
	Extra    string // lines of the container, 10 spaces deep
	Pod      string // lines of the pod's spec, 8 spaces deep
	Spec     string // lines of the Job's spec, 2 spaces deep
}

func (j job) yaml() string {
	if j.CPU == "" {
		j.CPU = "1"
	}
	script, err := json.Marshal(j.Script) // a JSON string is a YAML string
	if err != nil {
		panic(err)
	}
	gpus := ""
	if j.GPUs > 0 {
		gpus = fmt.Sprintf(", nvidia.com/gpu: %d", j.GPUs)
	}
	return fmt.Sprintf(`
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
metadata:
  name: %s
spec:
  minAvailable: %d
  schedulerName: volcano
%s
  tasks:
  - name: task
    replicas: %d
    template:
      spec:
        restartPolicy: Never
        terminationGracePeriodSeconds: 3
%s
        containers:
        - name: main
          image: none
          command: ["/bin/sh", "-c", %s]
          resources:
            requests: {cpu: %q, memory: 64Mi%s}
            limits: {cpu: %q, memory: 64Mi%s}
%s
`, j.Name, j.Replicas, j.Spec, j.Replicas, j.Pod, script, j.CPU, gpus, j.CPU, gpus, j.Extra)
}

// eventually looks until look is content and tells what it saw last.
func eventually(t *testing.T, limit time.Duration, what string, look func() (ok bool, saw string)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		ok, saw := look()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s; last seen: %s", limit, what, saw)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, t.Context().Err())
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// phase waits for a Job's phase.
func phase(t *testing.T, ns, name, want string, limit time.Duration) {
	t.Helper()
	eventually(t, limit, "Job "+name+" is "+want, func() (bool, string) {
		got := kubectl(t, "get", "vcjob", name, "-n", ns, "-o", "jsonpath={.status.state.phase}")
		if got != want && (got == "Completed" || got == "Failed" || got == "Aborted" || got == "Terminated") {
			t.Fatalf("Job %s is %s, want %s", name, got, want)
		}
		return got == want, got
	})
}

// batchJobs lists our jobs at the batch system, by its own commands.
func batchJobs(t *testing.T) []environment.BatchJob {
	t.Helper()
	jobs, err := here(t).BatchJobs(t.Context())
	if err != nil {
		t.Fatalf("list batch jobs: %v", err)
	}
	return jobs
}

// live are those that have not ended.
func live(jobs []environment.BatchJob) []environment.BatchJob {
	var out []environment.BatchJob
	for _, j := range jobs {
		switch j.State {
		case "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "F", "C":
		default:
			out = append(out, j)
		}
	}
	return out
}

// staged lists what lies in the staging area, of all users.
func staged(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, user := range []string{account.Alice, account.Bob, here(t).User} {
		dirs, err := filepath.Glob(filepath.Join(here(t).Staging, user, "g", "*"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, dirs...)
	}
	return out
}
