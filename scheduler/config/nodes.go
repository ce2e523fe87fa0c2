package config

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/binpack"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/extender"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/networktopology"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/nodeorder"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/strategyfit"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/usage"
)

// maxWeight bounds weights, so that no sum of scores comes near the end of integers.
const maxWeight = 1_000_000

func (a Arguments) weight(name string, other int64) int64 { return min(a.Int(name, other), maxWeight) }

// The names of processors and memory in configurations are those of pods.
const (
	cpu    = string(corev1.ResourceCPU)
	memory = string(corev1.ResourceMemory)
)

// makeNodeOrder has Volcano's default weights where a configuration names the
// plugin; otherwise only what pods and taints say counts.
func makeNodeOrder(p Plugin) framework.Plugin {
	if !p.named() {
		return nodeorder.Plugin{NodeAffinity: 1, Taints: 1, Near: 1, Spread: 1}
	}
	a := p.Arguments
	return nodeorder.Plugin{
		NodeAffinity: a.weight("nodeaffinity.weight", 2), Taints: a.weight("tainttoleration.weight", 3), Emptier: a.weight("leastrequested.weight", 1),
		Fuller: a.weight("mostrequested.weight", 0), EvenlyBalanced: a.weight("balancedresource.weight", 1),
		Near: a.weight("podaffinity.weight", 2), Spread: a.weight("podtopologyspread.weight", 2),
		Images: a.weight("imagelocality.weight", 1),
	}
}

// makeBinpack scores nodes only where a configuration names the plugin: the order of
// nodes is the tightest first anyway.
func makeBinpack(p Plugin) framework.Plugin {
	if !p.named() {
		return binpack.Plugin{}
	}
	out := binpack.Plugin{Weight: p.Arguments.weight("binpack.weight", 1), Resources: []binpack.Resource{
		{Name: cpu, Weight: p.Arguments.weight("binpack.cpu", 1)}, {Name: memory, Weight: p.Arguments.weight("binpack.memory", 1)},
	}}
	for _, name := range get(p.Arguments, "binpack.resources", []string(nil)) {
		if !slices.ContainsFunc(out.Resources, func(r binpack.Resource) bool { return r.Name == name }) {
			out.Resources = append(out.Resources, binpack.Resource{Name: name, Weight: p.Arguments.weight("binpack.resources."+name, 1)})
		}
	}
	return out
}

// makeTopology has Volcano's defaults.
func makeTopology(p Plugin) framework.Plugin {
	a := p.Arguments
	out := networktopology.Plugin{
		Weight:     a.weight("weight", 1),
		NormalPods: a.Bool("hypernode.binpack.normal-pod.enable", true),
		Fading:     int64(min(a.Float("hypernode.binpack.normal-pod.fading", 0.8), 1) * 1000),
	}
	if a.Int("hypernode.binpack.weight", 1) == 0 {
		return out
	}
	const prefix = "hypernode.binpack."
	out.Resources = []networktopology.Resource{{Name: cpu, Weight: a.weight(prefix+"cpu", 1)}, {Name: memory, Weight: a.weight(prefix+"memory", 1)}}
	for _, name := range get(a, prefix+"resources", []string(nil)) {
		if !slices.ContainsFunc(out.Resources, func(r networktopology.Resource) bool { return r.Name == name }) {
			out.Resources = append(out.Resources, networktopology.Resource{Name: name, Weight: a.weight(prefix+"resources."+name, 1)})
		}
	}
	return out
}

// makeUsage has Volcano's defaults. Thresholds are per cent.
func makeUsage(p Plugin) framework.Plugin {
	a := p.Arguments
	most := func(name string) int64 { return int64(math.Round(min(a.Float(name, 80), 1e6) * 10)) }
	return usage.Plugin{
		Weight: a.weight("usage.weight", 5), CPU: a.weight("cpu.weight", 1), Memory: a.weight("memory.weight", 1),
		MostCPU: most("thresholds.cpu"), MostMemory: most("thresholds.mem"),
	}
}

func makeExtender(p Plugin) extender.Plugin {
	a := p.Arguments
	return extender.Plugin{
		URL: a.Text("extender.urlPrefix", ""), Predicate: a.Text("extender.predicateVerb", ""), Prioritize: a.Text("extender.prioritizeVerb", ""),
		Timeout: a.Duration("extender.httpTimeout", time.Second), Ignorable: a.Bool("extender.ignorable", false),
		Managed: get(a, "extender.managedResources", []string(nil)),
	}
}

// Extender is the extender that is to be asked, nil for none.
func (c Config) Extender() *extender.Plugin {
	for _, tier := range c.Tiers {
		for _, p := range tier {
			if p.Name == "extender" {
				e := makeExtender(p)
				return &e
			}
		}
	}
	return nil
}

// gibi is the unit in which a proportion of memory is written.
const gibi = 1 << 30

func makeStrategyFit(p Plugin) framework.Plugin {
	a := p.Arguments
	out := strategyfit.Plugin{Weight: a.weight("resourceStrategyFitWeight", 10)}
	const prefix, kind, weight = "resources.", ".type", ".weight"
	var names []string
	for _, key := range a.Names(prefix) {
		name := strings.TrimPrefix(key, prefix)
		names = append(names, cmp.Or(cutSuffix(name, kind), cutSuffix(name, weight)))
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		out.Strategies = append(out.Strategies, strategyfit.Strategy{
			Resource: name, Spread: a.Text(prefix+name+kind, "LeastAllocated") == "LeastAllocated", Weight: a.weight(prefix+name+weight, 1),
		})
	}
	if a.Bool("sra.enable", false) {
		out.ScarceBy = a.weight("sra.weight", 10)
		for _, name := range get(a, "sra.resources", []string(nil)) {
			out.Scarce = append(out.Scarce, strategyfit.Scarce{Resource: name, Weight: a.weight("sra.resourceWeight."+name, 1)})
		}
	}
	if a.Bool("proportional.enable", false) {
		for _, name := range get(a, "proportional.resources", []string(nil)) {
			for other, unit := range map[string]float64{cpu: 1000, memory: gibi} {
				if each := a.Float("proportional.resourceProportion."+name+"."+other, 0); each > 0 {
					out.Proportions = append(out.Proportions, strategyfit.Proportion{Scarce: name, Other: other, Each: int64(math.Min(each*unit, math.MaxInt32*gibi))})
				}
			}
		}
		slices.SortFunc(out.Proportions, func(a, b strategyfit.Proportion) int {
			return cmp.Or(strings.Compare(a.Scarce, b.Scarce), strings.Compare(a.Other, b.Other))
		})
	}
	return out
}

// cutSuffix is what stands before the suffix, "" without it.
func cutSuffix(s, suffix string) string {
	before, ok := strings.CutSuffix(s, suffix)
	if !ok {
		return ""
	}
	return before
}
