package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// eve may do with pods of her namespace whatever the API allows anyone.
const eve = "eve"

const eveRights = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: eve}
rules:
- {apiGroups: ["", batch], resources: [pods, pods/status, pods/binding, bindings, pods/ephemeralcontainers, pods/resize, jobs], verbs: [get, list, create, update, patch, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: eve}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: eve}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: eve}]
`

// forged is a pod with annotations, and what else its spec says.
func forged(t *testing.T, name string, annotations, spec map[string]any) string {
	t.Helper()
	body := map[string]any{
		"restartPolicy": "Never", "schedulerName": "nobody", "automountServiceAccountToken": false,
		"containers": []any{map[string]any{"name": "main", "image": "none", "command": []string{"sleep", "600"}}},
	}
	for k, v := range spec {
		body[k] = v
	}
	meta := map[string]any{"annotations": annotations}
	if rest, ok := strings.CutSuffix(name, "-*"); ok {
		meta["generateName"] = rest + "-"
	} else {
		meta["name"] = name
	}
	return asJSON(t, map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body})
}

// Whoever may create pods can neither write the facts that Isthmus acts on, nor
// put a pod on a virtual node past the schedulers. Nothing of it reaches another's
// job.
func TestBypass(t *testing.T) {
	victims, ns := namespace(t, account.Bob), "t-bypass-eve"
	kubectl(t, "create", "namespace", ns)
	kubectl(t, "label", "namespace", ns, "test-user="+account.Alice)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if out, err := here(t).KubectlCommand(ctx, "delete", "namespace", ns, "--wait=true", "--timeout=50s").CombinedOutput(); err != nil {
			t.Errorf("delete namespace %s: %v\n%s", ns, err, out)
		}
	})
	const sleep = "echo up; exec sleep 300"
	apply(t, victims, job{Name: "victim", Replicas: 2, Script: sleep}.yaml())
	apply(t, ns, job{Name: "own", Replicas: 1, Script: sleep}.yaml())
	phase(t, victims, "victim", "Running", 2*time.Minute)
	phase(t, ns, "own", "Running", 2*time.Minute)
	apply(t, ns, eveRights)
	fact := func(ns, pod, key string) string {
		return kubectl(t, "get", "pod", pod, "-n", ns, "-o", `jsonpath={.metadata.annotations.isthmus\.sh/`+key+`}`)
	}
	victimID, victimKey := fact(victims, "victim-task-0", "batch-job-id"), fact(victims, "victim-task-0", "submit-intent")
	if victimID == "" || victimKey == "" {
		t.Fatal("the victim has no job")
	}
	kubectl(t, "create", "-n", ns, "-f", manifestFile(t, forged(t, "plain", nil, nil)), "--as", eve)
	before := len(batchJobs(t))
	node := here(t).Nodes[0]

	const facts, nodes = "written by Isthmus alone", "only a scheduler places pods"
	type script struct{ name, manifest, denied, args string }
	one := func(key, value string) map[string]any { return map[string]any{"isthmus.sh/" + key: value} }
	binding := func(pod, to string, annotations map[string]any) string {
		return asJSON(t, map[string]any{"apiVersion": "v1", "kind": "Binding", "metadata": map[string]any{"name": pod, "annotations": annotations},
			"target": map[string]any{"apiVersion": "v1", "kind": "Node", "name": to}})
	}
	raw := "create --raw /api/v1/namespaces/" + ns
	tolerate := map[string]any{"nodeName": node, "tolerations": []any{map[string]any{"operator": "Exists"}}}
	scripts := []script{
		{"create with a job's id", forged(t, "f1", one("batch-job-id", victimID), nil), facts, "create"},
		{"create with another's intent", forged(t, "f2", one("submit-intent", victimKey), nil), facts, "create"},
		{"create with another's user", forged(t, "f3", one("batch-user", account.Bob), nil), facts, "create"},
		{"create with a host", forged(t, "f4", one("batch-node", "gpu1"), nil), facts, "create"},
		{"create with a gang attempt", forged(t, "f5", one("gang-attempt", "x"), nil), facts, "create"},
		{"create with a gang size", forged(t, "f6", one("gang-size", "1"), nil), facts, "create"},
		{"create with a gang rank", forged(t, "f7", one("gang-rank", "0"), nil), facts, "create"},
		{"create with a reservation", forged(t, "f9", one("reserved-by", "r"), nil), facts, "create"},
		{"create with GPU ids", forged(t, "f8", one("gpu-ids", "GPU-0"), nil), facts, "create"},
		{"create by generateName", forged(t, "f9-*", one("batch-job-id", victimID), nil), facts, "create"},
		{"create by dry run", forged(t, "f10", one("batch-job-id", victimID), nil), facts, "create --dry-run=server"},
		{"create by server-side apply", forged(t, "f11", one("batch-job-id", victimID), nil), facts, "apply --server-side"},
		{"an empty value", forged(t, "f12", one("batch-job-id", ""), nil), facts, "create"},
		{"annotate a pending pod with an id", "", facts, "annotate pod plain isthmus.sh/batch-job-id=" + victimID},
		{"annotate a pending pod with an intent", "", facts, "annotate pod plain isthmus.sh/submit-intent=" + victimKey},
		{"annotate a pending pod with a user", "", facts, "annotate pod plain isthmus.sh/batch-user=" + account.Bob},
		{"annotate a pending pod with an attempt", "", facts, "annotate pod plain isthmus.sh/gang-attempt=x"},
		{"through the status", "", facts, `patch pod plain --subresource=status -p {"metadata":{"annotations":{"isthmus.sh/batch-job-id":"` + victimID + `"}}}`},
		{"through the status by merge", "", facts, `patch pod plain --subresource=status --type=merge -p {"metadata":{"annotations":{"isthmus.sh/batch-user":"root"}}}`},
		{"through ephemeral containers", "", "", `patch pod plain --subresource=ephemeralcontainers -p {"metadata":{"annotations":{"isthmus.sh/batch-job-id":"` + victimID + `"}},"spec":{"ephemeralContainers":[{"name":"e","image":"none"}]}}`},
		{"change the id of a running pod", "", facts, "annotate --overwrite pod own-task-0 isthmus.sh/batch-job-id=" + victimID},
		{"change the user of a running pod", "", facts, `patch pod own-task-0 --type=json -p [{"op":"replace","path":"/metadata/annotations/isthmus.sh~1batch-user","value":"bob"}]`},
		{"change the intent of a running pod", "", facts, "annotate --overwrite pod own-task-0 isthmus.sh/submit-intent=" + victimKey},
		{"remove the id of a running pod", "", facts, "annotate pod own-task-0 isthmus.sh/batch-job-id-"},
		{"remove all annotations", "", facts, `patch pod own-task-0 --type=merge -p {"metadata":{"annotations":null}}`},
		{"take the annotations over", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"own-task-0","annotations":{"isthmus.sh/batch-job-id":"` + victimID + `"}}}`, facts, "apply --server-side --force-conflicts"},
		{"remove the finalizer", "", "stays until the batch job has ended", `patch pod own-task-0 --type=merge -p {"metadata":{"finalizers":null}}`},
		{"name the virtual node", forged(t, "n1", nil, map[string]any{"nodeName": node}), nodes, "create"},
		{"name it and tolerate all", forged(t, "n2", nil, tolerate), nodes, "create"},
		{"name it in a dry run", forged(t, "n3", nil, tolerate), nodes, "create --dry-run=server"},
		{"name it by generateName", forged(t, "n4-*", nil, tolerate), nodes, "create"},
		{"bind to the virtual node", binding("plain", node, nil), nodes, raw + "/pods/plain/binding"},
		{"bind by the old resource", binding("plain", node, nil), nodes, raw + "/bindings"},
		{"bind as a gang", binding("plain", "elsewhere", one("gang-attempt", "x")), facts, raw + "/pods/plain/binding"},
		{"bind with a job's id", binding("plain", "elsewhere", one("batch-job-id", victimID)), facts, raw + "/pods/plain/binding"},
		{"label a pod with an id", "", "", "label pod plain isthmus.sh/batch-job-id=" + victimID},
		{"a template of the Job controller", asJSON(t, map[string]any{"apiVersion": "batch/v1", "kind": "Job", "metadata": map[string]any{"name": "tpl"},
			"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": one("batch-job-id", victimID)}, "spec": map[string]any{
				"restartPolicy": "Never", "schedulerName": "nobody", "containers": []any{map[string]any{"name": "main", "image": "none"}}}}}}), "", "create"},
	}
	through := 0
	for _, s := range scripts {
		args := append(strings.Fields(s.args), "--as", eve)
		if !strings.Contains(s.args, "--raw") {
			args = append(args, "-n", ns)
		}
		if s.manifest != "" {
			args = append(args, "-f", manifestFile(t, s.manifest))
		}
		_, err := tryKubectl(t, args...)
		switch {
		case s.denied == "" && err != nil:
			t.Errorf("%s: %v", s.name, err)
		case s.denied != "" && (err == nil || !strings.Contains(err.Error(), s.denied)):
			through++
			t.Errorf("%s: %v, want it denied because %q", s.name, err, s.denied)
		}
	}

	eventually(t, time.Minute, "the Job controller was refused", func() (bool, string) {
		events := kubectl(t, "get", "events", "-n", ns, "--field-selector", "involvedObject.name=tpl", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(events, facts), events
	})
	if got := kubectl(t, "get", "pods", "-n", ns, "-l", "batch.kubernetes.io/job-name=tpl", "-o", "name"); got != "" {
		t.Errorf("the Job controller made %s", got)
	}
	effects := 0
	// What is let through, the API server takes nothing of.
	if got := fact(ns, "plain", "batch-job-id") + fact(ns, "plain", "submit-intent") + fact(ns, "plain", "batch-user"); got != "" {
		effects++
		t.Errorf("pod plain has %s", got)
	}
	for _, pod := range []string{"victim-task-0", "victim-task-1"} {
		if got := kubectl(t, "get", "pod", pod, "-n", victims, "-o", "jsonpath={.status.phase}"); got != "Running" || fact(victims, pod, "batch-job-id") != victimID {
			effects++
			t.Errorf("victim's pod %s is %s", pod, got)
		}
	}
	jobs := batchJobs(t)
	if len(jobs) != before {
		effects++
		t.Errorf("%d batch jobs, there were %d", len(jobs), before)
	}
	for _, j := range jobs {
		if (j.ID == victimID || strings.HasPrefix(j.ID, victimID+"+")) && (j.State != "RUNNING" || j.User != account.Bob) {
			effects++
			t.Errorf("the victim's job: %+v", j)
		}
	}
	t.Logf("S5: %d scripts, %d got through, %d foreign effects", len(scripts), through, effects)
}

func manifestFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Serving certificates come from the cluster's signer: nobody gave a file, and
// the requests of virtual kubelets were approved by our controllers.
func TestServingCertificates(t *testing.T) {
	for _, node := range here(t).Nodes { // a node is Ready before it has one
		eventually(t, time.Minute, "node "+node+" has a serving certificate", func() (bool, string) {
			got := kubectl(t, "get", "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="ServingCertificate")]}`)
			return strings.Contains(got, `"status":"True"`), got
		})
	}
	var list struct {
		Items []struct {
			Spec   struct{ Username, SignerName string }
			Status struct {
				Conditions  []struct{ Type, Reason string }
				Certificate string
			}
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "csr", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	signed := 0
	for _, c := range list.Items {
		if c.Spec.SignerName != "kubernetes.io/kubelet-serving" || !strings.HasSuffix(c.Spec.Username, ":isthmus-vnode") {
			continue
		}
		if len(c.Status.Conditions) == 1 && c.Status.Conditions[0].Type == "Approved" && c.Status.Conditions[0].Reason == "VirtualNode" && c.Status.Certificate != "" {
			signed++
		} else {
			t.Errorf("request of %s: %+v", c.Spec.Username, c.Status.Conditions)
		}
	}
	if signed < len(here(t).Nodes) {
		t.Errorf("%d certificates for %d virtual nodes", signed, len(here(t).Nodes))
	}
	t.Logf("%d serving certificates were approved and signed", signed)
}
