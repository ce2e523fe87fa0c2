package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/isthmus-hpc/isthmus/test/testbed/vcctl"
)

// move is the day on which Volcano goes: what it had is played by objects of its
// names.
func (g *guide) move() {
	g.t.Helper()
	dir, err := vcctl.EnsureBuilt(g.t.Context(), g.t.Output())
	if err := errors.Join(err, os.Symlink(filepath.Join(dir, "vcctl"), filepath.Join(g.dir, "bin", "vcctl"))); err != nil {
		g.t.Fatal(err)
	}
	kubectl(g.t, "create", "namespace", "volcano-system")
	g.t.Cleanup(func() { kubectlAfter(g.t, "delete", "namespace", "volcano-system", "--timeout=25s") })
	for _, name := range []string{"controllers", "scheduler", "admission"} {
		kubectl(g.t, "create", "deployment", "volcano-"+name, "-n", "volcano-system", "--image=none", "--replicas=1")
	}
	apply(g.t, "default", `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: volcano-admission-service-jobs-validate}
webhooks:
- name: validatejob.volcano.sh
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Ignore
  clientConfig: {url: "https://127.0.0.1:1/jobs/validate"}
  rules: [{apiGroups: [none.example], apiVersions: [v1], operations: [CREATE], resources: [nothing]}]
`)
	g.run("kubectl -n volcano-system scale", "scaled")
	g.run("kubectl get validatingwebhookconfigurations,mutating", "volcano-admission-service-jobs-validate")
	g.run("kubectl apply --server-side --force-conflicts -f charts/isthmus/crds", "serverside-applied")
	apply(g.t, "physics", job{Name: "moved", Replicas: 1, Script: "exec sleep 600"}.yaml())
	g.run("kubectl get vcjob,podgroup,jobflow", "moved")
	g.until("vcctl job list", "moved")
	g.run("vcctl queue list", "default")
	g.run("kubectl get validatingadmissionpolicy", "isthmus-volcano")
	kubectl(g.t, "delete", "vcjob", "moved", "-n", "physics")
	if out := kubectl(g.t, "get", "validatingwebhookconfigurations", "-o", "name"); strings.Contains(out, "volcano-admission-service") {
		g.t.Errorf("Volcano's webhooks are there yet: %s", out)
	}
}

// takeOver installs the chart where Volcano was, on the API server that config names:
// its scheduler has the configuration of Volcano's from the first moment on.
func (g *guide) takeOver(config string) {
	g.t.Helper()
	conf := g.yaml("actions: ")
	g.write("of-volcano.conf", conf)
	if out, err := g.try("kubectl create namespace volcano-system && kubectl -n volcano-system create configmap volcano-scheduler-configmap --from-file=volcano-scheduler.conf=of-volcano.conf", config); err != nil {
		g.t.Fatal(out, err)
	}
	g.run("kubectl -n volcano-system get configmap", "", config)
	g.run("helm install isthmus", "STATUS: deployed", config)
	out, err := g.try(`kubectl get configmap isthmus-scheduler-config -n isthmus-system -o go-template='{{index .data "volcano-scheduler.conf"}}'`, config)
	if err != nil || out != conf {
		g.t.Errorf("the scheduler's configuration is %q, %v, and was %q", out, err, conf)
	}
	out, err = g.try("kubectl get deployment isthmus-scheduler -n isthmus-system -o jsonpath='{.metadata.generation} {.spec.template.spec.containers[0].args}'", config)
	if err != nil || !strings.HasPrefix(out, "1 ") || !strings.Contains(out, "--scheduler-conf=") {
		g.t.Errorf("the scheduler begins with %q, %v", out, err)
	}
	if out, err := g.try("helm uninstall isthmus -n isthmus-system", config); err != nil {
		g.t.Fatal(out, err)
	}
}
