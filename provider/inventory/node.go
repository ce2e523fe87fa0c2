package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// podsPerHost is how many pods a host may hold at once, beside those that wait:
// a batch system has no such limit, and a kubelet's default is of this order.
const podsPerHost = 256

func (v *View) list(amounts map[string]int64) corev1.ResourceList {
	out := corev1.ResourceList{
		corev1.ResourcePods: *resource.NewQuantity(int64(v.VirtualNode.MaxPodsPending)+int64(v.Hosts)*podsPerHost, resource.DecimalSI),
		// Requests for scratch space are not what holds a pod back: the file systems'
		// own quotas hold.
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(1<<60, resource.BinarySI),
		// A node without hosts still says so, rather than nothing.
		corev1.ResourceCPU:    *resource.NewMilliQuantity(0, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(0, resource.BinarySI),
	}
	for name, n := range amounts {
		switch corev1.ResourceName(name) {
		case corev1.ResourceCPU:
			out[corev1.ResourceCPU] = *resource.NewMilliQuantity(n, resource.DecimalSI)
		case corev1.ResourceMemory:
			out[corev1.ResourceMemory] = *resource.NewQuantity(n, resource.BinarySI)
		default:
			out[corev1.ResourceName(name)] = *resource.NewQuantity(n, resource.DecimalSI)
		}
	}
	return out
}

// State is what a node object says beside the hosts.
type State struct {
	Cluster string
	NodeIP  string
	Port    int32
	Version string // shown as the kubelet's version
	System  string // batch system and version, such as "slurm 22.05.8"
	// Enter: programs can be started in running jobs (backends.Capabilities).
	Enter bool
	// Waits is how long a job that is submitted now is expected to wait, by node; nil
	// where the batch system does not estimate starts.
	Waits map[string]time.Duration
	// Arch is the processor architecture of the runner that is handed to compute hosts,
	// in Go's and Kubernetes' words; "" is amd64.
	Arch string
	// Served is what each node tells of the namespaces that have an account, by node;
	// "" is nothing.
	Served map[string]string
	// Reachable: the batch system answered last time; Since is when that changed
	// and Why what it said otherwise.
	Reachable bool
	Since     time.Time
	Why       string
	// Uncertified says why the kubelet API has no serving certificate for the
	// node; "" when it has, or has one from files. Unrenewed says why it gets no
	// other for the one that it has.
	Uncertified, Unrenewed map[string]string
}

// Node makes the node object of a view. Ready is always True: it says that the
// daemon lives. A silent batch system is a condition of its own and a NoSchedule
// taint, so that nothing is evicted.
func Node(v View, s State) *corev1.Node {
	n := &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{
			Name:   v.VirtualNode.Name,
			Labels: Labels(v, s.Cluster),
			Annotations: map[string]string{
				wellknown.HostShapes: v.Shapes.Format(),
				// All nodes of a daemon are served at one address; metrics-server finds
				// the use of each by this.
				wellknown.ResourceMetricsPath: "/metrics/resource/" + v.VirtualNode.Name,
			},
		},
		Spec: corev1.NodeSpec{
			ProviderID: wellknown.ProviderIDScheme + s.Cluster + "/" + v.VirtualNode.Name,
			Taints: append([]corev1.Taint{{
				Key: wellknown.TaintVirtualNode, Value: s.Cluster, Effect: corev1.TaintEffectNoSchedule,
			}}, v.VirtualNode.Taints...),
		},
		Status: corev1.NodeStatus{
			Phase:       corev1.NodeRunning,
			Capacity:    v.Capacity,
			Allocatable: v.Allocatable,
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: s.NodeIP},
				{Type: corev1.NodeHostName, Address: v.VirtualNode.Name},
			},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: s.Port}},
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion: s.Version, OperatingSystem: "linux", Architecture: cmp.Or(s.Arch, "amd64"),
				OSImage: s.System, ContainerRuntimeVersion: "isthmus://host",
			},
		},
	}
	n.Annotations[wellknown.Streams] = "NotServed"
	if s.Enter {
		n.Annotations[wellknown.Streams] = "Served"
	}
	if s.Waits != nil {
		n.Annotations[wellknown.QueueWait] = strconv.FormatInt(int64(s.Waits[v.VirtualNode.Name]/time.Second), 10)
	}
	if served := s.Served[v.VirtualNode.Name]; served != "" {
		n.Annotations[wellknown.ServedNamespaces] = served
	}
	if v.Partition.MaxWalltime > 0 {
		n.Annotations[wellknown.MaxWalltime] = strconv.FormatInt(int64(v.Partition.MaxWalltime/time.Second), 10)
	}
	if s.Arch != "" {
		n.Labels[corev1.LabelArchStable] = s.Arch
	}
	if !s.Reachable {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: wellknown.TaintUnreachable, Value: s.Cluster, Effect: corev1.TaintEffectNoSchedule})
	}
	n.Status.Conditions = conditions(v, s)
	return n
}

