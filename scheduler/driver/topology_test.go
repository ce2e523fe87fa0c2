package driver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topologyv1 "volcano.sh/apis/pkg/apis/topology/v1alpha1"
	"volcano.sh/apis/pkg/client/clientset/versioned"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// gpuNode makes a real node with 4 GPUs in pairs, which it describes.
func gpuNode(t *testing.T, name string) {
	t.Helper()
	box := gpubox.Box{Version: gpubox.Version, Resource: "nvidia.com/gpu", Links: []gpubox.Link{{A: 0, B: 1, NVLinks: 4}, {A: 2, B: 3, NVLinks: 4}}}
	for i := range 4 {
		box.GPUs = append(box.GPUs, gpubox.GPU{UUID: fmt.Sprintf("GPU-%s-%d", name, i), MemoryMiB: 81920, Mode: gpubox.Exclusive})
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{wellknown.GPUBox: box.Format()}}}
	create(t, n)
	n.Status = corev1.NodeStatus{
		Allocatable: corev1.ResourceList{"cpu": kresource.MustParse("8"), "pods": kresource.MustParse("110"), "nvidia.com/gpu": kresource.MustParse("4")},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}
	n.Status.Capacity = n.Status.Allocatable
	if err := plane.Client.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	n.Spec.Taints = nil // nobody else takes back the taint of a new node
	if err := plane.Client.Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

// TestRackAndGPUs has a gang that demands one rack, before a real API server: it
// goes to the one rack that holds it, every pod is told its GPUs in the write that
// binds it, and the HyperNodes are told how many nodes they have.
func TestRackAndGPUs(t *testing.T) {
	ns := plane.Namespace(t)
	for _, n := range []string{"rack-a-1", "rack-b-1", "rack-b-2"} {
		gpuNode(t, n)
	}
	volcano, err := versioned.NewForConfig(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	hyper := volcano.TopologyV1alpha1().HyperNodes()
	for rack, pattern := range map[string]string{"rack-a": "^rack-a-", "rack-b": "^rack-b-"} {
		h := &topologyv1.HyperNode{ObjectMeta: metav1.ObjectMeta{Name: rack}, Spec: topologyv1.HyperNodeSpec{Tier: 1, Members: []topologyv1.MemberSpec{
			{Type: topologyv1.MemberTypeNode, Selector: topologyv1.MemberSelector{RegexMatch: &topologyv1.RegexMatch{Pattern: pattern}}}}}}
		if _, err := hyper.Create(t.Context(), h, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := hyper.Delete(context.Background(), rack, metav1.DeleteOptions{}); err != nil {
				t.Errorf("delete HyperNode %s: %v", rack, err)
			}
		})
	}
	gang(t, ns, "tight", 2, 2, volcanov1.PodGroupInqueue)
	var pg volcanov1.PodGroup
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "tight"}, &pg); err != nil {
		t.Fatal(err)
	}
	pg.Spec.NetworkTopology = &volcanov1.NetworkTopologySpec{Mode: volcanov1.HardNetworkTopologyMode, HighestTierAllowed: ptr.To(1)}
	if err := plane.Client.Update(t.Context(), &pg); err != nil {
		t.Fatal(err)
	}
	startScheduler(t, &wire{})
	seen := map[string]bool{}
	for _, p := range eventuallyBound(t, ns, "tight", 2) {
		node := p.Spec.NodeName
		if !strings.HasPrefix(node, "rack-b-") {
			t.Errorf("pod %s is on %s", p.Name, node)
		}
		for i := range 4 {
			id := fmt.Sprintf("GPU-%s-%d", node, i)
			if !strings.Contains(p.Annotations[wellknown.GPUIDs], id) || seen[id] {
				t.Errorf("pod %s on %s has the GPUs %q", p.Name, node, p.Annotations[wellknown.GPUIDs])
			}
			seen[id] = true
		}
	}
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		for rack, want := range map[string]int64{"rack-a": 1, "rack-b": 2} {
			h, err := hyper.Get(ctx, rack, metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			if h.Status.NodeCount != want {
				return fmt.Sprintf("HyperNode %s says %d nodes, want %d", rack, h.Status.NodeCount, want)
			}
		}
		return ""
	})
}
