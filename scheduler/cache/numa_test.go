package cache

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	nodeinfov1 "volcano.sh/apis/pkg/apis/nodeinfo/v1alpha1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestNumatopologyOfANode comes before its node or after it, and goes.
func TestNumatopologyOfANode(t *testing.T) {
	topology := &nodeinfov1.Numatopology{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "t"}, Spec: nodeinfov1.NumatopoSpec{
		Policies:   map[nodeinfov1.PolicyName]string{nodeinfov1.CPUManagerPolicy: "static", nodeinfov1.TopologyManagerPolicy: "restricted"},
		NumaResMap: map[string]nodeinfov1.ResourceInfo{"cpu": {Allocatable: "1, 4-5"}},
		CPUDetail:  map[string]nodeinfov1.CPUInfo{"0": {}, "1": {}, "4": {NUMANodeID: 1}, "5": {NUMANodeID: 1}, "6": {NUMANodeID: 1}, "x": {}},
	}}
	want := &snapshot.NUMA{Policy: "restricted", Static: true, Cells: []snapshot.Cell{{ID: 0, CPUs: 2, Free: 1}, {ID: 1, CPUs: 3, Free: 2}}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "n"}}
	for _, first := range []bool{true, false} {
		c := New()
		if first {
			c.SetNumatopology(topology)
		}
		c.SetNode(node)
		c.Snapshot(start)
		if !first {
			c.SetNumatopology(topology)
		}
		if got := c.Snapshot(start).Nodes[0].NUMA; !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		c.DeleteNumatopology("n", "another")
		if c.Snapshot(start).Nodes[0].NUMA == nil {
			t.Error("another's end was taken for this one's")
		}
		c.DeleteNumatopology("n", "t")
		if got := c.Snapshot(start).Nodes[0].NUMA; got != nil {
			t.Errorf("it is still %+v", got)
		}
	}
	for text, want := range map[string]int{"": 0, "0-3,8": 5, "3": 1, "x": 0, "0-999999999": 0, "-1": 0, "5-2": 0} {
		if got := len(cpuSet(text)); got != want {
			t.Errorf("%q has %d processors, want %d", text, got, want)
		}
	}
}

// TestNUMAAskOfAPod is about Guaranteed pods alone.
func TestNUMAAskOfAPod(t *testing.T) {
	list := func(cpu string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": kresource.MustParse(cpu), "memory": kresource.MustParse("1Gi")}
	}
	pod := func(policy string, requests, limits corev1.ResourceList, cpus ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"volcano.sh/numa-topology-policy": policy}}}
		for _, cpu := range cpus {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Resources: corev1.ResourceRequirements{Requests: list(cpu), Limits: list(cpu)}})
		}
		if requests != nil || limits != nil {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}})
		}
		return p
	}
	for _, c := range []struct {
		pod  *corev1.Pod
		want *snapshot.NUMAAsk
	}{
		{pod("best-effort", nil, nil, "2", "500m"), &snapshot.NUMAAsk{Policy: "best-effort", CPUs: []int64{2, 0}}},
		{pod("single-numa-node", nil, list("3")), &snapshot.NUMAAsk{Policy: "single-numa-node", CPUs: []int64{3}}},
		{pod("none", nil, nil, "2"), nil},
		{pod("", nil, nil, "2"), nil},
		{pod("nonsense", nil, nil, "2"), nil},
		{pod("restricted", nil, nil, "1500m"), nil},
		{pod("restricted", list("1"), list("2")), nil},
		{pod("restricted", list("1"), nil), nil},
	} {
		if got := numaAsk(c.pod); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %+v, want %+v", c.pod, got, c.want)
		}
	}
	cells := []snapshot.CellShare{{ID: 0, CPUs: 4}, {ID: 1, CPUs: 12}}
	if text := Decision(cells); text != `{"numa":{"0":{"cpu":"4"},"1":{"cpu":"12"}}}` || !reflect.DeepEqual(decided(text), cells) {
		t.Errorf("%s is read as %+v", text, decided(text))
	}
	for _, text := range []string{"", "{", `{"numa":{"x":{"cpu":"1"}}}`, `{"numa":{"0":{"cpu":"-1"}}}`} {
		if got := decided(text); got != nil {
			t.Errorf("%s is read as %+v", text, got)
		}
	}
}
