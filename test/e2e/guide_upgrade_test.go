package e2e

import "strings"

// upgrade is the day of another version, on the API server that config names, which
// has the chart. That jobs go on is for TestUpgradeAndBack of test/upgrade to show.
func (g *guide) upgrade(config string) {
	g.t.Helper()
	// A definition of before: helm does not bring what it lacks.
	lacks := func(want bool) {
		g.t.Helper()
		out, err := g.try("kubectl get crd reservations.hpc.isthmus.sh --ignore-not-found -o name", config)
		if err != nil || (out == "") != want {
			g.t.Errorf("the definition is absent: want %t, got %q, %v", want, out, err)
		}
	}
	if out, err := g.try("kubectl delete crd reservations.hpc.isthmus.sh; helm upgrade isthmus charts/isthmus -n isthmus-system --reset-then-reuse-values --set controllers.replicas=1", config); err != nil {
		g.t.Fatal(out, err)
	}
	lacks(true)
	g.run("kubectl apply --server-side --force-conflicts -f charts/isthmus/crds", "serverside-applied", config)
	lacks(false)
	g.run("helm upgrade isthmus", "REVISION: 3", config)
	g.run("kubectl get deployments --namespace", "isthmus-vnode-hpc", config) // a value that was set stays
	g.run("helm history isthmus", "superseded", config)
	g.run("helm rollback isthmus", "Rollback was a success", config)
	out, err := g.try("helm history isthmus -n isthmus-system", config)
	if err != nil || !strings.Contains(out, "Rollback to 2") {
		g.t.Errorf("helm tells %q, %v", out, err)
	}
	lacks(false)
}
