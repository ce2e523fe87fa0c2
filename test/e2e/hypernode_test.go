package e2e

import (
	"strings"
	"testing"
	"time"
)

// HyperNodes are made from labels of nodes, change with them and go with them.
func TestHyperNodeDiscovery(t *testing.T) {
	node := here(t).Nodes[0]
	t.Cleanup(func() { kubectlAfter(t, "label", "node", node, "e2e.isthmus.sh/rack-", "e2e.isthmus.sh/row-") })
	see := func(want string) {
		t.Helper()
		eventually(t, time.Minute, "the HyperNodes are "+want, func() (bool, string) {
			out := kubectl(t, "get", "hypernodes", "-l", "volcano.sh/network-topology-source=label", "-o",
				`jsonpath={range .items[*]}{.spec.tier}:{.spec.tierName}:{.spec.members[*].selector.labelMatch.matchLabels}:{.status.nodeCount} {end}`)
			return strings.TrimSpace(out) == want, out
		})
	}
	kubectl(t, "label", "node", node, "e2e.isthmus.sh/rack=r1", "e2e.isthmus.sh/row=w")
	see(`1:e2e.isthmus.sh/rack:{"e2e.isthmus.sh/rack":"r1","e2e.isthmus.sh/row":"w"}:1 2:e2e.isthmus.sh/row::1`)
	kubectl(t, "label", "node", node, "e2e.isthmus.sh/rack=r2", "--overwrite")
	see(`1:e2e.isthmus.sh/rack:{"e2e.isthmus.sh/rack":"r2","e2e.isthmus.sh/row":"w"}:1 2:e2e.isthmus.sh/row::1`)
	kubectl(t, "label", "node", node, "e2e.isthmus.sh/rack-", "e2e.isthmus.sh/row-")
	see("")
}
