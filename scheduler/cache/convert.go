package cache

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	batchv1 "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// podEntry is a pod as far as scheduling sees it.
type podEntry struct {
	pod      snapshot.Pod // as the API says; Class is unset
	class    string
	spec     snapshot.ClassSpec
	gang     string            // "" when the pod is not ours
	stand    snapshot.GangSpec // the gang when there is no PodGroup object
	priority int32
	patient  bool
	job      string // UID of the Job that makes it anew under its name, "" for none
	// estimate is how long the pod runs, and who says so.
	estimate     int64
	estimateFrom string

	past   history
	handed handed
	// reads names datasets.
	reads []string
	// images are those of its containers; pictured says that its class has them.
	images   []string
	pictured bool

	labels                  map[string]string
	waitReason, waitMessage string // the PodScheduled=False condition shown now

	on string // the node entry this pod is linked to
}

func (e *podEntry) equal(o *podEntry) bool {
	if e.class != o.class || e.pod.Node != o.pod.Node || e.pod.Phase != o.pod.Phase {
		return false // the usual differences, before the dear look at everything
	}
	a, b := *e, *o
	a.on, b.on = "", ""
	return reflect.DeepEqual(a, b) //nolint:govet // a difference in a parsed selector is a difference, an error in it included
}

// Serve says which scheduler names of pods are this scheduler's; without it they
// are volcano and isthmus. It must be called before the cache is given anything.
func (c *Cache) Serve(names ...string) { c.names = slices.Clone(names) }

func (c *Cache) ours(p *corev1.Pod) bool { return slices.Contains(c.names, p.Spec.SchedulerName) }

// Await lets a pod that names no PodGroup wait so long for the controllers to give
// it one, from when it is first seen; then it is a gang of its own. Without it
// nobody is waited for. It must be called before the cache is given anything.
func (c *Cache) Await(d time.Duration) { c.await = d }

// awaitGroup holds a new plain pod back for a while.
func (c *Cache) awaitGroup(e *gangEntry, now time.Time) {
	if c.await <= 0 || e.group != nil || !e.seen.IsZero() {
		return
	}
	for _, p := range e.pods {
		if !p.stand.Plain || p.pod.Node != "" {
			return
		}
		e.seen = now
		// A pod that is older has waited under an earlier scheduler.
		if left := c.await - now.Sub(time.Unix(0, p.stand.CreatedAt)); left > 0 && e.hold == "" {
			e.hold, e.until, e.snap = "waits for its PodGroup, which the controllers make", now.Add(min(left, c.await)), nil
		}
	}
}

func groupKey(namespace, name string) string { return "podgroup/" + namespace + "/" + name }

func newPodEntry(p *corev1.Pod, ours bool) *podEntry {
	e := &podEntry{
		pod: snapshot.Pod{
			UID: string(p.UID), Namespace: p.Namespace, Name: p.Name,
			Phase: string(p.Status.Phase), Node: p.Spec.NodeName,
			Attempt:     p.Annotations[wellknown.GangAttempt],
			Size:        number(p.Annotations[wellknown.GangSize]),
			Rank:        number(p.Annotations[wellknown.GangRank]),
			Submitted:   p.Annotations[wellknown.SubmitIntent] != "" || p.Annotations[wellknown.BatchJobID] != "",
			Gated:       len(p.Spec.SchedulingGates) > 0,
			Terminating: p.DeletionTimestamp != nil,
		},
	}
	if after := p.Annotations[wellknown.After]; after != "" {
		e.pod.After = strings.Split(after, ",")
	}
	e.pod.Gate = gateOf(p)
	if e.pod.Phase == "" || e.pod.Phase == string(corev1.PodUnknown) {
		e.pod.Phase = snapshot.PodPending
	}
	e.pod.Devices = devicesOf(p)
	e.handed = handedOf(p)
	e.pod.Cells = decided(p.Annotations[wellknown.TopologyDecision])
	if p.Spec.NodeName == "" {
		// Only a binding of ours writes these; on an unbound pod they mean nothing.
		e.pod.Attempt, e.pod.Size, e.pod.Rank, e.pod.Devices, e.pod.Cells = "", 0, 0, nil, nil
	}
	e.spec.Requests = requests(p)
	e.spec.HostPorts = hostPorts(p)
	e.spec.GPU = gpuSpec(p, e.spec.Requests)
	e.labels = p.Labels
	e.spec.Claims = asksOf(p)
	e.spec.Peers = peersOf(p, ours)
	if ours {
		ourPod(e, p)
	}
	e.class = e.spec.Key()
	return e
}

