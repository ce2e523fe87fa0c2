package frameworks

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
	"github.com/isthmus-hpc/isthmus/test/testbed/venv"
)

// patience is how long a job may take on a busy machine.
const patience = 15 * time.Minute

// root is the checkout's.
func root(t *testing.T) string {
	t.Helper()
	dir, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// python installs the requirements of the name.
func python(t *testing.T, name string) {
	t.Helper()
	if _, err := venv.Ensure(t.Context(), t.Output(), name, filepath.Join(root(t), "test", "frameworks", "requirements", name+".txt")); err != nil {
		t.Fatal(err)
	}
}

// packages installs Debian's.
func packages(t *testing.T, s debian.Software) {
	t.Helper()
	if err := s.Ensure(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
}

// example applies an example. Those name software under /opt, where sites have
// it, and a home directory; here they are elsewhere. More pairs of texts say what
// else to replace.
func example(t *testing.T, ns, name string, more ...string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root(t), "test", "examples", "frameworks", name))
	if err != nil {
		t.Fatal(err)
	}
	pairs := append([]string{"/opt/software/", venv.Dir + "/", "/home/you/", account.CarolsHome + "/"}, more...)
	apply(t, ns, strings.NewReplacer(pairs...).Replace(string(raw)))
}

// computed waits until the Job has ended well, and checks what its pods said:
// wants maps the name of a pod to a line of its log.
func computed(t *testing.T, ns, name string, wants map[string]string) {
	t.Helper()
	phase(t, ns, name, "Completed", patience)
	for pod, want := range wants {
		log := kubectl(t, "logs", "-n", ns, pod)
		if !strings.Contains(log, want) {
			t.Errorf("log of %s has no %q:\n%s", pod, want, log)
			continue
		}
		for line := range strings.Lines(log) {
			if strings.Contains(line, want) {
				t.Logf("%s: %s", pod, strings.TrimSpace(line))
			}
		}
	}
}

// kubectl runs it as a user would and returns what it prints on stdout.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // large definitions on a busy machine
	defer cancel()
	cmd := env.KubectlCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

// namespace makes one whose jobs run as Carol, removed with all it holds.
func namespace(t *testing.T, name string) string {
	t.Helper()
	kubectl(t, "create", "namespace", name)
	kubectl(t, "label", "namespace", name, "test-user="+account.Carol)
	t.Cleanup(func() {
		if t.Failed() {
			report(t, name)
		}
		// The test's own context has ended.
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if out, err := env.KubectlCommand(ctx, "delete", "namespace", name, "--wait=true", "--timeout=170s").CombinedOutput(); err != nil {
			t.Errorf("delete namespace %s: %v\n%s", name, err, out)
		}
	})
	return name
}

// report shows what a person would look at first.
func report(t *testing.T, ns string) {
	look := func(args ...string) string {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		out, _ := env.KubectlCommand(ctx, args...).CombinedOutput()
		return string(out)
	}
	t.Logf("%s", look("get", "vcjob,podgroup,pods", "-n", ns, "-o", "wide"))
	t.Logf("%s", look("get", "events", "-n", ns, "--sort-by=.lastTimestamp"))
	for pod := range strings.FieldsSeq(look("get", "pods", "-n", ns, "-o", "name")) {
		t.Logf("log of %s:\n%s", pod, look("logs", "-n", ns, pod, "--all-containers", "--tail=60"))
	}
}

// apply gives kubectl a manifest.
func apply(t *testing.T, ns, yaml string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-n", ns, "-f", file)
}

// eventually looks until look is content and tells what it saw last.
func eventually(t *testing.T, limit time.Duration, what string, look func() (ok bool, saw string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		ok, saw := look()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s; last seen: %s", limit, what, saw)
		case <-tick.C:
		}
	}
}

// phase waits for a Job's phase.
func phase(t *testing.T, ns, name, want string, limit time.Duration) {
	t.Helper()
	eventually(t, limit, "Job "+name+" is "+want, func() (bool, string) {
		got := kubectl(t, "get", "vcjob", name, "-n", ns, "-o", "jsonpath={.status.state.phase}")
		switch got {
		case want:
			return true, got
		case "Completed", "Failed", "Aborted", "Terminated":
			t.Fatalf("Job %s is %s, want %s", name, got, want)
		}
		return false, fmt.Sprintf("%s, pods %s", got, kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={range .items[*]}{.metadata.name}={.status.phase} {end}"))
	})
}
