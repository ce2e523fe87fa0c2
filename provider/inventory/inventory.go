// Package inventory turns what a batch system has into what Kubernetes nodes
// show: capacity, what is left after foreign use, host shapes for the gang
// scheduler, labels, taints and conditions. It is pure.
package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1/validation"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// Use is what our own jobs hold.
type Use struct {
	// ByHost is what members that reported their host hold there.
	ByHost map[string]backends.Amounts
	// Unsettled hosts have a job of ours whose members have not all reported:
	// all that is allocated there is taken for ours until they have.
	Unsettled map[string]bool
	// Waiting are the components of our jobs that wait in the queue, the first first.
	Waiting [][]backends.Component
}

// View is one virtual node as the batch system makes it.
type View struct {
	VirtualNode hpcv1alpha1.VirtualNode
	Partition   backends.Partition
	// Capacity is what usable hosts have, Allocatable that less foreign use.
	Capacity, Allocatable corev1.ResourceList
	Shapes                hostshape.Shapes
	Hosts, Unusable       int
	// Whole are the usable hosts as they are when empty, Foreign what jobs that
	// are not ours hold of them.
	Whole    []hostshape.Shape
	Foreign  corev1.ResourceList
	Features []string // that all usable hosts have, sorted
	Missing  []string // what the connection to the batch system cannot do
	GPUTypes []string // GRES types of the usable hosts, sorted
	// Overlaps names virtual nodes that share hosts with this one.
	Overlaps []string
	// Problem says why the node cannot be served; empty when it can.
	Problem string
}

// Defaults gives one virtual node for each partition, <cluster>-<partition>,
// for a BatchCluster that lists none.
func Defaults(cluster string, inv backends.Inventory) []hpcv1alpha1.VirtualNode {
	var out []hpcv1alpha1.VirtualNode
	for _, p := range inv.Partitions {
		out = append(out, hpcv1alpha1.VirtualNode{Name: nodeName(cluster, p.Name), Partition: p.Name, MaxPodsPending: validation.DefaultMaxPodsPending})
	}
	return out
}

// nodeName makes a DNS label of two names: what is not allowed becomes "-".
func nodeName(cluster, partition string) string {
	s := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, cluster+"-"+partition)
	if len(s) > 63 {
		s = s[:63]
	}
	return strings.Trim(s, "-")
}

// Views sums up every virtual node; use is by partition.
func Views(nodes []hpcv1alpha1.VirtualNode, inv backends.Inventory, use map[string]Use, caps backends.Capabilities) []View {
	hosts := map[string]backends.Host{}
	for _, h := range inv.Hosts {
		hosts[h.Name] = h
	}
	partitions := map[string]backends.Partition{}
	for _, p := range inv.Partitions {
		partitions[p.Name] = p
	}
	members := make([]map[string]bool, len(nodes))
	usableOf := make([][]backends.Host, len(nodes))
	out := make([]View, len(nodes))
	for i, n := range nodes {
		if n.MaxPodsPending == 0 {
			n.MaxPodsPending = validation.DefaultMaxPodsPending
		}
		p, ok := partitions[n.Partition]
		out[i] = View{VirtualNode: n, Partition: p}
		if !ok {
			out[i].Problem = fmt.Sprintf("the batch system has no partition %q; it has %s",
				n.Partition, strings.Join(slices.Sorted(maps.Keys(partitions)), ", "))
		} else if !p.Up {
			out[i].Problem = fmt.Sprintf("partition %q is not up", n.Partition)
		}
		members[i] = map[string]bool{}
		var usable []backends.Host
		for _, name := range p.Hosts {
			h, known := hosts[name]
			if !known || !n.Includes(name) {
				continue
			}
			members[i][name] = true
			if h.Usable {
				usable = append(usable, h)
			} else {
				out[i].Unusable++
			}
		}
		if out[i].Problem != "" {
			usable = nil // nothing may be placed there
		}
		usableOf[i] = usable
	}
	promised := promises(nodes, usableOf, use, caps)
	for i, n := range nodes {
		out[i].sum(usableOf[i], use[n.Partition], promised, caps)
	}
	for i := range nodes {
		for j := range nodes {
			if i != j && overlap(members[i], members[j]) {
				out[i].Overlaps = append(out[i].Overlaps, nodes[j].Name)
			}
		}
		slices.Sort(out[i].Overlaps)
	}
	return out
}

func overlap(a, b map[string]bool) bool {
	for h := range a {
		if b[h] {
			return true
		}
	}
	return false
}