// Labels are those of the node of a view of a BatchCluster.
func Labels(v View, cluster string) map[string]string {
	out := maps.Clone(v.VirtualNode.Labels)
	if out == nil {
		out = map[string]string{}
	}
	set := func(key, value string) {
		if len(validation.IsValidLabelValue(value)) == 0 && len(validation.IsQualifiedName(key)) == 0 {
			out[key] = value
		}
	}
	set(corev1.LabelHostname, v.VirtualNode.Name)
	set(corev1.LabelOSStable, "linux")
	set(corev1.LabelArchStable, "amd64")
	set("type", "virtual-kubelet")
	set(corev1.LabelNodeExcludeBalancers, "true")
	set(wellknown.VirtualNode, "true")
	set(wellknown.Cluster, cluster)
	set(wellknown.Partition, v.VirtualNode.Partition)
	for _, f := range v.Features {
		set(wellknown.FeaturePrefix+f, "true")
	}
	if v.Partition.MaxWalltime > 0 {
		set(wellknown.MaxWalltime, strconv.FormatInt(int64(v.Partition.MaxWalltime/time.Second), 10))
	}
	if len(v.GPUTypes) == 1 && v.GPUTypes[0] != "" {
		set(wellknown.GPUModel, v.GPUTypes[0])
	}
	return out
}

func conditions(v View, s State) []corev1.NodeCondition {
	cond := func(t corev1.NodeConditionType, ok bool, reason, message string) corev1.NodeCondition {
		status := corev1.ConditionFalse
		if ok {
			status = corev1.ConditionTrue
		}
		return corev1.NodeCondition{
			Type: t, Status: status, Reason: reason, Message: message,
			LastTransitionTime: metav1.NewTime(s.Since), LastHeartbeatTime: metav1.NewTime(s.Since),
		}
	}
	out := []corev1.NodeCondition{
		cond(corev1.NodeReady, true, "DaemonRunning", "the virtual kubelet is running"),
	}
	switch {
	case s.Reachable:
		out = append(out, cond(wellknown.NodeBatchSystemReachable, true, "Answering", s.System+" answers"))
	default:
		out = append(out, cond(wellknown.NodeBatchSystemReachable, false, "NotAnswering",
			"running jobs are left alone and nothing new is sent: "+s.Why))
	}
	switch {
	case v.Problem != "":
		out = append(out, cond(wellknown.NodePartitionUsable, false, "PartitionNotUsable", v.Problem))
	case v.Hosts == 0:
		out = append(out, cond(wellknown.NodePartitionUsable, false, "NoUsableHost",
			fmt.Sprintf("none of the partition's %d hosts is usable", v.Unusable)))
	default:
		out = append(out, cond(wellknown.NodePartitionUsable, true, "HostsUsable",
			fmt.Sprintf("%d hosts are usable, %d are not", v.Hosts, v.Unusable)))
	}
	if why := s.Uncertified[v.VirtualNode.Name]; why != "" {
		out = append(out, cond(wellknown.NodeServingCertificate, false, "WaitingForCertificate", "kubectl logs and exec do not work: "+why))
	} else if why := s.Unrenewed[v.VirtualNode.Name]; why != "" {
		out = append(out, cond(wellknown.NodeServingCertificate, true, "RenewalWaits", "the kubelet API has a serving certificate and gets no new one: "+why))
	} else {
		out = append(out, cond(wellknown.NodeServingCertificate, true, "CertificateValid", "the kubelet API has a serving certificate"))
	}
	switch unread := "the licences are as they were read last: " + v.LicensesUnread; {
	case len(v.Missing) > 0 && v.LicensesUnread != "":
		out = append(out, cond(wellknown.NodeLimited, true, "NotSupported", "with this batch system and configuration "+limits(v.Missing)+"; "+unread))
	case len(v.Missing) > 0:
		out = append(out, cond(wellknown.NodeLimited, true, "NotSupported", "with this batch system and configuration "+limits(v.Missing)))
	case v.LicensesUnread != "":
		out = append(out, cond(wellknown.NodeLimited, true, "LicensesNotRead", unread))
	default:
		out = append(out, cond(wellknown.NodeLimited, false, "AllSupported", "the batch system has all that can be asked for"))
	}
	for _, t := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeNetworkUnavailable} {
		out = append(out, cond(t, false, "BatchSystemDecides", "the batch system looks after its hosts"))
	}
	return out
}

