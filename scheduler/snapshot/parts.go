package snapshot

import (
	"cmp"
	"slices"
	"strings"
)

// Part is the pods of a gang that one sub-group policy keeps together.
type Part struct {
	Policy *SubGroup
	Name   string
	Pods   []*Pod // ordered as in the gang
}

// Placed counts the part's placed members; also counts those that also says are.
func (p *Part) Placed(also func(*Pod) bool) int64 {
	var n int64
	for _, pod := range p.Pods {
		if pod.Counts() || also != nil && also(pod) {
			n++
		}
	}
	return n
}

// Need is how many pods the part needs to be placed at all.
func (p *Part) Need() int64 { return max(p.Policy.Size, 1) }

// Parts lists the parts of a gang in the order of its policies, then of the
// first member: task-0 before task-10, as members are ordered by index.
func (g *Gang) Parts() []*Part {
	if len(g.SubGroups) == 0 {
		return nil
	}
	type key struct{ policy, name string }
	by := map[key]*Part{}
	var out []*Part
	rank := map[string]int{}
	for i := range g.SubGroups {
		rank[g.SubGroups[i].Name] = i
	}
	for _, p := range g.Pods {
		i, ok := rank[p.Policy]
		if !ok || p.Policy == "" {
			continue
		}
		k := key{p.Policy, p.SubGroup}
		if by[k] == nil {
			by[k] = &Part{Policy: &g.SubGroups[i], Name: p.SubGroup}
			out = append(out, by[k])
		}
		by[k].Pods = append(by[k].Pods, p)
	}
	slices.SortStableFunc(out, func(a, b *Part) int { return cmp.Compare(rank[a.Policy.Name], rank[b.Policy.Name]) })
	return out
}

// ComparePlacing is the order in which waiting members are placed when not all
// can be: the higher priority first, then the order of members.
func ComparePlacing(a, b *Pod) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), ComparePods(a, b))
}

// PartOf returns the name of a pod's part within the gang, "" for none.
func (p *Pod) PartOf() string {
	if p.Policy == "" {
		return ""
	}
	return strings.Join([]string{p.Policy, p.SubGroup}, "/")
}

// Item is the pod as what it holds of its node, its GPUs included.
func (p *Pod) Item(gangKey string) Item {
	return Item{Class: p.Class, Job: p.Job(gangKey), Count: 1, Devices: [][]string{p.Devices}, Cells: [][]CellShare{p.Cells}, Leaving: p.Terminating}
}
