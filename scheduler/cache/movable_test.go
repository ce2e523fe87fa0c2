package cache

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batchv1 "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// TestMovable: a pod may be ended to run elsewhere if its owner says so and its Job makes
// it anew, and does nothing else about it. What the PodGroup says may change.
func TestMovable(t *testing.T) {
	job := *metav1.NewControllerRef(&metav1.ObjectMeta{Name: "j", UID: "uid-j"}, batchv1.SchemeGroupVersion.WithKind("Job"))
	for name, tc := range map[string]struct {
		owned      bool
		pod, group map[string]string
		want       bool
	}{
		"by the pod":             {owned: true, pod: map[string]string{volcanov1.PodPreemptable: "true"}, want: true},
		"by the PodGroup":        {owned: true, group: map[string]string{volcanov1.PodPreemptable: "true"}, want: true},
		"of nobody":              {pod: map[string]string{volcanov1.PodPreemptable: "true"}},
		"nobody says so":         {owned: true},
		"by the pod, a policy":   {owned: true, pod: map[string]string{volcanov1.PodPreemptable: "true"}, group: map[string]string{wellknown.EvictionActs: "true"}},
		"by the group, a policy": {owned: true, group: map[string]string{volcanov1.PodPreemptable: "true", wellknown.EvictionActs: "true"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := New()
			c.SetNode(node("n", "8"))
			p := bound(pod("a", "g", "1"), "n", "x", 1, 0)
			for k, v := range tc.pod {
				p.Annotations[k] = v
			}
			if tc.owned {
				p.OwnerReferences = []metav1.OwnerReference{job}
			}
			c.SetPod(p)
			pg := podGroup("g", 1)
			c.SetGroup(pg)
			pg = pg.DeepCopy()
			pg.ResourceVersion, pg.Annotations = "11", tc.group
			c.Snapshot(start)
			c.SetGroup(pg)
			s := c.Snapshot(start)
			if len(s.Gangs) != 1 || len(s.Gangs[0].Pods) != 1 {
				t.Fatalf("one gang of one pod is to be there: %v", s.Gangs)
			}
			if got := s.Gangs[0].Pods[0].Movable; got != tc.want {
				t.Errorf("it is movable: %t, want %t", got, tc.want)
			}
		})
	}
}
