package translate

import (
	"fmt"
	"slices"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// choice is what pods may choose, by an annotation, among what the mapping of their
// namespace allows.
type choice struct {
	key     string // of the annotation
	own     string // that they get without it
	allowed []string
	list    string // in the mapping
}

func (g *gang) qosChoice() choice {
	return choice{wellknown.QOS, g.in.Account.QOS, g.in.Account.AllowedQOS, "allowedQOS"}
}

func (g *gang) accountChoice() choice {
	return choice{wellknown.Account, g.in.Account.Account, g.in.Account.AllowedAccounts, "allowedAccounts"}
}

// chosen is what the members ask for, "" when none asks. A pod only chooses among
// what its namespace may use, and one job has one of each.
func (g *gang) chosen(members []Member, c choice) string {
	field := "metadata.annotations[" + c.key + "]"
	asked := ""
	for _, m := range members {
		name, ok := m.Pod.Annotations[c.key]
		if !ok {
			continue
		}
		p := g.pod(m)
		switch {
		case name != c.own && !slices.Contains(c.allowed, name):
			p.refuse(field, name, fmt.Sprintf("namespace %s may use %q; an administrator adds others to spec.accounts[%d].%s of BatchCluster %s",
				m.Pod.Namespace, c.allowed, g.in.Account.Rule, c.list, g.in.Cluster.Name))
		case asked != "" && asked != name:
			p.refuse(field, name, fmt.Sprintf("another member of the gang asks for %q, and all are one batch job; ask for the same", asked))
		default:
			asked = name
		}
	}
	return asked
}