// gateOf says what is between a pod and its queue's room. A pod that others hold back
// as well waits for them first, so that no room is kept for it in vain.
func gateOf(p *corev1.Pod) string {
	gates := p.Spec.SchedulingGates
	switch {
	case len(gates) == 1 && gates[0].Name == wellknown.QueueAllocationGate:
		return snapshot.GateClosed
	case len(gates) == 0 && p.Annotations[wellknown.QueueAllocationGate] == "true":
		return snapshot.GateOpen
	}
	return ""
}

// ourPod fills in what matters for placing and grouping a pod.
func ourPod(e *podEntry, p *corev1.Pod) {
	e.pod.Task = firstOf(p.Annotations[batchv1.TaskSpecKey], p.Labels[batchv1.TaskSpecKey])
	e.pod.Priority = podPriority(p.Annotations, p.Spec.Priority)
	e.pod.Index = number(firstOf(p.Annotations[batchv1.TaskIndex], p.Labels[batchv1.TaskIndex]))
	e.spec.NodeSelector = p.Spec.NodeSelector
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		e.spec.Affinity = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		e.spec.PreferredNodes = a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	}
	e.spec.Tolerations = p.Spec.Tolerations
	e.spec.NUMA = numaAsk(p)
	e.images = imagesAsked(p)
	if ref := metav1.GetControllerOf(p); ref != nil {
		e.spec.DaemonSet = ref.Kind == "DaemonSet"
	}
	if p.Spec.Priority != nil {
		e.priority = *p.Spec.Priority
	}
	contend(e, p)
	e.reads = listOf(p.Annotations[wellknown.Datasets])
	group := firstOf(p.Annotations[wellknown.PodGroupName], p.Annotations[volcanov1.VolcanoGroupNameAnnotationKey])
	e.stand = snapshot.GangSpec{
		Key: groupKey(p.Namespace, group), Namespace: p.Namespace, Name: group, Absent: true, MinMember: 1,
		Queue: firstOf(p.Annotations[volcanov1.QueueNameAnnotationKey], volcanov1.DefaultQueue),
	}
	native := ""
	if p.Spec.SchedulingGroup != nil && p.Spec.SchedulingGroup.PodGroupName != nil {
		native = *p.Spec.SchedulingGroup.PodGroupName
	}
	switch {
	case native != "" && group == "":
		e.stand.Key, e.stand.Name, e.stand.Native = nativeKey(p.Namespace, native), native, true
		e.gang = e.stand.Key
	case group == "" && number(p.Annotations[volcanov1.VolcanoGroupMinMemberAnnotationKey]) > 1:
		// It does not go alone: the controllers make the PodGroup.
		e.stand.Name = ownersGroup(p)
		e.stand.Key = groupKey(p.Namespace, e.stand.Name)
		e.gang = e.stand.Key
	case group == "":
		e.stand.Key, e.stand.Name = "pod/"+p.Namespace+"/"+p.Name, p.Name
		e.stand.UID, e.stand.Plain, e.stand.Absent = e.pod.UID, true, false
		e.stand.CreatedAt = p.CreationTimestamp.UnixNano()
		e.stand.WaitAtMost = waitAtMost(p.Annotations)
		// Two pods of one name may overlap in the watch; each is its own gang.
		e.gang = e.stand.Key + "/" + e.pod.UID
		e.stand.Key = e.gang
	default:
		e.gang = e.stand.Key
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			e.waitReason, e.waitMessage = c.Reason, c.Message
		}
	}
}

