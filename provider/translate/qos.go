package translate

import (
	"fmt"
	"slices"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// qos is what the members ask for, "" when none asks. A pod only chooses among
// what its namespace's account may use, and one job has one QOS.
func (g *gang) qos(members []Member) string {
	const field = "metadata.annotations[" + wellknown.QOS + "]"
	asked := ""
	for _, m := range members {
		name, ok := m.Pod.Annotations[wellknown.QOS]
		if !ok {
			continue
		}
		p := g.pod(m)
		switch {
		case name != g.in.Account.QOS && !slices.Contains(g.in.Account.AllowedQOS, name):
			p.refuse(field, name, fmt.Sprintf("namespace %s may use %q; an administrator adds others to spec.accounts[%d].allowedQOS of BatchCluster %s",
				m.Pod.Namespace, g.in.Account.AllowedQOS, g.in.Account.Rule, g.in.Cluster.Name))
		case asked != "" && asked != name:
			p.refuse(field, name, fmt.Sprintf("another member of the gang asks for %q, and all are one batch job; ask for the same", asked))
		default:
			asked = name
		}
	}
	return asked
}
