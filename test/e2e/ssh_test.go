package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd/sshdtest"
)

// loginNode starts an sshd with a banner and gives the file of a key that it takes.
func loginNode(t *testing.T) (server *sshd.Server, keyFile string) {
	t.Helper()
	server = sshdtest.Start(t)
	keyFile = filepath.Join(t.TempDir(), "id")
	authorize(t, server, keyFile)
	return server, keyFile
}

// authorize gives the login node a new key, the only one that it takes from then on.
func authorize(t *testing.T, server *sshd.Server, keyFile string) {
	t.Helper()
	key, err := sshd.NewKey(sshd.ED25519)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(server.Authorize(sshd.Dash, key.Public()), os.WriteFile(keyFile+".new", key.PEM, 0o600), os.Rename(keyFile+".new", keyFile)); err != nil {
		t.Fatal(err)
	}
}

// overSSH gives two changes of the BatchCluster: over reaches the site through the
// login node from then on, and back changes that back, as the end of the test does.
func overSSH(t *testing.T, server *sshd.Server, keyFile string) (over, back func()) {
	t.Helper()
	before := kubectl(t, "get", "batchcluster", environment.ClusterName, "-o", "jsonpath={.spec.connection}")
	var old map[string]any
	if err := json.Unmarshal([]byte(before), &old); err != nil {
		t.Fatalf("%v in %s", err, before)
	}
	old["ssh"] = nil
	answers := func(v string) bool { return v != "" }
	there := false
	back = func() {
		if there {
			connect(t, old, answers)
			there = false
		}
	}
	t.Cleanup(back)
	over = func() {
		t.Helper()
		there = true
		seen := len(server.Log())
		connect(t, map[string]any{"type": "ssh", "ssh": map[string]any{
			"hosts": []string{server.Address}, "user": sshd.Dash, "become": "sudo", "keyFile": keyFile, "knownHosts": server.KnownHosts(),
		}}, answers)
		eventually(t, time.Minute, "the daemon has logged in", func() (bool, string) {
			log := server.Log()[seen:]
			return strings.Contains(log, "Accepted publickey for "+sshd.Dash), log[max(0, len(log)-300):]
		})
	}
	return over, back
}

// A site is reached by SSH only. A Job that runs while that begins goes on; Jobs
// come, talk and end as ever; connections are cut again and again in the middle of
// submissions, and every Job still runs once; credentials are refused for a while,
// which is told and ends no Job.
func TestSlurmOverSSH(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: this machine runs the local batch system, which is on this host")
	}
	server, keyFile := loginNode(t)
	over, _ := overSSH(t, server, keyFile)
	newKey := func() {
		t.Helper()
		authorize(t, server, keyFile)
	}
	ns := namespace(t, account.Alice)
	marks := markDir(t)
	gang := func(name string, seconds int) {
		t.Helper()
		apply(t, ns, job{Name: name, Replicas: 2, Spec: "  plugins: {env: []}",
			Script: fmt.Sprintf("mktemp %s/%s.$VC_TASK_INDEX.XXXXXX >/dev/null && sleep %d", marks, name, seconds)}.yaml())
	}
	gang("across", 20)
	phase(t, ns, "across", "Running", time.Minute)

	over()
	phase(t, ns, "across", "Completed", 2*time.Minute)
	once(t, marks, "across", 2)

	kubectl(t, "apply", "-n", ns, "-f", example(t, "allreduce.yaml"))
	phase(t, ns, "allreduce", "Completed", 3*time.Minute)
	if log := kubectl(t, "logs", "-n", ns, "allreduce-master-0"); !strings.Contains(log, "of 4") || !strings.Contains(log, "OK") {
		t.Errorf("log of the master is %q", log)
	}
	apply(t, ns, job{Name: "talk", Replicas: 1, Script: `for i in 1 2 3 4 5 6; do echo line $i; sleep 1; done`}.yaml())
	eventually(t, time.Minute, "the container runs", func() (bool, string) {
		p := kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name=talk", "-o", "jsonpath={.items[*].status.phase}")
		return p == "Running", p
	})
	if out := kubectl(t, "exec", "-n", ns, "talk-task-0", "--", "id", "-un"); strings.TrimSpace(out) != account.Alice {
		t.Errorf("exec runs as %q", out)
	}
	if followed := kubectl(t, "logs", "-f", "-n", ns, "talk-task-0"); strings.Count(followed, "line ") != 6 {
		t.Errorf("logs -f gave %q", followed)
	}

	t.Run("streams", func(t *testing.T) { runStreams(t, "terminal", "cp", "attach", "port-forward", "top") })
	missing := kubectl(t, "get", "batchcluster", environment.ClusterName, "-o", "jsonpath={.status.nodes[0].missing}")
	limited := kubectl(t, "get", "nodes", "-l", "isthmus.sh/virtual-node", "-o", `jsonpath={.items[0].status.conditions[?(@.type=="Limited")].status}`)
	if want := map[bool]string{true: "True", false: "False"}[strings.Contains(missing, `"`)]; limited != want {
		t.Errorf("%q is missing and the node's condition Limited is %q", missing, limited)
	}

	t.Run("cut", func(t *testing.T) {
		const jobs = 8
		for i := range jobs {
			gang(fmt.Sprintf("cut%d", i), 1)
			server.Cut()
		}
		cuts := jobs
		for end := time.Now().Add(8 * time.Second); time.Now().Before(end); <-time.After(150 * time.Millisecond) {
			if len(server.Connections()) > 0 {
				server.Cut()
				cuts++
			}
		}
		for i := range jobs {
			name := fmt.Sprintf("cut%d", i)
			phase(t, ns, name, "Completed", 3*time.Minute)
			once(t, marks, name, 2)
		}
		t.Logf("%d Jobs ran once each through %d cuts", jobs, cuts)
	})

	t.Run("refused", func(t *testing.T) {
		gang("kept", 15)
		phase(t, ns, "kept", "Running", time.Minute)
		if err := server.Authorize(sshd.Dash); err != nil {
			t.Fatal(err)
		}
		server.Cut()
		condition := func(want string) {
			t.Helper()
			eventually(t, time.Minute, "CredentialsValid is "+want, func() (bool, string) {
				out := kubectl(t, "get", "batchcluster", environment.ClusterName, "-o",
					`jsonpath={.status.conditions[?(@.type=="CredentialsValid")].status} {.status.conditions[?(@.type=="CredentialsValid")].message}`)
				return strings.HasPrefix(out, want+" "), out
			})
		}
		condition("False")
		newKey() // as an administrator mends it
		condition("True")
		phase(t, ns, "kept", "Completed", 2*time.Minute)
		once(t, marks, "kept", 2)
	})
	if failed := kubectl(t, "get", "pods", "-n", ns, "--field-selector=status.phase=Failed", "-o", "name"); failed != "" {
		t.Errorf("failed pods: %s", failed)
	}
}
