package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// foreignGang is a gang of pods that run a script on the first virtual node. A
// scheduler that knows nothing of Isthmus binds them, one after the other.
type foreignGang struct {
	ns, name string
	members  int
}

func (g foreignGang) pod(i int) string { return fmt.Sprintf("%s-%d", g.name, i) }

// bind makes the gang. The script finds its member's number in VC_TASK_INDEX, as one
// of a Job does.
func (g foreignGang) bind(t *testing.T, script string) {
	t.Helper()
	apply(t, g.ns, fmt.Sprintf(`
apiVersion: scheduling.volcano.sh/v1beta1
kind: PodGroup
metadata: {name: %s}
spec: {minMember: %d}
`, g.name, g.members))
	text, err := json.Marshal(script) // a JSON string is a YAML string
	if err != nil {
		t.Fatal(err)
	}
	for i := range g.members {
		placed(t, g.ns, here(t).Nodes[0], fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, annotations: {scheduling.k8s.io/group-name: %s}}
spec:
  schedulerName: nobody
  restartPolicy: Never
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 2
  containers:
  - {name: main, image: none, command: [/bin/sh, -c, %s], env: [{name: VC_TASK_INDEX, value: "%d"}], %s}
`, g.pod(i), g.name, text, i, small))
	}
}

// succeeds waits for the end of all members, which one job ran.
func (g foreignGang) succeeds(t *testing.T) {
	t.Helper()
	jobs := map[string]bool{}
	for i := range g.members {
		eventually(t, 5*time.Minute, "pod "+g.pod(i)+" succeeds", func() (bool, string) {
			var p corev1.Pod
			if err := here(t).Client().Get(t.Context(), client.ObjectKey{Namespace: g.ns, Name: g.pod(i)}, &p); err != nil {
				return false, err.Error()
			}
			jobs[p.Annotations[wellknown.BatchJobID]] = p.Status.Phase == corev1.PodSucceeded
			return p.Status.Phase == corev1.PodSucceeded, fmt.Sprint(p.Status.Phase, p.Annotations, p.Status.ContainerStatuses)
		})
	}
	ran := 0
	for _, succeeded := range jobs {
		if succeeded {
			ran++
		}
	}
	if ran != 1 {
		t.Errorf("the members of gang %s ran in jobs %v", g.name, jobs)
	}
}

// remove deletes the pods and waits for nothing.
func (g foreignGang) remove(t *testing.T) {
	t.Helper()
	for i := range g.members {
		kubectl(t, "delete", "pod", g.pod(i), "-n", g.ns, "--wait=false")
	}
}

// waitsForMembers waits until a pod says that others of its PodGroup are missing.
func waitsForMembers(t *testing.T, ns, name, message string) {
	t.Helper()
	eventually(t, time.Minute, "pod "+name+" waits for another", func() (bool, string) {
		var p corev1.Pod
		if err := here(t).Client().Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &p); err != nil {
			return false, err.Error()
		}
		if c := p.Status.ContainerStatuses; len(c) == 1 && c[0].State.Waiting != nil {
			w := c[0].State.Waiting
			return w.Reason == "WaitingForMembers" && strings.Contains(w.Message, message), w.Reason + ": " + w.Message
		}
		return false, fmt.Sprint(p.Status)
	})
}

// manyWait binds pods of as many PodGroups, each of which waits for another pod. A
// daemon that starts beside them reads these PodGroups with one list.
func manyWait(t *testing.T, ns string) {
	t.Helper()
	const many = 20
	var objects strings.Builder
	for i := range many {
		fmt.Fprintf(&objects, `
apiVersion: scheduling.volcano.sh/v1beta1
kind: PodGroup
metadata: {name: many-%d}
spec: {minMember: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: many-%d, annotations: {scheduling.k8s.io/group-name: many-%d}}
spec:
  schedulerName: nobody
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
%s
---`, i, i, i, sleeper)
	}
	apply(t, ns, objects.String())
	for i := range many {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("many-%d", i)}}
		binding := &corev1.Binding{Target: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: here(t).Nodes[0]}}
		if err := here(t).Client().SubResource("binding").Create(t.Context(), pod, binding); err != nil {
			t.Fatal(err)
		}
	}
	for i := range many {
		waitsForMembers(t, ns, fmt.Sprintf("many-%d", i), fmt.Sprintf("1 members of PodGroup %s/many-%d", ns, i))
	}
}
