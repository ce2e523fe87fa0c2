package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// PBS behind a login node: jobs come, talk and end as ever, and programs are
// started in their pods from there, until the administrator switches that off.
func testPBSOverSSH(t *testing.T) {
	server, keyFile := loginNode(t)
	ns := namespace(t, account.Alice)
	before := kubectl(t, "get", "batchcluster", environment.ClusterName, "-o", "jsonpath={.spec.connection}")
	var old map[string]any
	if err := json.Unmarshal([]byte(before), &old); err != nil {
		t.Fatalf("%v in %s", err, before)
	}
	old["ssh"] = nil
	answers := func(v string) bool { return v != "" }
	t.Cleanup(func() { connect(t, old, answers) })
	connect(t, map[string]any{"type": "ssh", "ssh": map[string]any{
		"hosts": []string{server.Address}, "user": sshd.Dash, "become": "sudo", "keyFile": keyFile, "knownHosts": server.KnownHosts(),
	}}, answers)
	eventually(t, time.Minute, "the daemon has logged in", func() (bool, string) {
		log := server.Log()
		return strings.Contains(log, "Accepted publickey for "+sshd.Dash), log[max(0, len(log)-300):]
	})
	apply(t, ns, job{Name: "far", Replicas: 1, Script: "echo here; until [ -e go ]; do sleep 0.2; done"}.yaml())
	eventually(t, 2*time.Minute, "the container runs", func() (bool, string) {
		p := kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={.items[*].status.phase} {.items[*].status.containerStatuses[*].state}")
		return strings.HasPrefix(p, "Running") && strings.Contains(p, `"running"`), p
	})
	if out := kubectl(t, "exec", "-n", ns, "far-task-0", "--", "id", "-un"); strings.TrimSpace(out) != account.Alice {
		t.Errorf("exec runs as %q", out)
	}
	streams := func(value string) {
		t.Helper()
		kubectl(t, "patch", "batchcluster", environment.ClusterName, "--type=merge", "-p", `{"spec":{"streams":`+value+`}}`)
	}
	served := func(want string) {
		t.Helper()
		eventually(t, time.Minute, "the nodes' annotation is "+want, func() (bool, string) {
			out := kubectl(t, "get", "nodes", "-l", "isthmus.sh/virtual-node", "-o", `jsonpath={range .items[*]}{.metadata.annotations.isthmus\.sh/streams} {end}`)
			return strings.TrimSpace(out) == want+" "+want, out
		})
	}
	streams(`"off"`)
	served("NotServed")
	out, err := here(t).KubectlCommand(t.Context(), "exec", "-n", ns, "far-task-0", "--", "id").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "spec.streams of BatchCluster "+environment.ClusterName+" is off") {
		t.Errorf("with streams off exec says %v, %s", err, out)
	}
	streams("null")
	served("Served")
	eventually(t, time.Minute, "the pod is reached again", func() (bool, string) { // once the daemon has looked at it anew
		out, err := here(t).KubectlCommand(t.Context(), "exec", "-n", ns, "far-task-0", "--", "touch", "go").CombinedOutput()
		return err == nil, string(out)
	})
	phase(t, ns, "far", "Completed", 2*time.Minute)
	if got := kubectl(t, "logs", "-n", ns, "far-task-0"); got != "here\n" {
		t.Errorf("log %q", got)
	}
}
