package cache

import (
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topologyv1 "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// odd draws objects that an API server might let in and nobody would write on purpose:
// amounts below zero and beyond all bounds, selectors and annotations that cannot be read,
// names that mean nothing, and identities that change.
type odd struct{ *rand.Rand }

// pick draws one of some values.
func pick[T any](r odd, of ...T) T { return of[r.IntN(len(of))] }

// quantity is an amount.
func (r odd) quantity() kresource.Quantity {
	return kresource.MustParse(pick(r, "0", "1", "2", "1", "2", "3", "100m", "1n", "-1", "9223372036854775807", "8Ei", "1e30", "0.5", "4"))
}

// list are amounts by the names of resources.
func (r odd) list() corev1.ResourceList {
	l := corev1.ResourceList{}
	for range r.IntN(4) {
		l[corev1.ResourceName(pick(r, "cpu", "memory", "pods", "nvidia.com/gpu", "volcano.sh/vgpu-number", "volcano.sh/vgpu-memory",
			"volcano.sh/vgpu-cores", "volcano.sh/gpu-memory", "ephemeral-storage", "hugepages-2Mi", "volcano.sh/vgpu-memory-percentage",
			"requests.cpu"))] = r.quantity()
	}
	return l
}

// number32 is a number, of which most are small.
func (r odd) number32() int32 {
	return pick[int32](r, 0, 1, 2, 3, 1, 2, -1, -2147483648, 2147483647, 100)
}

// selector is a selector of labels.
func (r odd) selector() *metav1.LabelSelector {
	return pick(r, nil, &metav1.LabelSelector{}, &metav1.LabelSelector{MatchLabels: map[string]string{"a": pick(r, "1", "2")}},
		&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: pick(r, metav1.LabelSelectorOpIn,
			metav1.LabelSelectorOpExists, metav1.LabelSelectorOpNotIn, "Bad"), Values: pick(r, nil, []string{"1"}, []string{"", "2"})}}})
}

// labels are labels that scheduling reads.
func (r odd) labels() map[string]string {
	l := map[string]string{}
	for range r.IntN(4) {
		l[pick(r, "a", "b", "zone", "kubernetes.io/hostname", "volcano.sh/task-index", "volcano.sh/task-spec", "volcano.sh/preemptable",
			"volcano.sh/cooldown-time", "volcano.sh/nodegroup-name")] = pick(r, "1", "2", "", "true", "x", "10m", "-1h")
	}
	return l
}

// annotations are annotations that scheduling reads, whatever they are read for.
func (r odd) annotations() map[string]string {
	l := map[string]string{}
	for range r.IntN(5) {
		l[pick(r, wellknown.GangAttempt, wellknown.GangSize, wellknown.GangRank, wellknown.GPUIDs, wellknown.ActualGPUIDs, wellknown.TopologyDecision,
			wellknown.RunningEstimate, wellknown.Walltime, wellknown.Nomination, wellknown.Staging, wellknown.Datasets, wellknown.After,
			wellknown.QueueAllocationGate, wellknown.GPULink, wellknown.GPUModes, wellknown.UseGPUType, wellknown.TaskPriority, wellknown.EstimateKey,
			wellknown.HostShapes, wellknown.GPUBox, wellknown.QueueWait,
			"volcano.sh/task-topology-affinity", "volcano.sh/task-topology-anti-affinity", "volcano.sh/task-topology-task-order",
			"volcano.sh/sla-waiting-time", "volcano.sh/revocable-zone", "volcano.sh/preemptable", "volcano.sh/vgpu-ids-new", "volcano.sh/devices-to-allocate",
			"volcano.sh/bind-phase", "volcano.sh/node-vgpu-register", "volcano.sh/vgpu-mode", "volcano.sh/hierarchy", "volcano.sh/hierarchy-weights",
			"volcano.sh/network-topology-mode", "volcano.sh/network-topology-highest-tier", "volcano.sh/numa-topology-policy",
			"scheduling.volcano.sh/queue-name", "scheduling.volcano.sh/group-min-member", "scheduling.volcano.sh/group-min-resources")] =
			pick(r, "", "1", "2", "-1", "x", "9223372036854775807", "true", "{}", "[]", "null", "a,b;c,d", ",;:,", "2562047h47m16s",
				"GPU-a,10,1000,NVIDIA-T4,true,hami-core:", "GPU-a,NVIDIA,100,10:;",
				`{"domain":"nodes","pods":[{"uid":"uid-p1","node":"n1"},{"uid":"uid-p2","node":"n2","name":"p3","needs":[{"name":"cpu","amount":-5}]}],"since":1,"until":1767225900000000000}`,
				`{"domain":"v1","pods":[{"uid":"uid-p1","node":"v1"}],"since":9223372036854775807,"until":1767225900000000000}`,
				`{"shapes":[{"count":3,"resources":{"cpu":4000,"nvidia.com/gpu":2}}]}`,
				`{"shapes":[{"count":9223372036854775807,"resources":{"cpu":9223372036854775807}}]}`, "root/a/b", "1/2/3", "0/0", "hard", "soft", "restricted",
				"single-numa-node", "{\"0\":{\"cpu\":\"1\"}}")
	}
	return l
}