// sum adds the hosts up.
func (v *View) sum(usable []backends.Host, use Use, promised map[string]map[string]backends.Amounts, caps backends.Capabilities) {
	v.Hosts = len(usable)
	v.Missing = missing(caps)
	capacity, free, taken := map[string]int64{}, map[string]int64{}, map[string]int64{}
	shapes, empty := map[string]*hostshape.Shape{}, map[string]*hostshape.Shape{}
	features := map[string]int{}
	types := map[string]bool{}
	for _, h := range usable {
		whole := v.amounts(h.CPUs, h.MemoryMiB, h.GPUs)
		net := maps.Clone(whole)
		if !use.Unsettled[h.Name] {
			foreign := minus(v.amounts(h.Allocated.CPUs, h.Allocated.MemoryMiB, h.Allocated.GPUs),
				v.amounts(use.ByHost[h.Name].CPUs, use.ByHost[h.Name].MemoryMiB, use.ByHost[h.Name].GPUs))
			net = minus(whole, foreign)
		}
		for partition, held := range promised {
			if a, ok := held[h.Name]; ok && partition != v.VirtualNode.Partition {
				net = minus(net, v.amounts(a.CPUs, a.MemoryMiB, a.GPUs))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(whole)) {
			capacity[name] += whole[name]
			free[name] += net[name]
			taken[name] += whole[name] - net[name]
		}
		for _, f := range h.Features {
			features[f]++
		}
		count(empty, whole)
		for t := range h.GPUs {
			types[t] = true
		}
		count(shapes, net)
	}
	for _, f := range slices.Sorted(maps.Keys(features)) {
		if features[f] == len(usable) {
			v.Features = append(v.Features, f)
		}
	}
	v.Foreign = resources(taken)
	v.GPUTypes = slices.Sorted(maps.Keys(types))
	v.Capacity, v.Allocatable = v.list(capacity), v.list(free)
	v.Shapes = hostshape.Shapes{ExclusiveComponents: caps.ExclusiveComponents, Shapes: sorted(shapes)}
	v.Whole = sorted(empty)
}

// count adds one host to its shape.
func count(shapes map[string]*hostshape.Shape, resources map[string]int64) {
	id := shapeID(resources)
	if shapes[id] == nil {
		shapes[id] = &hostshape.Shape{Resources: resources}
	}
	shapes[id].Count++
}

// missing names what an administrator may expect and does not get.
func missing(caps backends.Capabilities) []string {
	var out []string
	for _, c := range []struct {
		name string
		has  bool
	}{
		{"History", caps.History}, {"Heterogeneous", caps.Heterogeneous}, {"StartEstimate", caps.StartEstimate},
		{"Enter", caps.Enter}, {"Reservation", caps.Reservation},
	} {
		if !c.has {
			out = append(out, c.name)
		}
	}
	return out
}

// sorted lists shapes, the largest first.
func sorted(shapes map[string]*hostshape.Shape) []hostshape.Shape {
	out := []hostshape.Shape{}
	for _, s := range shapes {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b hostshape.Shape) int {
		return cmp.Or(
			cmp.Compare(gpus(b.Resources), gpus(a.Resources)),
			cmp.Compare(b.Resources[string(corev1.ResourceCPU)], a.Resources[string(corev1.ResourceCPU)]),
			cmp.Compare(b.Resources[string(corev1.ResourceMemory)], a.Resources[string(corev1.ResourceMemory)]),
			cmp.Compare(shapeID(a.Resources), shapeID(b.Resources)),
		)
	})
	return out
}

// amounts gives a host's resources under their Kubernetes names: cpu in
// millicores, memory in bytes, devices as they are.
func (v *View) amounts(cpus, memoryMiB int64, gres map[string]int64) map[string]int64 {
	out := map[string]int64{
		string(corev1.ResourceCPU):    cpus * 1000,
		string(corev1.ResourceMemory): memoryMiB << 20,
	}
	for t, n := range gres {
		out[ResourceFor(v.VirtualNode, t)] += n
	}
	return out
}

// ResourceFor names the extended resource of a GRES type on a virtual node.
func ResourceFor(n hpcv1alpha1.VirtualNode, gresType string) string {
	if name := n.GPUResources[gresType]; name != "" {
		return name
	}
	return wellknown.ResourceNvidiaGPU
}

// minus subtracts, never below zero.
func minus(a, b map[string]int64) map[string]int64 {
	out := make(map[string]int64, len(a))
	for name, x := range a {
		out[name] = max(0, x-b[name])
	}
	return out
}

func gpus(r map[string]int64) int64 {
	var n int64
	for name, x := range r {
		if name != string(corev1.ResourceCPU) && name != string(corev1.ResourceMemory) {
			n += x
		}
	}
	return n
}

func shapeID(r map[string]int64) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r)) {
		fmt.Fprintf(&b, "%s=%d,", name, r[name])
	}
	return b.String()
}
