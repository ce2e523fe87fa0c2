package e2e

import "strings"

// rights are what the chart as the guide installs it lets vnode read: what the guide's
// user's namespace has, and nothing of another.
func (g *guide) rights(config string) {
	g.t.Helper()
	for ns, want := range map[string]string{"physics": "yes\n", "default": "no\n"} {
		for _, what := range []string{"get secrets", "create serviceaccounts --subresource=token"} {
			out, _ := g.try("kubectl auth can-i "+what+" --namespace "+ns+" --as system:serviceaccount:isthmus-system:isthmus-vnode 2>/dev/null", config) // no is an error
			if out != want {
				g.t.Errorf("vnode may %s in namespace %s: %q, want %q", what, ns, out, want)
			}
		}
	}
}

// daemons are kept off virtual nodes by hand, as those that were there before.
func (g *guide) daemons(config string) {
	g.t.Helper()
	g.write("daemons.yaml", `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: kube-system, annotations: {isthmus.sh/leave-affinity: "true"}}
spec:
  selector: {matchLabels: {of: agent}}
  template:
    metadata: {labels: {of: agent}}
    spec: {tolerations: [{operator: Exists}], containers: [{name: main, image: none}]}
`)
	if out, err := g.try("kubectl apply -f daemons.yaml", config); err != nil {
		g.t.Fatal(out, err)
	}
	g.run("kubectl patch daemonset", "patched", config, "daemonset=agent")
	out, err := g.try("kubectl get daemonset agent -n kube-system -o jsonpath='{.spec.template.spec.affinity.nodeAffinity}'", config)
	if err != nil || !strings.Contains(out, `{"key":"isthmus.sh/virtual-node","operator":"DoesNotExist"}`) {
		g.t.Errorf("the affinity is %q, %v", out, err)
	}
}

// stuck is a pod that nobody lets go any more.
func (g *guide) stuck(config string) {
	g.t.Helper()
	g.write("stuck.yaml", `
apiVersion: v1
kind: Pod
metadata: {name: stuck, namespace: default, finalizers: [isthmus.sh/batch-job]}
spec: {containers: [{name: main, image: none}]}
`)
	if out, err := g.try("kubectl create serviceaccount default -n default && kubectl apply -f stuck.yaml && kubectl delete -f stuck.yaml --wait=false && kubectl get -f stuck.yaml", config); err != nil {
		g.t.Fatal(out, err)
	}
	g.run("kubectl patch pod", "patched", config, "pod=stuck")
	if out, err := g.try("kubectl get pods -n default -o name", config); err != nil || out != "" {
		g.t.Errorf("there are %q yet, %v", out, err)
	}
}

// leave is the last day.
func (g *guide) leave() {
	g.t.Helper()
	if out, err := g.try("kubectl apply -f hpc.yaml"); err != nil { // by commands again
		g.t.Fatal(out, err)
	}
	g.run("kubectl cordon hpc-a100", "cordoned")
	g.run("kubectl delete vcjob", `"patient" deleted`)
	g.until("kubectl get pods -A --field-selector", "No resources found")
	g.run("kubectl delete batchcluster hpc", "deleted")
	g.stopVnode() // and it would go with the release
	g.run("kubectl delete node hpc-a100", "deleted")
}
