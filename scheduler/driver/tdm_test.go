package driver_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
)

// TestRevocableZone: a pod that may be revoked is bound to a node of a zone that is
// open, and goes by the Eviction API when the node comes to be of one that is not.
func TestRevocableZone(t *testing.T) {
	ns := plane.Namespace(t)
	noon := time.Now().UTC().Add(12 * time.Hour)
	shut := fmt.Sprintf("%02d:00-%02d:00", noon.Hour(), noon.Add(time.Hour).Hour())
	c, warnings, err := config.Parse([]byte(fmt.Sprintf(`
actions: "enqueue, allocate, shuffle"
tiers: [{plugins: [{name: gang}, {name: proportion}, {name: tdm, arguments: {tdm.revocable-zone.always: "00:00-00:00", tdm.revocable-zone.shut: %q}}]}]
`, shut)))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	node := ns + "-n"
	realNode(t, ns, node)
	zone := func(name string) {
		t.Helper()
		var n corev1.Node
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Name: node}, &n); err != nil {
			t.Fatal(err)
		}
		patch := client.MergeFrom(n.DeepCopy())
		n.Labels = map[string]string{volcanov1.RevocableZone: name}
		if err := plane.Client.Patch(t.Context(), &n, patch); err != nil {
			t.Fatal(err)
		}
	}
	zone("always")
	startWith(t, &wire{}, c.Pipeline(), "")
	podGroup(t, ns, "g", volcanov1.PodGroupInqueue)
	jobPod(t, ns, "g", 1, map[string]string{volcanov1.RevocableZone: "*"}, "")
	setPhase(t, eventuallyBound(t, ns, "g", 1), corev1.PodRunning)
	eventuallyTerminating(t, ns, "g", 0)
	zone("shut")
	eventuallyTerminating(t, ns, "g", 1)
}
