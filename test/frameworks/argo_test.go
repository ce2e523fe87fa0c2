package frameworks

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/venv"
)

// argoController configures the workflow controller: its executor is a program of
// the hosts, and runs with the rights that a job has, not as Argo's user 8737.
const argoController = `
apiVersion: v1
kind: Namespace
metadata: {name: argo}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: workflow-controller-configmap, namespace: argo}
data:
  executor: |
    image: argoexec
    env:
    - {name: PATH, value: "` + argoPrograms + `:/usr/bin:/bin"}
    resources: {requests: {cpu: "1", memory: 128Mi}, limits: {cpu: "1", memory: 128Mi}}
    securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true}
  metricsConfig: |
    enabled: false
`

// argoPrograms is where jobs of every user find argoexec.
const argoPrograms = venv.Dir + "/argo"

// Argo Workflows: steps of kind resource make Volcano Jobs and a JobFlow in the
// order of a graph, by pods of Argo's executor that run as batch jobs, too.
func TestArgo(t *testing.T) {
	const argo = "github.com/argoproj/argo-workflows/v3"
	m := module(t, "argo-workflows")
	controller := m.build(argo + "/cmd/workflow-controller")
	install(t, argoSource(t, m.source(argo)).build("./cmd/argoexec"), argoPrograms)
	kubectl(t, "apply", "-k", filepath.Join(m.source(argo), "manifests", "base", "crds", "minimal"))
	apply(t, "argo", argoController)
	server, err := url.Parse(env.RESTConfig().Host)
	if err != nil {
		t.Fatal(err)
	}
	closeRelay, err := env.Slurm().Relay(server.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeRelay)
	log := start(t, []string{"LEADER_ELECTION_DISABLE=true"}, controller, "--kubeconfig="+env.Kubeconfig, "--namespace=argo")
	logged(t, log, "Starting Workflow Controller")

	_ = os.RemoveAll(filepath.Join(account.CarolsHome, "argo")) // of a run that failed
	ns := namespace(t, "argo-jobs")
	kubectl(t, "create", "serviceaccount", "argo", "-n", ns)
	example(t, ns, "argo.yaml")
	eventually(t, patience, "the workflow succeeds", func() (bool, string) {
		switch phase := kubectl(t, "get", "workflow", "argo", "-n", ns, "-o", "jsonpath={.status.phase}"); phase {
		case "Failed", "Error":
			t.Fatalf("the workflow ended: %s", kubectl(t, "get", "workflow", "argo", "-n", ns, "-o", "jsonpath={.status}"))
		case "Succeeded":
			return true, phase
		}
		return false, kubectl(t, "get", "vcjob,jobflow,pods", "-n", ns)
	})
	if log := kubectl(t, "logs", "-n", ns, "argo-report-main-0"); !strings.Contains(log, "the sum is 500500") {
		t.Errorf("the report says %q, want the sum 500500", log)
	}
	if _, err := os.Stat(filepath.Join(account.CarolsHome, "argo")); !os.IsNotExist(err) {
		t.Errorf("the flow's second job did not clean up: %v", err)
	}
	ordered(t, ns, [][2]string{
		{"argo-prepare", "argo-odd"}, {"argo-prepare", "argo-even"}, {"argo-odd", "argo-sum"}, {"argo-even", "argo-sum"},
		{"argo-sum", "argo-report"}, {"argo-report", "argo-clean"},
	})
}

// argoSource copies the source and puts in what a module cannot hold: the executor's
// signal_linux.go is a link in its repository, to signal_darwin.go.
func argoSource(t *testing.T, source string) goModule {
	t.Helper()
	cache, err := checkout.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "frameworks", "source-"+filepath.Base(source))
	link := filepath.Join(dir, "workflow", "executor", "osspecific", "signal_linux.go")
	if _, err := os.Stat(link); err == nil {
		return goModule{t, dir} // it is written last
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(link), "signal_darwin.go"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(link+".new", raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	return goModule{t, dir}
}

// ordered checks of each pair of Jobs that the first was Completed when the second
// was made.
func ordered(t *testing.T, ns string, pairs [][2]string) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string
				CreationTimestamp time.Time
			}
			Status struct {
				State struct {
					Phase              string
					LastTransitionTime time.Time
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "vcjob", "-n", ns, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	made, ended := map[string]time.Time{}, map[string]time.Time{}
	for _, j := range list.Items {
		made[j.Metadata.Name] = j.Metadata.CreationTimestamp
		if j.Status.State.Phase == "Completed" {
			ended[j.Metadata.Name] = j.Status.State.LastTransitionTime
		}
	}
	for _, p := range pairs {
		switch end, began := ended[p[0]], made[p[1]]; {
		case end.IsZero() || began.IsZero():
			t.Errorf("Job %s is not Completed, or %s was never made: ended %v, made %v", p[0], p[1], ended, made)
		case began.Before(end):
			t.Errorf("Job %s was made at %s, before %s had ended at %s", p[1], began, p[0], end)
		default:
			t.Logf("%s ended at %s, %s was made at %s", p[0], end.Format(time.TimeOnly), p[1], began.Format(time.TimeOnly))
		}
	}
}

// install copies a program to a directory that all users may read.
func install(t *testing.T, program, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, filepath.Base(program))
	if err := os.WriteFile(to+".new", raw, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(to+".new", to); err != nil {
		t.Fatal(err)
	}
}
