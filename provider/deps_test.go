package provider_test

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/test/importrules"
)

func TestImports(t *testing.T) {
	importrules.Check(t, []string{"github.com/isthmus-hpc/isthmus/provider/...", "github.com/isthmus-hpc/isthmus/cmd/podrun"}, []importrules.Rule{
		{
			From: []string{"./provider", "./cmd/podrun"},
			Ban:  []string{"./scheduler", "./controllers"}, Allow: []string{"./controllers/api"},
			Why: "provider and scheduler meet only in API objects and in controllers/api",
		},
		{
			From: []string{"./provider"},
			Ban:  []string{"./backends/slurm", "./backends/slurmrest", "./backends/slurmjob", "./backends/local", "./backends/fake"},
			Why:  "the provider knows the contract; cmd/vnode lists the batch systems",
		},
		{
			From: []string{"./provider/translate", "./provider/lifecycle", "./provider/podstatus", "./provider/account"},
			Ban:  []string{"k8s.io/client-go/kubernetes", "k8s.io/client-go/rest", "github.com/go-logr/logr", "os/exec", "net/http"}, Direct: true,
			Why: "these decide and do nothing: no client, no log, no process",
		},
		{
			From: []string{"./provider/podrun", "./cmd/podrun"},
			Ban:  []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime", "github.com/virtual-kubelet"},
			Why:  "the runner is copied to every compute node and speaks to no API server",
		},
		{
			From: []string{"./provider/podrun/runtime/apptainer"},
			Ban:  []string{"./provider/podrun/runtime/charliecloud", "./provider/podrun/runtime/enroot", "./provider/podrun/runtime/host", "./provider/podrun/runtime/podman", "./provider/podrun/pod"},
			Why:  "a runtime knows no other, and nothing of who uses it",
		},
		{
			From: []string{"./provider/podrun/runtime/charliecloud"},
			Ban:  []string{"./provider/podrun/runtime/apptainer", "./provider/podrun/runtime/enroot", "./provider/podrun/runtime/host", "./provider/podrun/runtime/podman", "./provider/podrun/pod"},
			Why:  "a runtime knows no other, and nothing of who uses it",
		},
		{
			From: []string{"./provider/podrun/runtime/enroot"},
			Ban:  []string{"./provider/podrun/runtime/apptainer", "./provider/podrun/runtime/charliecloud", "./provider/podrun/runtime/host", "./provider/podrun/runtime/podman", "./provider/podrun/pod"},
			Why:  "a runtime knows no other, and nothing of who uses it",
		},
		{
			From: []string{"./provider/podrun/runtime/host"},
			Ban:  []string{"./provider/podrun/runtime/apptainer", "./provider/podrun/runtime/charliecloud", "./provider/podrun/runtime/enroot", "./provider/podrun/runtime/podman", "./provider/podrun/pod"},
			Why:  "a runtime knows no other, and nothing of who uses it",
		},
		{
			From: []string{"./provider/podrun/runtime/podman"},
			Ban:  []string{"./provider/podrun/runtime/apptainer", "./provider/podrun/runtime/charliecloud", "./provider/podrun/runtime/enroot", "./provider/podrun/runtime/host", "./provider/podrun/pod"},
			Why:  "a runtime knows no other, and nothing of who uses it",
		},
	})
}
