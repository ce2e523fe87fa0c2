package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

const mib = 1 << 20

// shape is what one task asks of the batch system.
type shape struct {
	cpus, memoryMiB int64
	gpus            map[string]int64 // by GRES type
}

func (s shape) equal(o shape) bool {
	return s.cpus == o.cpus && s.memoryMiB == o.memoryMiB && maps.Equal(s.gpus, o.gpus)
}

// components groups members of equal shape in rank order: the first shape seen
// is the first component. order holds, by task rank, the index of the member.
func (g *gang) components(shapes []shape) (components []backends.Component, order []int) {
	var distinct []shape
	var groups [][]int
	for i, s := range shapes {
		k := slices.IndexFunc(distinct, s.equal)
		if k < 0 || s.gpus[backends.Shard] > 0 { // shares are counted by host: such a member is a component of its own
			k = len(distinct)
			distinct, groups = append(distinct, s), append(groups, nil)
			if len(distinct) > backends.MaxComponents {
				break
			}
		}
		groups[k] = append(groups[k], i)
	}
	if why := g.shardsInVain(shapes, len(distinct)); why != "" {
		g.refuseAll(why)
		return nil, nil
	}
	if len(distinct) > 1 && (!g.in.Capabilities.Heterogeneous || len(distinct) > backends.MaxComponents) {
		largest := shape{gpus: map[string]int64{}}
		for _, s := range shapes {
			largest.cpus, largest.memoryMiB = max(largest.cpus, s.cpus), max(largest.memoryMiB, s.memoryMiB)
			for t, n := range s.gpus {
				largest.gpus[t] = max(largest.gpus[t], n)
			}
		}
		g.note("the members of the gang ask for unequal resources, which this batch system cannot give to one job; each member gets the largest request of all")
		distinct, groups = []shape{largest}, [][]int{make([]int, len(shapes))}
		for i := range shapes {
			groups[0][i] = i
		}
	}
	for k, s := range distinct {
		c := backends.Component{Tasks: len(groups[k]), CPUs: s.cpus, MemoryMiB: s.memoryMiB}
		if len(s.gpus) > 0 {
			c.GPUs = maps.Clone(s.gpus)
		}
		components = append(components, c)
		order = append(order, groups[k]...)
	}
	return components, order
}

// shardsInVain says why a gang whose members ask for shares of GPUs can never have a job
// of so many components, "" when it may. Schedulers do not see that: to them, equal pods
// share hosts.
func (g *gang) shardsInVain(shapes []shape, components int) string {
	if !slices.ContainsFunc(shapes, func(s shape) bool { return s.gpus[backends.Shard] > 0 }) {
		return ""
	}
	most, why := 1, "more than the batch system gives to one job"
	if g.in.Capabilities.Heterogeneous {
		most = backends.MaxComponents
	}
	if hosts := len(g.in.Partition.Hosts); g.in.Capabilities.ExclusiveComponents && g.in.Partition.Name != "" && hosts < most {
		most, why = max(1, hosts), "on hosts of their own, more than node "+g.in.Node.Name+" has"
	}
	if components <= most {
		return ""
	}
	return fmt.Sprintf("members of the gang ask for %s, and each of these is a component of its batch job: it has more than %d, %s; make the gang smaller, or its members gangs of their own",
		wellknown.ResourceGPUShard, most, why)
}

// shape computes the pod's effective request: init containers, sidecars and
// pod-level resources count as they do for the scheduler.
func (p *pod) shape() shape {
	s := shape{cpus: 1, gpus: map[string]int64{}}
	if !p.checkResources() {
		return s
	}
	requests := resourcehelper.PodRequests(withLimitsAsRequests(p.Pod), resourcehelper.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		q := requests[name]
		if q.IsZero() {
			continue
		}
		switch {
		case name == corev1.ResourceCPU:
			s.cpus = max(1, p.bounded("cpu", q, backends.MaxCPUs))
		case name == corev1.ResourceMemory:
			s.memoryMiB = p.mebibytes(q)
		case name == corev1.ResourceEphemeralStorage:
			p.note("requests for ephemeral-storage do not count on HPC nodes; the file systems' own quotas hold")
		case strings.HasPrefix(string(name), wellknown.LicensePrefix):
			// The job has them, not its hosts: see licenses.
		case name == wellknown.ResourceGPUShard:
			s.gpus[backends.Shard] = p.shares(q)
		default:
			n := p.bounded(string(name), q, backends.MaxGPUs)
			if kind, ok := p.gpuType(string(name)); ok {
				s.gpus[kind] += n
			}
		}
	}
	if s.gpus[backends.Shard] > 0 && len(s.gpus) > 1 {
		p.refuse("spec.containers[*].resources", wellknown.ResourceGPUShard, "a pod has whole GPUs or shares of one, not both")
	}
	return s
}