// name is one of n names.
func (r odd) name(p string, n int) string { return fmt.Sprint(p, r.IntN(n)) }

// pod is a pod that waits, is bound, runs or has ended.
func (r odd) pod() *corev1.Pod {
	name := r.name("p", 40)
	p := pod(name, "", "1")
	p.UID = types.UID(pick(r, "uid-", "uid-", "other-") + name)
	p.Labels, p.Annotations = r.labels(), r.annotations()
	if r.IntN(3) > 0 {
		p.Annotations[wellknown.PodGroupName] = r.name("g", 8)
	}
	if r.IntN(4) == 0 {
		p.Spec.SchedulerName = "other"
	}
	p.CreationTimestamp = pick(r, metav1.Time{}, metav1.NewTime(start), metav1.NewTime(start.Add(-time.Hour)), metav1.NewTime(start.Add(time.Hour)))
	p.Spec.Containers[0].Resources.Requests = r.list()
	p.Spec.Containers[0].Resources.Limits = r.list()
	if r.IntN(4) == 0 {
		p.Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: r.list()}}}
	}
	if r.IntN(3) == 0 {
		p.Spec.NodeName = pick(r, "n1", "n2", "v1", "gone")
	}
	p.Status.Phase = pick(r, corev1.PodPending, corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, "", "Odd")
	p.Status.StartTime = pick(r, nil, &metav1.Time{Time: start.Add(-time.Hour)}, &metav1.Time{})
	if r.IntN(6) == 0 {
		p.DeletionTimestamp = &metav1.Time{Time: start}
	}
	if r.IntN(8) == 0 {
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: pick(r, "x", wellknown.QueueAllocationGate)}}
	}
	pr := r.number32()
	p.Spec.Priority = pick(r, nil, &pr)
	if r.IntN(6) == 0 {
		d := pick[int64](r, 0, -5, 1<<62, 60)
		p.Spec.ActiveDeadlineSeconds = &d
	}
	if r.IntN(4) == 0 {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: r.number32(), TopologyKey: pick(r, "zone", "",
			"kubernetes.io/hostname"), WhenUnsatisfiable: pick(r, corev1.DoNotSchedule, corev1.ScheduleAnyway), LabelSelector: r.selector(),
			MinDomains: pick(r, nil, &pr)}}
	}
	if r.IntN(4) == 0 {
		t := corev1.PodAffinityTerm{TopologyKey: pick(r, "zone", "", "kubernetes.io/hostname"), LabelSelector: r.selector(),
			NamespaceSelector: r.selector()}
		p.Spec.Affinity = &corev1.Affinity{}
		switch r.IntN(3) {
		case 0:
			p.Spec.Affinity.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{t}}
		case 1:
			p.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{t},
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: r.number32(), PodAffinityTerm: t}}}
		default:
			p.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: pick(r, corev1.NodeSelectorOpGt, corev1.NodeSelectorOpIn, "Bad"), Values: pick(r, nil, []string{"x"}, []string{"1"})}}}}}}
		}
	}
	if r.IntN(5) == 0 {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: r.number32()}}
	}
	return p
}

// node is a node of either kind.
func (r odd) node() *corev1.Node {
	name := pick(r, "n1", "n2", "v1", "v2", "n3")
	n := node(name, "8")
	n.UID = types.UID(pick(r, "u1", "u2"))
	n.Labels, n.Annotations = r.labels(), r.annotations()
	if name[0] == 'v' {
		n.Labels[wellknown.VirtualNode] = "true"
	}
	if r.IntN(2) == 0 {
		n.Status.Allocatable = r.list()
	} else {
		n.Status.Allocatable["nvidia.com/gpu"] = kresource.MustParse("4")
	}
	n.Spec.Unschedulable = r.IntN(8) == 0
	if r.IntN(8) == 0 {
		n.Status.Conditions = nil
	}
	return n
}

