package frameworks

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Names that the training operator gives its webhook's things, and where it
// looks for the certificate that it has put into the Secret.
const (
	kubeflowSecret = "training-operator-webhook-cert"
	kubeflowCerts  = "/tmp/k8s-webhook-server/serving-certs"
)

// kubeflowWebhook is what the operator wants to find. It runs beside the cluster,
// where the API server does not reach it, so this one is called for nothing.
const kubeflowWebhook = `
apiVersion: v1
kind: Namespace
metadata: {name: kubeflow}
---
apiVersion: v1
kind: Secret
metadata: {name: ` + kubeflowSecret + `, namespace: kubeflow}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: validator.training-operator.kubeflow.org}
webhooks:
- name: nothing.training-operator.kubeflow.org
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {service: {name: training-operator, namespace: kubeflow, path: /}}
  rules: [{apiGroups: [none.kubeflow.org], apiVersions: [v1], operations: [CREATE], resources: [nothing]}]
`

// initContainer waits for the master like the operator's own, but by the hosts
// file, too.
const initContainer = `
- name: init-pytorch
  image: {{.InitContainerImage}}
  command: [sh, -c, 'for i in $(seq {{.MaxTries}}); do getent hosts {{.MasterAddr}} && exit 0; sleep 2; done; exit 1']
  resources:
    limits: {cpu: 100m, memory: 20Mi}
    requests: {cpu: 50m, memory: 10Mi}
`

// Kubeflow's training operator makes the PodGroup of a PyTorchJob, which is
// scheduled as a gang: one batch job, whose processes meet.
func TestKubeflow(t *testing.T) {
	pytorch(t)
	m := module(t, "training-operator")
	operator := m.build("github.com/kubeflow/training-operator/cmd/training-operator.v1")
	crds := filepath.Join(m.source("github.com/kubeflow/training-operator"), "manifests", "base", "crds")
	kubectl(t, "apply", "--server-side", "-f", filepath.Join(crds, "kubeflow.org_pytorchjobs.yaml"))
	apply(t, "kubeflow", kubeflowWebhook)
	template := filepath.Join(t.TempDir(), "init.yaml")
	if err := os.WriteFile(template, []byte(initContainer), 0o600); err != nil {
		t.Fatal(err)
	}
	log := start(t, []string{"KUBECONFIG=" + env.Kubeconfig}, operator, "--gang-scheduler-name=volcano",
		"--enable-scheme=pytorchjob", "--pytorch-init-container-template-file="+template,
		"--metrics-bind-address=0", "--health-probe-bind-address=0", "--webhook-server-port="+port(t))
	mountCertificate(t)
	logged(t, log, "Starting workers")

	ns := namespace(t, "kubeflow-jobs")
	example(t, ns, "kubeflow.yaml")
	eventually(t, patience, "the PyTorchJob succeeds", func() (bool, string) {
		saw := kubectl(t, "get", "pytorchjob", "kubeflow", "-n", ns, "-o", `jsonpath={range .status.conditions[*]}{.type}={.status} {.message}; {end}`)
		if strings.Contains(saw, "Failed=True") {
			t.Fatalf("the PyTorchJob failed: %s", saw)
		}
		return strings.Contains(saw, "Succeeded=True"), saw
	})
	// The job ends with its master; the workers may still be on their way.
	for _, pod := range []string{"kubeflow-master-0", "kubeflow-worker-0", "kubeflow-worker-1"} {
		eventually(t, time.Minute, pod+" tells the sum", func() (bool, string) {
			log := kubectl(t, "logs", "-n", ns, pod, "-c", "pytorch")
			return strings.Contains(log, "of 3: all-reduce = 6"), log
		})
	}
	// The operator has removed the PodGroup by now.
	const gang = `jsonpath={range .items[*]}{.metadata.annotations.scheduling\.k8s\.io/group-name}={.metadata.annotations.isthmus\.sh/gang-size} {end}`
	if got := kubectl(t, "get", "pods", "-n", ns, "-o", gang); strings.TrimSpace(got) != "kubeflow=3 kubeflow=3 kubeflow=3" {
		t.Errorf("the pods were placed in the gangs %s, want the three in one of their PodGroup", got)
	}
	jobs := map[string]bool{}
	for id := range strings.FieldsSeq(kubectl(t, "get", "pods", "-n", ns, "-o", `jsonpath={.items[*].metadata.annotations.isthmus\.sh/batch-job-id}`)) {
		jobs[id] = true
	}
	if len(jobs) != 1 {
		t.Errorf("the pods ran as the batch jobs %v, want one", jobs)
	}
}

// mountCertificate puts the files of the operator's Secret where its Deployment
// mounts them, once the operator has made them.
func mountCertificate(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(kubeflowCerts, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(kubeflowCerts)) })
	for _, file := range []string{"ca.crt", "ca.key", "tls.key", "tls.crt"} {
		var text string
		eventually(t, 2*time.Minute, "the operator makes "+file, func() (bool, string) {
			text = kubectl(t, "get", "secret", kubeflowSecret, "-n", "kubeflow", "-o", `jsonpath={.data.`+strings.ReplaceAll(file, ".", `\.`)+`}`)
			return text != "", "nothing"
		})
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(kubeflowCerts, file), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