// bounded gives a whole number, rounded up, or refuses what exceeds most.
func (p *pod) bounded(name string, q resource.Quantity, most int64) int64 {
	if q.Cmp(*resource.NewQuantity(most, resource.DecimalSI)) > 0 {
		p.refuse("spec.containers[*].resources", q.String(), fmt.Sprintf("more %s than any host has (%d)", name, most))
		return 1
	}
	return q.Value()
}

// shares gives how many shares of a GPU the pod has, which are all of one.
func (p *pod) shares(q resource.Quantity) int64 {
	n := p.bounded(wellknown.ResourceGPUShard, q, backends.MaxGPUs)
	if most := p.in.Shards; most > 0 && n > most {
		p.refuse("spec.containers[*].resources", q.String(), fmt.Sprintf("a pod has all its shares (%s) on one GPU, and those of node %s have %d at most; ask for no more, or for whole GPUs",
			wellknown.ResourceGPUShard, p.in.Node.Name, most))
	}
	return n
}

func (p *pod) mebibytes(q resource.Quantity) int64 {
	if q.Cmp(*resource.NewQuantity(backends.MaxMemoryMiB*mib, resource.BinarySI)) > 0 {
		p.refuse("spec.containers[*].resources", q.String(), "more memory than any host has (4Pi)")
		return 1
	}
	return (q.Value() + mib - 1) / mib
}

// gpuResource reports whether an extended resource is a GPU of this node.
func (g *gang) gpuResource(name string) bool {
	if name == wellknown.ResourceNvidiaGPU {
		return true
	}
	for _, r := range g.in.Node.GPUResources {
		if r == name {
			return true
		}
	}
	return false
}

// resourceOf maps a GRES type as the inventory does: a type that is not listed
// is nvidia.com/gpu.
func (g *gang) resourceOf(kind string) string {
	if r := g.in.Node.GPUResources[kind]; r != "" {
		return r
	}
	return wellknown.ResourceNvidiaGPU
}

// gpuType picks the GRES type to ask for: the model the pod names, else the
// only type behind the resource, else an untyped GPU where any will do.
func (p *pod) gpuType(resourceName string) (kind string, ok bool) {
	known := map[string]bool{}
	for _, t := range p.in.GPUTypes {
		known[t] = true
	}
	if len(known) == 0 { // the inventory is not known: what the admin listed
		for t := range p.in.Node.GPUResources {
			known[t] = true
		}
	}
	var mine, foreign []string
	for t := range known {
		switch {
		case p.resourceOf(t) != resourceName:
			foreign = append(foreign, t)
		case t != "":
			mine = append(mine, t)
		}
	}
	slices.Sort(mine)
	field, model := "metadata.annotations["+wellknown.GPUModel+"]", p.Pod.Annotations[wellknown.GPUModel]
	if model == "" {
		field, model = "spec.nodeSelector["+wellknown.GPUModel+"]", p.Pod.Spec.NodeSelector[wellknown.GPUModel]
	}
	switch {
	case model != "" && slices.Contains(mine, model):
		return model, true
	case model != "" && len(mine) > 0:
		p.refuse(field, model, "node "+p.in.Node.Name+" has no such GPU; it has "+strings.Join(mine, ", "))
		return "", false
	case len(mine) == 1 && !known[""]:
		return mine[0], true
	case len(foreign) > 0 && len(mine) > 1:
		// Untyped would mean a GPU of the other resource as well.
		p.refuse("spec.containers[*].resources", resourceName, "several GPU types give this resource on node "+p.in.Node.Name+
			"; choose one with the annotation "+wellknown.GPUModel+": "+strings.Join(mine, ", "))
		return "", false
	case len(foreign) > 0 && len(mine) == 0:
		p.refuse("spec.containers[*].resources", resourceName, "node "+p.in.Node.Name+" has no GPU of this kind")
		return "", false
	}
	return "", true
}

