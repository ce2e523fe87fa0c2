package e2e

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// A scheduler that knows nothing of Isthmus binds a gang, one pod after the other:
// the PodGroup's minMember says when they are one job. A later member has a job of
// its own.
func TestGangOfAnotherScheduler(t *testing.T) {
	ns := namespace(t, account.Alice)
	apply(t, ns, `
apiVersion: scheduling.volcano.sh/v1beta1
kind: PodGroup
metadata: {name: ring}
spec: {minMember: 2}
`)
	put := func(name string) {
		placed(t, ns, here(t).Nodes[0], fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, annotations: {scheduling.k8s.io/group-name: ring}}
spec:
  schedulerName: nobody
  restartPolicy: Never
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 2
%s`, name, sleeper))
	}
	look := func(name string) (p corev1.Pod) {
		t.Helper()
		if err := here(t).Client().Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	runs := func(name string) (id string) {
		t.Helper()
		eventually(t, 2*time.Minute, "pod "+name+" runs", func() (bool, string) {
			p := look(name)
			id = p.Annotations[wellknown.BatchJobID]
			return p.Status.Phase == corev1.PodRunning && id != "", fmt.Sprint(p.Status.Phase, p.Status.ContainerStatuses)
		})
		return id
	}
	put("ring-0")
	waitsForMembers(t, ns, "ring-0", "1 members of PodGroup "+ns+"/ring")
	put("ring-1")
	first, second := runs("ring-0"), runs("ring-1")
	put("ring-2")
	third := runs("ring-2")
	if first != second || third == first {
		t.Errorf("the members have jobs %s, %s and %s", first, second, third)
	}
}