// Queue is what of ours a node has at the batch system.
type Queue struct {
	PendingJobs, RunningJobs int
	PendingPods              int       // pods of the jobs that wait
	Estimated                time.Time // expected start of the first of those; zero when unknown
	Last                     time.Time // expected start of the last of those; zero when unknown
}

// Wait is how long a job that is submitted now is expected to wait: as long as the
// last of those before it. It is rounded up, to a minute or from ten on to ten
// minutes, since batch systems guess anew with every pass.
func (q Queue) Wait(now time.Time) time.Duration {
	wait := q.Last.Sub(now)
	grain := time.Minute
	if wait > 10*time.Minute {
		grain = 10 * time.Minute
	}
	if q.Last.IsZero() || wait <= 0 {
		return 0
	}
	return (wait + grain - 1).Truncate(grain)
}

// Status sums a view up for the BatchCluster.
func Status(v View, q Queue) hpcv1alpha1.VirtualNodeStatus {
	out := hpcv1alpha1.VirtualNodeStatus{
		Name: v.VirtualNode.Name, Partition: v.VirtualNode.Partition,
		Hosts: clamp(v.Hosts), UnusableHosts: clamp(v.Unusable),
		Overlaps: slices.Clone(v.Overlaps), PendingJobs: clamp(q.PendingJobs), RunningJobs: clamp(q.RunningJobs),
		PendingPods: clamp(q.PendingPods),
		Shapes:      apiShapes(v.Whole), Free: apiShapes(v.Free), Foreign: v.Foreign, Missing: slices.Clone(v.Missing),
	}
	if !q.Estimated.IsZero() {
		// To the minute: batch systems guess anew with every pass.
		at := metav1.NewTime(q.Estimated.Truncate(time.Minute))
		out.EstimatedStart = &at
	}
	return out
}

func apiShapes(shapes []hostshape.Shape) []hpcv1alpha1.HostShape {
	var out []hpcv1alpha1.HostShape
	for _, s := range shapes {
		out = append(out, hpcv1alpha1.HostShape{Count: clamp(int(s.Count)), Resources: resources(s.Resources)})
	}
	return out
}

// resources gives amounts as the API has them, without those that are zero.
func resources(amounts map[string]int64) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, n := range amounts {
		switch {
		case n == 0:
		case corev1.ResourceName(name) == corev1.ResourceCPU:
			out[corev1.ResourceCPU] = *resource.NewMilliQuantity(n, resource.DecimalSI)
		case corev1.ResourceName(name) == corev1.ResourceMemory:
			out[corev1.ResourceMemory] = *resource.NewQuantity(n, resource.BinarySI)
		default:
			out[corev1.ResourceName(name)] = *resource.NewQuantity(n, resource.DecimalSI)
		}
	}
	return out
}

func clamp(n int) int32 { return int32(min(max(n, 0), 1<<31-1)) }