// ownersGroup is the name of the PodGroup that the controllers make for the pod:
// podgroup- and the UID of the owner that controls it, or else its own.
func ownersGroup(p *corev1.Pod) string {
	if ref := metav1.GetControllerOf(p); ref != nil {
		return batchv1.PodgroupNamePrefix + string(ref.UID)
	}
	return batchv1.PodgroupNamePrefix + string(p.UID)
}

// loose reports whether the pods of a PodGroup do not need each other: it is the
// one that the controllers make for an owner, and asks for one pod anywhere.
func loose(pg *volcanov1.PodGroup) bool {
	ref := metav1.GetControllerOf(pg)
	return ref != nil && pg.Name == batchv1.PodgroupNamePrefix+string(ref.UID) &&
		pg.Spec.MinMember <= 1 && len(pg.Spec.MinTaskMember) == 0 && len(pg.Spec.SubGroupPolicy) == 0
}

// A pod that is made smaller in place holds what it had until the kubelet has done so.
func requests(p *corev1.Pod) resource.List {
	qs := []resource.Quantity{{Name: string(corev1.ResourcePods), Amount: 1}}
	for name, q := range resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{UseStatusResources: true}) {
		if v := resource.Requested(string(name), q); v > 0 {
			qs = append(qs, resource.Quantity{Name: string(name), Amount: v})
		}
	}
	return resource.MakeList(qs...)
}

func hostPorts(p *corev1.Pod) []snapshot.HostPort {
	var out []snapshot.HostPort
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range cs {
			for _, port := range c.Ports {
				if port.HostPort == 0 {
					continue
				}
				ip := port.HostIP
				if ip == "0.0.0.0" || ip == "::" {
					ip = ""
				}
				out = append(out, snapshot.HostPort{Protocol: firstOf(string(port.Protocol), "TCP"), IP: ip, Port: port.HostPort})
			}
		}
	}
	return out
}

func nodeSpec(n *corev1.Node) snapshot.NodeSpec {
	spec := snapshot.NodeSpec{
		Name: n.Name, UID: string(n.UID), Labels: n.Labels, Taints: n.Spec.Taints,
		Unschedulable: n.Spec.Unschedulable, Virtual: n.Labels[wellknown.VirtualNode] == "true",
	}
	if spec.Virtual {
		spec.Wait = number(n.Annotations[wellknown.QueueWait])
		if text, ok := n.Annotations[wellknown.ServedNamespaces]; ok {
			// What cannot be read keeps nobody away: the daemon knows better.
			spec.Serves, _ = snapshot.ParseServed(text)
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			spec.Ready = c.Status == corev1.ConditionTrue
		}
	}
	if box, err := boxOf(n); err != nil && !spec.Virtual {
		spec.Broken = err.Error()
	} else if !spec.Virtual {
		spec.GPUs = box
	}
	var qs []resource.Quantity
	for name, q := range n.Status.Allocatable {
		qs = append(qs, resource.Quantity{Name: string(name), Amount: resource.Offered(string(name), q)})
	}
	spec.Allocatable = resource.MakeList(qs...)
	if text, ok := n.Annotations[wellknown.HostShapes]; ok && spec.Virtual {
		shapes, err := hostshape.Parse(text)
		if err != nil {
			spec.Broken = err.Error()
		} else {
			spec.Shapes = &shapes
		}
	}
	return spec
}

// groupSpec is a PodGroup; its priority class is resolved when compiled.
type groupSpec struct {
	snapshot.GangSpec
	priorityClass  string
	nativePriority *int32 // resolved by the API server
	policies       []subGroupPolicy
	version        string
	estimateKey    string
	reads          []string // datasets
	protected      string   // why none of its pods may have to make room
	yields         bool     // its pods say by it that they may have to
}

