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

// Use is what the jobs of one virtual node hold.
type Use struct {
	// ByHost is what members that reported their host hold there.
	ByHost map[string]backends.Amounts
	// Unsettled hosts have a job of the node whose members have not all reported:
	// all that is allocated there is taken for its own until they have. To others
	// that have the host too, what is guessed here counts.
	Unsettled map[string]bool
	Guessed   map[string]backends.Amounts
	// Licenses that the node's running jobs hold, by name.
	Licenses map[string]int64
	// Waiting are the node's jobs that wait in the queue, the first first.
	Waiting []Waiting
	// Tags name what runs, as hostshape.Tag does.
	Tags []string
	// Reserved are hosts that are kept from other jobs for the node's own.
	Reserved map[string]bool
}

// Waiting is a job in the queue.
type Waiting struct {
	// Components are nil while the job's directory was not read yet.
	Components []backends.Component
	Tags       []string
}

// View is one virtual node as the batch system makes it.
type View struct {
	VirtualNode hpcv1alpha1.VirtualNode
	Partition   backends.Partition
	// Capacity is what usable hosts have, Allocatable that less foreign use.
	Capacity, Allocatable corev1.ResourceList
	Shapes                hostshape.Shapes
	Hosts, Unusable       int
	// Members are all hosts of the node, usable or not, sorted.
	Members []string
	// Whole are the usable hosts as they are when empty, Free as they are now,
	// Foreign what jobs that are not the node's hold of them.
	Whole    []hostshape.Shape
	Free     []hostshape.Shape
	Foreign  corev1.ResourceList
	Features []string // that all usable hosts have, sorted
	Missing  []string // what the connection to the batch system cannot do
	// Licenses of the batch system, which all its nodes share. LicensesUnread says why
	// these are not of now, and may lack some.
	Licenses       []backends.License
	LicensesUnread string
	GPUTypes       []string // GRES types of the usable hosts, sorted
	Shards         int64    // the most shares that a GPU of the hosts, usable or not, has; 0 where none has any
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

// Views sums up every virtual node; use is by node.
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
		fits := constrained(n, p, hosts, inv.System)
		// Where the hosts of reservations are known, a node that submits into one
		// has those and no other.
		within := n.Reservation != "" && inv.Reservations != nil
		reserved := inv.Reservations[n.Reservation]
		if within && len(reserved) == 0 && out[i].Problem == "" {
			out[i].Problem = fmt.Sprintf("reservation %q is not in force: it has no hosts now", n.Reservation)
		}
		for _, name := range p.Hosts {
			h, known := hosts[name]
			if !known || !n.Includes(name) || !fits(h) || within && !slices.Contains(reserved, name) {
				continue
			}
			members[i][name] = true
			out[i].Shards = max(out[i].Shards, sharesOf(h))
			if h.Usable || h.Reserved && (within || use[n.Name].Reserved[name]) {
				usable = append(usable, h)
			} else {
				out[i].Unusable++
			}
		}
		if out[i].Problem != "" {
			usable = nil // nothing may be placed there
		}
		usableOf[i] = usable
		out[i].Members = slices.Sorted(maps.Keys(members[i]))
	}
	for i := range nodes {
		for j := range nodes {
			if i != j && overlap(members[i], members[j]) {
				out[i].Overlaps = append(out[i].Overlaps, nodes[j].Name)
			}
		}
		slices.Sort(out[i].Overlaps)
	}
	t := taken(use, promises(nodes, usableOf, use, caps))
	with := sharing(nodes, members)
	for i := range nodes {
		out[i].sum(usableOf[i], use, t, with, caps)
		out[i].license(inv, use)
		out[i].Shapes.Counted, out[i].Shapes.CountedMore = counted(out[i].Overlaps, use)
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
func (v *View) sum(usable []backends.Host, uses map[string]Use, t takings, with map[string][]string, caps backends.Capabilities) {
	v.Hosts = len(usable)
	v.Missing = missing(caps)
	name := v.VirtualNode.Name
	capacity, free, taken := map[string]int64{}, map[string]int64{}, map[string]int64{}
	shapes, empty, left := map[string]*hostshape.Shape{}, map[string]*hostshape.Shape{}, map[string]*hostshape.Shape{}
	features := map[string]int{}
	types := map[string]bool{}
	for _, h := range usable {
		whole := v.amounts(h.CPUs, h.MemoryMiB, h.GPUs)
		net := maps.Clone(whole)
		var foreign map[string]int64
		if !uses[name].Unsettled[h.Name] {
			// What is allocated is known since a while ago, our jobs since now: what
			// both know of counts once, and nobody's less than nothing.
			foreign = v.of(h.Allocated)
			for _, a := range t.ours[h.Name] {
				foreign = minus(foreign, v.of(a))
			}
			if v.VirtualNode.ForeignUse != hpcv1alpha1.ForeignUseIgnore {
				net, foreign = minus(whole, foreign), nil
			}
		}
		for other, a := range t.ours[h.Name] {
			if other != name {
				net = minus(net, v.of(a))
			}
		}
		for other, a := range t.promised[h.Name] {
			if other != name {
				net = minus(net, v.of(a))
			}
		}
		net = minus(net, v.of(spoiled(v.heeded(h, uses[name], t))))
		for _, name := range slices.Sorted(maps.Keys(whole)) {
			capacity[name] += whole[name]
			free[name] += net[name]
			taken[name] += whole[name] - net[name] + min(foreign[name], net[name])
		}
		for _, f := range h.Features {
			features[f]++
		}
		count(empty, whole, nil)
		count(left, net, nil)
		for t := range h.GPUs {
			types[t] = t != backends.Shard
		}
		count(shapes, net, without(with[h.Name], name))
	}
	for _, f := range slices.Sorted(maps.Keys(features)) {
		if features[f] == len(usable) {
			v.Features = append(v.Features, f)
		}
	}
	v.Foreign = resources(taken)
	for t, whole := range types {
		if whole {
			v.GPUTypes = append(v.GPUTypes, t)
		}
	}
	slices.Sort(v.GPUTypes)
	v.Capacity, v.Allocatable = v.list(capacity), v.list(free)
	v.Shapes = hostshape.Shapes{ExclusiveComponents: caps.ExclusiveComponents, Shapes: sorted(shapes)}
	v.Whole, v.Free = sorted(empty), sorted(left)
}

// count adds one host to its shape.
func count(shapes map[string]*hostshape.Shape, resources map[string]int64, with []string) {
	id := shapeID(resources) + strings.Join(with, ",")
	if shapes[id] == nil {
		shapes[id] = &hostshape.Shape{Resources: resources, With: with}
	}
	shapes[id].Count++
}

// lacks are what an administrator may expect of a batch system, in words for
// users where it is not there.
var lacks = []struct {
	name  string
	has   func(backends.Capabilities) bool
	words string
}{
	{"History", func(c backends.Capabilities) bool { return c.History }, "how a job ended is known for minutes only, beside what its pods wrote"},
	{"Heterogeneous", func(c backends.Capabilities) bool { return c.Heterogeneous }, "each pod of a gang is given what the largest asks for"},
	{"StartEstimate", func(c backends.Capabilities) bool { return c.StartEstimate }, "when a waiting job starts is not foretold"},
	{"Enter", func(c backends.Capabilities) bool { return c.Enter }, "kubectl exec, attach, port-forward and cp do not reach pods"},
	{"Reservation", func(c backends.Capabilities) bool { return c.Reservation }, "reservations cannot be used"},
	{"Reserve", func(c backends.Capabilities) bool { return c.Reserve }, "Reservation objects keep other gangs of Kubernetes away alone"},
	{"ExcludeHosts", func(c backends.Capabilities) bool { return c.ExcludeHosts }, "includeHosts and excludeHosts cannot leave several hosts out of many"},
	{"Licenses", func(c backends.Capabilities) bool { return c.Licenses }, "licences cannot be asked for"},
	{"Switches", func(c backends.Capabilities) bool { return c.Switches }, "hosts at one switch cannot be asked for"},
	{"Shards", func(c backends.Capabilities) bool { return c.Shards }, "shares of GPUs (shards) cannot be asked for"},
	{"After", func(c backends.Capabilities) bool { return c.After }, "no job waits there for another one, only here"},
	// One host is what is left when all others are left out.
	{"OneHost", func(c backends.Capabilities) bool { return c.OneHost || c.ExcludeHosts }, "nor a single one"},
}

// missing names what an administrator may expect and does not get.
func missing(caps backends.Capabilities) []string {
	var out []string
	for _, l := range lacks {
		if !l.has(caps) {
			out = append(out, l.name)
		}
	}
	return out
}

// limits words what is missing.
func limits(missing []string) string {
	var out []string
	for _, l := range lacks {
		if slices.Contains(missing, l.name) {
			out = append(out, l.words)
		}
	}
	return strings.Join(out, "; ")
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
			// What is shared comes first, so that whoever takes the last first keeps it free.
			-cmp.Compare(len(a.With), len(b.With)), slices.Compare(a.With, b.With),
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
		if t == backends.Shard && slices.Contains(v.Missing, "Shards") {
			continue // nothing that pods can ask for
		}
		out[ResourceFor(v.VirtualNode, t)] += n
	}
	return out
}

func (v *View) of(a backends.Amounts) map[string]int64 {
	return v.amounts(a.CPUs, a.MemoryMiB, a.GPUs)
}

// ResourceFor names the extended resource of a GRES type on a virtual node.
func ResourceFor(n hpcv1alpha1.VirtualNode, gresType string) string {
	if gresType == backends.Shard {
		return wellknown.ResourceGPUShard
	}
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
