package e2e

import (
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

// connect changes the BatchCluster's connection, as an administrator would, and
// waits until the daemon speaks it.
func connect(t *testing.T, connection map[string]any, version func(string) bool) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"connection": connection}})
	if err != nil {
		t.Fatal(err)
	}
	// The test's own context has ended when the old connection is put back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"patch", "batchcluster", environment.ClusterName, "--type=merge", "-p", string(patch)},
		{"wait", "batchcluster", environment.ClusterName, "--for=condition=Reachable", "--timeout=60s"},
	} {
		if out, err := here(t).KubectlCommand(ctx, args...).CombinedOutput(); err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	for last := ""; ; <-time.After(200 * time.Millisecond) {
		out, err := here(t).KubectlCommand(ctx, "get", "batchcluster", environment.ClusterName, "-o", "jsonpath={.status.version}").Output()
		if err == nil && version(string(out)) {
			return
		}
		if last = string(out); ctx.Err() != nil {
			t.Fatalf("the version of Slurm reads %q, %v", last, err)
		}
	}
}

// markDir makes a directory in which each start of a member leaves a file.
func markDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != filepath.Dir(d) && strings.HasPrefix(d, os.TempDir()) && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil { //nolint:gosec // the mapped users write their marks here
			t.Fatal(err)
		}
	}
	return dir
}

// once fails unless each member of a Job was started exactly once.
func once(t *testing.T, marks, name string, members int) {
	t.Helper()
	for i := range members {
		files, err := filepath.Glob(filepath.Join(marks, fmt.Sprintf("%s.%d.*", name, i)))
		if err != nil || len(files) != 1 {
			t.Errorf("member %d of %s was started %d times (%v)", i, name, len(files), err)
		}
	}
}

// A site changes from Slurm's commands to slurmrestd while a Job runs, uses it,
// loses it for a while, and changes back: every Job runs once and no pod fails.
func TestSlurmREST(t *testing.T) {
	slurm := here(t).Slurm()
	if slurm == nil {
		t.Skip("SKIP: this machine runs the local batch system, which has no REST API")
	}
	ns := namespace(t, account.Alice)
	marks := markDir(t)
	gang := func(name string, seconds int) {
		t.Helper()
		apply(t, ns, job{Name: name, Replicas: 2, Spec: "  plugins: {env: []}",
			Script: fmt.Sprintf("mktemp %s/%s.$VC_TASK_INDEX.XXXXXX >/dev/null && sleep %d", marks, name, seconds)}.yaml())
	}
	before := kubectl(t, "get", "batchcluster", environment.ClusterName, "-o", "jsonpath={.spec.connection}")
	var old map[string]any
	if err := json.Unmarshal([]byte(before), &old); err != nil {
		t.Fatalf("%v in %s", err, before)
	}
	gang("across", 25)
	phase(t, ns, "across", "Running", time.Minute)

	old["rest"] = nil
	t.Cleanup(func() { connect(t, old, func(v string) bool { return v != "" && !strings.Contains(v, "REST") }) })
	connect(t, map[string]any{"type": "rest", "env": nil, "rest": map[string]any{
		"url": slurm.RESTSocket(), "jwtKeyFile": slurm.TokenKeyFile(), "tokenLifetime": "10m",
	}}, func(v string) bool { return strings.HasSuffix(v, "(REST v0.0.38)") })
	phase(t, ns, "across", "Completed", 2*time.Minute)
	once(t, marks, "across", 2)

	kubectl(t, "apply", "-n", ns, "-f", example(t, "allreduce.yaml"))
	phase(t, ns, "allreduce", "Completed", 3*time.Minute)
	for _, member := range []string{"allreduce-master-0", "allreduce-worker-0", "allreduce-worker-1", "allreduce-worker-2"} {
		if log := kubectl(t, "logs", "-n", ns, member); !strings.Contains(log, "of 4") || !strings.Contains(log, "OK") {
			t.Errorf("log of %s is %q", member, log)
		}
	}

	gang("through", 20)
	phase(t, ns, "through", "Running", time.Minute)
	if err := slurm.KillREST(); err != nil {
		t.Fatal(err)
	}
	reachable := func(want string) {
		t.Helper()
		eventually(t, time.Minute, "BatchSystemReachable is "+want, func() (bool, string) {
			out := kubectl(t, "get", "nodes", "-l", "isthmus.sh/virtual-node", "-o",
				`jsonpath={range .items[*]}{.status.conditions[?(@.type=="BatchSystemReachable")].status} {end}`)
			for word := range strings.FieldsSeq(out) {
				if word != want {
					return false, out
				}
			}
			return out != "", out
		})
	}
	reachable("False")
	gang("during", 1)
	if err := slurm.StartREST(t.Context()); err != nil {
		t.Fatal(err)
	}
	reachable("True")
	for _, name := range []string{"through", "during"} {
		phase(t, ns, name, "Completed", 2*time.Minute)
		once(t, marks, name, 2)
	}
	if failed := kubectl(t, "get", "pods", "-n", ns, "--field-selector=status.phase=Failed", "-o", "name"); failed != "" {
		t.Errorf("failed pods: %s", failed)
	}
}