func newGroupSpec(pg *volcanov1.PodGroup) groupSpec {
	g := groupSpec{
		GangSpec: snapshot.GangSpec{
			Key: groupKey(pg.Namespace, pg.Name), UID: string(pg.UID), Namespace: pg.Namespace, Name: pg.Name,
			Queue: firstOf(pg.Spec.Queue, volcanov1.DefaultQueue), CreatedAt: pg.CreationTimestamp.UnixNano(),
			MinMember: int64(pg.Spec.MinMember), Status: groupStatus(pg.Status),
			Topology: topologyOf(pg.Spec.NetworkTopology, pg.Annotations), WaitAtMost: waitAtMost(pg.Annotations),
			Tasks: taskTopologyOf(pg.Annotations),
		},
		priorityClass: pg.Spec.PriorityClassName,
		policies:      subGroupsOf(pg.Spec.SubGroupPolicy),
		version:       pg.ResourceVersion,
		estimateKey:   pg.Annotations[wellknown.EstimateKey],
		reads:         listOf(pg.Annotations[wellknown.Datasets]),
	}
	g.Loose = g.Topology == nil && loose(pg)
	for _, p := range g.policies {
		g.SubGroups = append(g.SubGroups, p.SubGroup)
	}
	g.Nominated, g.Staging = nominationOf(pg.Annotations), pg.Annotations[wellknown.Staging]
	if d := duration(pg.Annotations[wellknown.RunningEstimate]); d > 0 {
		g.Estimate, g.EstimateFrom = int64(d), snapshot.EstimateDeclared
	}
	if keeps(pg.Labels) || keeps(pg.Annotations) {
		g.protected = "its PodGroup says that it is not to be preempted"
	}
	g.yields = yields(pg.Labels) || yields(pg.Annotations)
	for task, n := range pg.Spec.MinTaskMember {
		g.MinTask = append(g.MinTask, snapshot.TaskMinimum{Task: task, Min: int64(n)})
	}
	slices.SortFunc(g.MinTask, func(a, b snapshot.TaskMinimum) int { return strings.Compare(a.Task, b.Task) })
	if pg.Spec.MinResources != nil {
		var qs []resource.Quantity
		for name, q := range *pg.Spec.MinResources {
			qs = append(qs, resource.Quantity{Name: string(name), Amount: resource.Requested(snapshot.QuotaBase(string(name)), q)})
		}
		g.MinResources = resource.MakeList(qs...)
	}
	return g
}

func groupStatus(s volcanov1.PodGroupStatus) snapshot.GroupStatus {
	out := snapshot.GroupStatus{Phase: string(s.Phase), Running: int64(s.Running), Succeeded: int64(s.Succeeded), Failed: int64(s.Failed)}
	for _, c := range s.Conditions {
		out.Conditions = append(out.Conditions, snapshot.Condition{Type: string(c.Type), Status: string(c.Status), Reason: c.Reason, Message: c.Message})
	}
	slices.SortStableFunc(out.Conditions, func(a, b snapshot.Condition) int { return strings.Compare(a.Type, b.Type) })
	return out
}

// gpuSpec is what a pod says about its GPUs, nil for nothing.
func gpuSpec(p *corev1.Pod, requests resource.List) *snapshot.GPUSpec {
	a := p.Annotations
	s := snapshot.GPUSpec{
		Joined: a[wellknown.GPULink] == "required",
		Models: listOf(strings.ToLower(a[wellknown.UseGPUType])), NotModels: listOf(strings.ToLower(a[wellknown.NoUseGPUType])),
		UUIDs: listOf(a[wellknown.UseGPUUUID]), NotUUIDs: listOf(a[wellknown.NoUseGPUUUID]),
		Modes: listOf(a[wellknown.GPUModes]), Scattered: scattered(p),
	}
	s.Modes = append(s.Modes, volcanosMode(p)...)
	if snapshot.SharesGPUs(requests) {
		s.Tenant = p.Namespace
	}
	if reflect.DeepEqual(s, snapshot.GPUSpec{}) {
		return nil
	}
	return &s
}

// Devices splits a list of UUIDs as GPUIDs holds them.
func Devices(text string) []string { return listOf(text) }

// listOf splits a list with commas, leaving out what is empty.
func listOf(text string) []string {
	var out []string
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// number reads a decimal annotation; anything else is 0, as is a negative one.
func number(s string) int64 {
	v, err := strconv.ParseInt(s, 10, 32)
	if err != nil || v < 0 {
		return 0
	}
	return v
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
