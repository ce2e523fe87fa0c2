package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// kubectl top answers for virtual nodes and their pods by metrics-server itself,
// unchanged: it finds each node's own path at the one address of the daemon.
func TestTop(t *testing.T) {
	stop, err := here(t).StartMetricsServer(t.Context())
	if stop != nil {
		t.Cleanup(func() {
			if err := stop(context.WithoutCancel(t.Context())); err != nil {
				t.Errorf("stop metrics-server: %v", err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	ns := namespace(t, account.Alice)
	apply(t, ns, `
apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  schedulerName: volcano
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: none, command: [/bin/sh, -c, "x=$(head -c 30000000 /dev/zero | tr '\\0' x); while :; do :; done"], resources: {requests: {cpu: "1", memory: 128Mi}, limits: {memory: 256Mi}}}
  - {name: idle, image: none, command: [/bin/sh, -c, "sleep 600"], resources: {requests: {cpu: "1", memory: 64Mi}}}
`)
	running(t, ns, "busy")
	node := kubectl(t, "-n", ns, "get", "pod", "busy", "-o", "jsonpath={.spec.nodeName}")
	used := func(words []string) (cpu, memory int) {
		_, _ = fmt.Sscanf(words[0], "%dm", &cpu)
		_, _ = fmt.Sscanf(words[1], "%dMi", &memory)
		return cpu, memory
	}
	eventually(t, 3*time.Minute, "kubectl top pod tells what the containers use", func() (bool, string) {
		out, err := tryKubectl(t, "-n", ns, "top", "pod", "busy", "--containers", "--no-headers")
		got := map[string][2]int{}
		for line := range strings.Lines(out) {
			if w := strings.Fields(line); len(w) == 4 && w[0] == "busy" {
				cpu, memory := used(w[2:])
				got[w[1]] = [2]int{cpu, memory}
			}
		}
		busy, idle := got["main"], got["idle"]
		return err == nil && len(got) == 2 && busy[0] > 20 && busy[1] >= 20 && idle[0] < busy[0], fmt.Sprintf("%s %v", out, err)
	})
	eventually(t, 2*time.Minute, "kubectl top node tells what the node's jobs use", func() (bool, string) {
		out, err := tryKubectl(t, "top", "node", "--no-headers")
		seen := 0
		for line := range strings.Lines(out) {
			if w := strings.Fields(line); len(w) == 5 && w[0] == node {
				cpu, memory := used([]string{w[1], w[3]})
				if cpu > 20 && memory >= 20 {
					seen++
				}
			}
		}
		return err == nil && seen == 1, fmt.Sprintf("%s %v", out, err)
	})
	kubectl(t, "-n", ns, "delete", "pod", "busy", "--wait=false")
}
