package controllers_test

import (
	"os"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/importrules"
)

func TestImports(t *testing.T) {
	folders, err := os.ReadDir("job/plugins")
	if err != nil {
		t.Fatal(err)
	}
	var rules []importrules.Rule
	for _, one := range folders {
		for _, other := range folders {
			if one.IsDir() && other.IsDir() && one != other {
				rules = append(rules, importrules.Rule{
					From: []string{"./controllers/job/plugins/" + one.Name()}, Ban: []string{"./controllers/job/plugins/" + other.Name()},
					Why: "a job plugin is one folder: plugins never import each other",
				})
			}
		}
	}
	importrules.Check(t, []string{"github.com/isthmus-hpc/isthmus/controllers/...", "github.com/isthmus-hpc/isthmus/cmd/controllers"}, append(rules, []importrules.Rule{
		{
			From: []string{"./controllers", "./cmd/controllers"},
			Ban:  []string{"./provider", "./backends", "./scheduler"},
			// How Slurm writes sets of hosts is the same wherever it is read.
			Allow: []string{"./backends/hostlist"},
			Why:   "the controllers meet scheduler and provider only in API objects and in controllers/api",
		},
		{
			From:   []string{"./controllers/api"},
			Except: []string{"./controllers/api/hpc", "./controllers/api/podrequests"},
			Ban:    []string{"k8s.io", "sigs.k8s.io", "volcano.sh"},
			Why:    "names and wire formats are leaves that every program can import",
		},
		{
			From: []string{"./controllers/api/podrequests"},
			Ban:  []string{"k8s.io/client-go", "sigs.k8s.io", "volcano.sh", "os", "sync"}, Direct: true,
			Why: "what a pod holds is arithmetic over the pod alone",
		},
		{
			From: []string{"./controllers/api"},
			Ban:  []string{"./controllers/job", "./controllers/queue", "./controllers/certificate", "./controllers/controllertest"},
			Why:  "types know nothing of the controllers that serve them",
		},
		{
			From: []string{"./controllers/job/machine"},
			Ban: []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime", "volcano.sh/apis/pkg/client",
				"github.com/go-logr/logr", "k8s.io/klog/v2", "os", "os/exec", "net/http", "sync"},
			Direct: true,
			Why:    "the machine is a pure function: no client, no log, no file, no goroutine",
		},
		{
			From: []string{"./controllers/job/plugins"},
			Ban:  []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime", "volcano.sh/apis/pkg/client"}, Direct: true,
			Why: "plugins answer with objects; the controller alone writes them",
		},
		{
			From: []string{"./controllers/job"}, Ban: []string{"./controllers/queue", "./controllers/certificate"},
			Why: "controllers meet in API objects",
		},
		{
			From: []string{"./controllers/cronjob", "./controllers/jobflow", "./controllers/podgroup", "./controllers/hypernode", "./controllers/dataset"}, Ban: []string{"./controllers/job", "./controllers/queue", "./controllers/certificate"},
			Why: "controllers meet in API objects",
		},
		{
			From: []string{"./controllers/queue"}, Ban: []string{"./controllers/job", "./controllers/certificate"},
			Why: "controllers meet in API objects",
		},
		{
			From: []string{"./controllers/certificate"}, Ban: []string{"./controllers/job", "./controllers/queue"},
			Why: "controllers meet in API objects",
		},
		{
			From: []string{"./cmd/controllers"}, Ban: []string{"./controllers/controllertest"},
			Why: "test support is never linked into a program",
		},
	}...))
}
