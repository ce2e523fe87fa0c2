package cache

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	nodeinfov1 "volcano.sh/apis/pkg/apis/nodeinfo/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// numaEntry is a Numatopology.
type numaEntry struct {
	uid  string
	numa *snapshot.NUMA
}

// SetNumatopology takes in what is told of a node's NUMA nodes; the object has the
// node's name.
func (c *Cache) SetNumatopology(n *nodeinfov1.Numatopology) {
	entry := numaEntry{string(n.UID), numaOf(n)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.numa[n.Name]; ok && reflect.DeepEqual(old, entry) {
		return
	}
	c.numa[n.Name] = entry
	c.renewNode(n.Name)
}

// DeleteNumatopology forgets what was told of a node.
func (c *Cache) DeleteNumatopology(name, uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, ok := c.numa[name]; ok && n.uid == uid {
		delete(c.numa, name)
		c.renewNode(name)
	}
}

func (c *Cache) renewNode(name string) {
	if e := c.nodes[name]; e != nil {
		e.snap = nil
	}
	c.signal()
}

func (c *Cache) withNUMA(spec snapshot.NodeSpec) snapshot.NodeSpec {
	if !spec.Virtual {
		spec.NUMA = c.numa[spec.Name].numa
	}
	return spec
}

// maxCPU bounds the ids that are read.
const maxCPU = 1 << 14

// numaOf counts processors by NUMA node: all, and those that the kubelet has not
// given away.
func numaOf(n *nodeinfov1.Numatopology) *snapshot.NUMA {
	out := &snapshot.NUMA{
		Policy: n.Spec.Policies[nodeinfov1.TopologyManagerPolicy],
		Static: n.Spec.Policies[nodeinfov1.CPUManagerPolicy] == "static",
	}
	free := cpuSet(n.Spec.NumaResMap[string(corev1.ResourceCPU)].Allocatable)
	cells := map[int64]*snapshot.Cell{}
	for text, cpu := range n.Spec.CPUDetail {
		id, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			continue
		}
		at := int64(cpu.NUMANodeID)
		if cells[at] == nil {
			cells[at] = &snapshot.Cell{ID: at}
		}
		cells[at].CPUs++
		if free[id] {
			cells[at].Free++
		}
	}
	for _, cell := range cells {
		out.Cells = append(out.Cells, *cell)
	}
	slices.SortFunc(out.Cells, func(a, b snapshot.Cell) int { return int(a.ID - b.ID) })
	return out
}

// cpuSet reads a list of processors like 0-3,8; what is no such list has none.
func cpuSet(text string) map[int64]bool {
	out := map[int64]bool{}
	for _, part := range listOf(text) {
		first, last, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseInt(first, 10, 32)
		to := from
		if isRange && err == nil {
			to, err = strconv.ParseInt(last, 10, 32)
		}
		if err != nil || from < 0 || to >= maxCPU {
			return nil
		}
		for i := from; i <= to; i++ {
			out[i] = true
		}
	}
	return out
}

// numaAsk is what a pod wants of NUMA nodes, nil for nothing: only containers of
// pods that are Guaranteed get whole processors to themselves.
func numaAsk(p *corev1.Pod) *snapshot.NUMAAsk {
	policy := p.Annotations[volcanov1.NumaPolicyKey]
	if policy != snapshot.NUMABestEffort && policy != snapshot.NUMARestricted && policy != snapshot.NUMASingle {
		return nil
	}
	out := &snapshot.NUMAAsk{Policy: policy}
	for _, c := range p.Spec.Containers {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, ok := c.Resources.Limits[name]
			request, asked := c.Resources.Requests[name]
			if !ok || asked && request.Cmp(limit) != 0 {
				return nil
			}
		}
		whole := int64(0)
		if cpu := c.Resources.Limits.Cpu(); cpu.MilliValue()%1000 == 0 && cpu.Value() < maxCPU {
			whole = cpu.Value()
		}
		out.CPUs = append(out.CPUs, whole)
	}
	if slices.Max(append([]int64{0}, out.CPUs...)) == 0 {
		return nil
	}
	return out
}

// decision is the annotation with what a pod was given, in Volcano's form.
type decision struct {
	NUMA map[string]map[corev1.ResourceName]kresource.Quantity `json:"numa"`
}

// Decision writes which processors a pod was given, as Volcano does.
func Decision(cells []snapshot.CellShare) string {
	d := decision{NUMA: map[string]map[corev1.ResourceName]kresource.Quantity{}}
	for _, c := range cells {
		d.NUMA[strconv.FormatInt(c.ID, 10)] = map[corev1.ResourceName]kresource.Quantity{corev1.ResourceCPU: *kresource.NewQuantity(c.CPUs, kresource.DecimalSI)}
	}
	text, err := json.Marshal(d)
	if err != nil { // strings and quantities always encode
		return ""
	}
	return string(text)
}

// decided reads what Decision wrote; anything else is nothing.
func decided(text string) []snapshot.CellShare {
	if text == "" {
		return nil
	}
	var d decision
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return nil
	}
	var out []snapshot.CellShare
	for id, amounts := range d.NUMA {
		n, err := strconv.ParseInt(id, 10, 32)
		cpu := amounts[corev1.ResourceCPU]
		if err == nil && cpu.Sign() > 0 {
			out = append(out, snapshot.CellShare{ID: n, CPUs: min(cpu.Value(), maxCPU)})
		}
	}
	slices.SortFunc(out, func(a, b snapshot.CellShare) int { return int(a.ID - b.ID) })
	return out
}