// podGroup is a PodGroup.
func (r odd) podGroup() *volcanov1.PodGroup {
	pg := podGroup(r.name("g", 8), r.number32())
	pg.UID = types.UID(pick(r, "a", "b"))
	pg.Annotations, pg.Labels = r.annotations(), r.labels()
	pg.Spec.Queue = pick(r, "", "default", "q1", "q2", "q3", "root", "none")
	pg.Spec.PriorityClassName = pick(r, "", "pc1", "pc2")
	pg.Status.Phase = pick(r, volcanov1.PodGroupPhase(""), "Pending", "Inqueue", "Running", "Unknown", "Completed", "Odd", "Inqueue", "Inqueue")
	if r.IntN(2) == 0 {
		pg.Spec.MinTaskMember = map[string]int32{"": r.number32(), "x": r.number32()}
	}
	if r.IntN(2) == 0 {
		l := r.list()
		pg.Spec.MinResources = &l
	}
	if r.IntN(3) == 0 {
		tier := int(r.number32())
		pg.Spec.NetworkTopology = &volcanov1.NetworkTopologySpec{Mode: pick(r, volcanov1.HardNetworkTopologyMode, volcanov1.SoftNetworkTopologyMode, ""),
			HighestTierAllowed: pick(r, nil, &tier), HighestTierName: pick(r, "", "t1")}
	}
	if r.IntN(3) == 0 {
		a, b := r.number32(), r.number32()
		for i := range 1 + r.IntN(2) {
			pg.Spec.SubGroupPolicy = append(pg.Spec.SubGroupPolicy, volcanov1.SubGroupPolicySpec{Name: pick(r, "", "s", fmt.Sprint("s", i)),
				SubGroupSize: pick(r, nil, &a), MinSubGroups: pick(r, nil, &b), LabelSelector: r.selector(), MatchLabelKeys: pick(r, nil, []string{"a"},
					[]string{"volcano.sh/task-index"}), NetworkTopology: pg.Spec.NetworkTopology})
		}
	}
	return pg
}

// queue is a queue, which may be above itself.
func (r odd) queue() *volcanov1.Queue {
	q := &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: pick(r, "default", "q1", "q2", "q3", "root"), UID: types.UID(pick(r, "a", "b")),
		Annotations: r.annotations()}}
	q.Spec = volcanov1.QueueSpec{Weight: r.number32(), Capability: r.list(), Deserved: r.list(), Guarantee: volcanov1.Guarantee{Resource: r.list()},
		Parent: pick(r, "", "", "root", "q1", "q2", "q3", "none"), Priority: r.number32(), DequeueStrategy: pick(r, volcanov1.DequeueStrategy(""), "fifo",
			"traverse", "odd")}
	if r.IntN(2) == 0 {
		q.Spec.Capability = nil
	}
	b := r.IntN(2) == 0
	q.Spec.Reclaimable = pick(r, nil, &b)
	q.Status.State = pick(r, volcanov1.QueueState(""), "Open", "Open", "Closed", "Closing", "Unknown")
	return q
}

// hyperNode is a HyperNode, which may be in itself.
func (r odd) hyperNode() *topologyv1.HyperNode {
	h := &topologyv1.HyperNode{ObjectMeta: metav1.ObjectMeta{Name: r.name("h", 4), UID: types.UID(r.name("u", 2))}}
	h.Spec.Tier, h.Spec.TierName = int(r.number32()), pick(r, "", "t1", "t2")
	for range r.IntN(3) {
		m := topologyv1.MemberSpec{Type: pick(r, topologyv1.MemberTypeNode, topologyv1.MemberTypeHyperNode, "Odd")}
		switch r.IntN(4) {
		case 0:
			m.Selector.ExactMatch = &topologyv1.ExactMatch{Name: pick(r, "n1", "n2", "h0", "h1", "h2", "h3", "")}
		case 1:
			m.Selector.RegexMatch = &topologyv1.RegexMatch{Pattern: pick(r, "n.*", "(", "", "h.*")}
		case 2:
			m.Selector.LabelMatch = r.selector()
		}
		h.Spec.Members = append(h.Spec.Members, m)
	}
	return h
}