// checkResources looks at every request and limit by field.
func (p *pod) checkResources() bool {
	ok := true
	check := func(field string, list corev1.ResourceList) {
		for _, name := range slices.Sorted(maps.Keys(list)) {
			q := list[name]
			at := field + "[" + string(name) + "]"
			switch {
			case q.Sign() < 0:
				p.refuse(at, q.String(), "must not be negative")
			case q.IsZero() || name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage:
				continue
			case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
				p.refuse(at, q.String(), "huge pages cannot be requested from a batch system; remove the request, programs may map them where the host offers them")
			case strings.HasPrefix(string(name), wellknown.LicensePrefix):
				continue // see checkLicenses
			case name == wellknown.ResourceGPUShard && p.noShards() == "":
				continue
			case name == wellknown.ResourceGPUShard:
				p.refuse(at, q.String(), p.noShards())
			case !p.gpuResource(string(name)):
				p.refuse(at, q.String(), "node "+p.in.Node.Name+" does not have this resource; it has "+strings.Join(p.resources(), ", "))
			default:
				continue
			}
			ok = false
		}
	}
	each := func(path string, list []corev1.Container) {
		for i := range list {
			check(fmt.Sprintf("%s[%d].resources.requests", path, i), list[i].Resources.Requests)
			check(fmt.Sprintf("%s[%d].resources.limits", path, i), list[i].Resources.Limits)
			if len(list[i].Resources.Claims) > 0 {
				p.refuse(fmt.Sprintf("%s[%d].resources.claims", path, i), "", "resource claims are not served by batch systems; ask for GPUs by resource name")
				ok = false
			}
		}
	}
	each("spec.initContainers", p.Pod.Spec.InitContainers)
	each("spec.containers", p.Pod.Spec.Containers)
	if r := p.Pod.Spec.Resources; r != nil {
		check("spec.resources.requests", r.Requests)
		check("spec.resources.limits", r.Limits)
	}
	return ok
}

// noShards says why shares of a GPU cannot be had on the node, "" when they may be.
func (g *gang) noShards() string {
	switch {
	case !g.in.Capabilities.Shards:
		return "the batch system of node " + g.in.Node.Name + " cannot be asked for shares of a GPU; ask for whole ones"
	case g.in.Partition.Name != "" && g.in.Shards == 0:
		return "node " + g.in.Node.Name + " does not have this resource; it has " + strings.Join(g.resources(), ", ")
	}
	return ""
}

// resources are the names a pod may ask for on this node.
func (g *gang) resources() []string {
	names := map[string]bool{"cpu": true, "memory": true}
	for _, t := range g.in.GPUTypes {
		names[g.resourceOf(t)] = true
	}
	for _, r := range g.in.Node.GPUResources {
		names[r] = true
	}
	if g.in.Shards > 0 && g.in.Capabilities.Shards {
		names[wellknown.ResourceGPUShard] = true
	}
	for _, l := range g.in.Licenses {
		names[wellknown.LicensePrefix+l] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// withLimitsAsRequests fills a missing request from the limit, as the API
// server does for pods that came through it.
func withLimitsAsRequests(in *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{Spec: corev1.PodSpec{
		Resources: in.Spec.Resources,
		Overhead:  in.Spec.Overhead,
	}}
	fill := func(list []corev1.Container) []corev1.Container {
		list = slices.Clone(list)
		for i := range list {
			requests := maps.Clone(list[i].Resources.Requests)
			for name, q := range list[i].Resources.Limits {
				if _, has := requests[name]; !has {
					if requests == nil {
						requests = corev1.ResourceList{}
					}
					requests[name] = q
				}
			}
			list[i].Resources = corev1.ResourceRequirements{Requests: requests, Limits: list[i].Resources.Limits}
		}
		return list
	}
	out.Spec.InitContainers, out.Spec.Containers = fill(in.Spec.InitContainers), fill(in.Spec.Containers)
	return out
}
