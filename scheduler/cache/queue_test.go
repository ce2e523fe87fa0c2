package cache_test

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestEveryFieldOfAQueueArrives sets every field that scheduling reads.
func TestEveryFieldOfAQueueArrives(t *testing.T) {
	list := func(cpu string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": kresource.MustParse(cpu), "nvidia.com/gpu": kresource.MustParse("8")}
	}
	amounts := func(milli int64) resource.List {
		return resource.List{{Name: "cpu", Amount: milli}, {Name: "nvidia.com/gpu", Amount: 8}}
	}
	c := cache.New()
	c.SetQueue(&volcanov1.Queue{
		ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u", Annotations: map[string]string{
			"volcano.sh/hierarchy": "root/a", "volcano.sh/hierarchy-weights": "1/2",
		}},
		Spec: volcanov1.QueueSpec{
			Weight: 3, Priority: 7, Parent: "team", Reclaimable: ptr.To(false), DequeueStrategy: volcanov1.DequeueStrategyFIFO,
			Capability: list("1500m"), Deserved: list("1200m"), Guarantee: volcanov1.Guarantee{Resource: list("1")},
			Affinity: &volcanov1.Affinity{
				NodeGroupAffinity:     &volcanov1.NodeGroupAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []string{"b", "a"}, PreferredDuringSchedulingIgnoredDuringExecution: []string{"a"}},
				NodeGroupAntiAffinity: &volcanov1.NodeGroupAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []string{"c"}, PreferredDuringSchedulingIgnoredDuringExecution: []string{"d"}},
			},
		},
		Status: volcanov1.QueueStatus{State: volcanov1.QueueStateClosing},
	})
	want := snapshot.Queue{
		Name: "a", UID: "u", Weight: 3, Priority: 7, State: "Closing", Parent: "team",
		Capability: amounts(1500), Deserved: amounts(1200), Guarantee: amounts(1000), Unreclaimable: true, Dequeue: "fifo",
		Groups:    &snapshot.NodeGroups{Required: []string{"a", "b"}, Preferred: []string{"a"}, Forbidden: []string{"c"}, PreferredAway: []string{"d"}},
		Hierarchy: "root/a", HierarchyWeights: "1/2",
	}
	if got := *c.Snapshot(time.Unix(0, 0)).Queue("a"); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
