package cache

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topologyv1 "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// SetHyperNode takes in a HyperNode.
func (c *Cache) SetHyperNode(h *topologyv1.HyperNode) {
	spec := hyperNodeSpec(h)
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.hyperNodes[spec.Name]
	if ok && reflect.DeepEqual(old, spec) {
		return
	}
	c.hyperNodes[spec.Name] = spec
	c.places = nil
	c.signal()
}

// DeleteHyperNode forgets a HyperNode.
func (c *Cache) DeleteHyperNode(name, uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok := c.hyperNodes[name]; ok && h.UID == uid {
		delete(c.hyperNodes, name)
		c.places = nil
		c.signal()
	}
}

func hyperNodeSpec(h *topologyv1.HyperNode) snapshot.HyperNodeSpec {
	out := snapshot.HyperNodeSpec{Name: h.Name, UID: string(h.UID), Tier: int64(h.Spec.Tier), TierName: h.Spec.TierName, NodeCount: h.Status.NodeCount}
	for _, m := range h.Spec.Members {
		to := snapshot.Member{HyperNode: m.Type == topologyv1.MemberTypeHyperNode, Labels: m.Selector.LabelMatch}
		if m.Selector.ExactMatch != nil {
			to.Exact = m.Selector.ExactMatch.Name
		}
		if m.Selector.RegexMatch != nil {
			to.Pattern = m.Selector.RegexMatch.Pattern
		}
		out.Members = append(out.Members, to)
	}
	return out
}

// topologyOf turns a PodGroup's demand around; where the spec has none, the
// annotations that Volcano copies from a workload count.
func topologyOf(t *volcanov1.NetworkTopologySpec, annotations map[string]string) *snapshot.Topology {
	if t == nil {
		mode, ok := annotations[topologyv1.NetworkTopologyModeAnnotationKey]
		if !ok || mode != string(volcanov1.HardNetworkTopologyMode) && mode != string(volcanov1.SoftNetworkTopologyMode) {
			return nil
		}
		t = &volcanov1.NetworkTopologySpec{Mode: volcanov1.NetworkTopologyMode(mode)}
		if tier, err := strconv.Atoi(annotations[topologyv1.NetworkTopologyHighestTierAnnotationKey]); err == nil {
			t.HighestTierAllowed = &tier
		}
	}
	out := &snapshot.Topology{Hard: t.Mode != volcanov1.SoftNetworkTopologyMode, Tier: -1, TierName: t.HighestTierName}
	if t.HighestTierAllowed != nil {
		out.Tier = int64(*t.HighestTierAllowed)
	}
	return out
}

// subGroupPolicy is a policy with what says which pods fall under it.
type subGroupPolicy struct {
	snapshot.SubGroup
	Selector *metav1.LabelSelector
	Keys     []string
}

func subGroupsOf(specs []volcanov1.SubGroupPolicySpec) []subGroupPolicy {
	out := make([]subGroupPolicy, 0, len(specs))
	for i, s := range specs {
		p := subGroupPolicy{SubGroup: snapshot.SubGroup{Name: s.Name, Size: 1, Topology: topologyOf(s.NetworkTopology, nil)}, Selector: s.LabelSelector, Keys: s.MatchLabelKeys}
		if p.Name == "" {
			p.Name = fmt.Sprintf("policy-%d", i)
		}
		if s.SubGroupSize != nil {
			p.Size = int64(*s.SubGroupSize)
		}
		if s.MinSubGroups != nil {
			p.Min = int64(*s.MinSubGroups)
		}
		out = append(out, p)
	}
	return out
}

// assign writes into pods which policy and which part they fall under: the
// first policy that selects a pod, and the values of the policy's label keys. A
// pod that lacks one of the keys falls under no part, as in Volcano.
func assign(policies []subGroupPolicy, pods []*snapshot.Pod, labelsOf func(uid string) map[string]string) {
	selectors := make([]labels.Selector, len(policies))
	for i, p := range policies {
		sel, err := metav1.LabelSelectorAsSelector(p.Selector)
		switch {
		case err != nil:
			selectors[i] = labels.Nothing() // the API server refuses these
		case p.Selector == nil:
			selectors[i] = labels.Everything()
		default:
			selectors[i] = sel
		}
	}
	for _, pod := range pods {
		of := labelsOf(pod.UID)
		for i, p := range policies {
			if !selectors[i].Matches(labels.Set(of)) {
				continue
			}
			values := make([]string, 0, len(p.Keys))
			for _, k := range p.Keys {
				if v, ok := of[k]; ok {
					values = append(values, v)
				}
			}
			if len(values) == len(p.Keys) {
				pod.Policy, pod.SubGroup = p.Name, strings.Join(values, ",")
			}
			break
		}
	}
}

// waitAtMost reads how long a gang should wait at most, 0 for no such promise.
func waitAtMost(annotations map[string]string) int64 {
	text := firstOf(annotations[volcanov1.JobWaitingTime], annotations[wellknown.PlainWaitingTime])
	return int64(duration(text))
}

// topology gives a snapshot its HyperNodes. Resolving them is done again only
// when they or the nodes' names and labels have changed.
func (c *Cache) topology(s *snapshot.Snapshot) *snapshot.Snapshot {
	specs := make([]snapshot.HyperNodeSpec, 0, len(c.hyperNodes))
	for _, h := range c.hyperNodes {
		specs = append(specs, h)
	}
	slices.SortFunc(specs, func(a, b snapshot.HyperNodeSpec) int { return strings.Compare(a.Name, b.Name) })
	s.WithTopology(specs, c.levels, c.places)
	c.places = s.Places
	return s
}

// taskTopologyOf reads which tasks of a gang want to be near each other, nil for
// nothing: sets of tasks with semicolons between, tasks with commas.
func taskTopologyOf(annotations map[string]string) *snapshot.TaskTopology {
	sets := func(text string) (out [][]string) {
		for _, part := range strings.Split(text, ";") {
			if tasks := listOf(part); len(tasks) > 0 {
				out = append(out, tasks)
			}
		}
		return out
	}
	t := snapshot.TaskTopology{
		Together: sets(annotations[wellknown.TaskTopologyAffinity]), Apart: sets(annotations[wellknown.TaskTopologyAntiAffinity]),
		Order: listOf(annotations[wellknown.TaskTopologyOrder]),
	}
	if t.Together == nil && t.Apart == nil && t.Order == nil {
		return nil
	}
	return &t
}
