package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// TestDaemonSetsStayAway: Kubernetes' own controller makes no pod on virtual nodes for
// a DaemonSet that tolerates everything, and would for one that is left alone.
func TestDaemonSetsStayAway(t *testing.T) {
	ns := namespace(t, account.Alice)
	for name, annotations := range map[string]string{"usual": "{}", "alone": `{isthmus.sh/leave-affinity: "true"}`} {
		apply(t, ns, `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: `+name+`, annotations: `+annotations+`}
spec:
  selector: {matchLabels: {of: `+name+`}}
  template:
    metadata: {labels: {of: `+name+`}}
    spec:
      schedulerName: nobody
      tolerations: [{operator: Exists}]
      containers: [{name: main, image: none}]
`)
	}
	wanted := func(name string, right func(string) bool) {
		t.Helper()
		eventually(t, 2*time.Minute, "the controller has counted the nodes of DaemonSet "+name, func() (bool, string) {
			out, err := tryKubectl(t, "get", "daemonset", name, "-n", ns, "-o", "jsonpath={.status.observedGeneration} {.status.desiredNumberScheduled}")
			seen, nodes, _ := strings.Cut(out, " ")
			return err == nil && seen == "1" && right(nodes), fmt.Sprint(out, err)
		})
	}
	wanted("alone", func(nodes string) bool { return nodes != "0" && nodes != "" })
	wanted("usual", func(nodes string) bool { return nodes == "0" })
	if pods := kubectl(t, "get", "pods", "-n", ns, "-l", "of=usual", "-o", "name"); pods != "" {
		t.Errorf("there are pods: %s", pods)
	}
	kubectl(t, "delete", "daemonset", "--all", "-n", ns)
}
