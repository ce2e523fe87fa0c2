package backends_test

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/test/importrules"
)

func TestImports(t *testing.T) {
	rules := []importrules.Rule{
		{
			From: []string{"./backends"},
			Ban:  []string{"./provider", "./scheduler", "./controllers", "k8s.io"},
			Why:  "a batch system knows nothing of Kubernetes",
		},
		{
			From: []string{"./backends"}, Except: []string{"./backends/slurm", "./backends/slurmrest", "./backends/local", "./backends/fake", "./backends/transport", "./backends/backendtest"},
			Ban: []string{"os/exec", "net"}, Direct: true,
			Why: "the contract does no I/O",
		},
	}
	rules = append(rules, importrules.Rule{
		From: []string{"./backends/slurmjob"},
		Ban:  []string{"./backends/transport", "./backends/slurm", "./backends/slurmrest", "os", "os/exec", "net", "net/http", "context", "log"}, Direct: true,
		Why: "what Slurm is does not depend on how one speaks to it",
	})
	rules = append(rules, importrules.Rule{
		From: []string{"./backends/slurmhistory"},
		Ban:  []string{"./backends/transport", "./backends/slurm", "./backends/slurmrest", "os", "os/exec", "net", "net/http", "log"}, Direct: true,
		Why: "what to ask the accounting database does not depend on how one speaks to it",
	})
	siblings := []string{"slurm", "slurmrest", "pbs", "local", "fake"}
	for _, from := range siblings {
		for _, to := range siblings {
			if from != to {
				rules = append(rules, importrules.Rule{
					From: []string{"./backends/" + from}, Ban: []string{"./backends/" + to},
					Why: "batch systems are siblings: what two need belongs to the contract",
				})
			}
		}
	}
	importrules.Check(t, []string{"github.com/isthmus-hpc/isthmus/backends/..."}, rules)
}
