package config

import "strings"

// What Volcano's guides had for earlier releases, and what configurations still have: it
// is told and has no effect, as with the later ones.
var (
	bygoneActions = map[string]string{
		"elect":   "of Volcano up to 1.2: starts are planned by backfill",
		"reserve": "of Volcano up to 1.2: starts are planned by backfill",
	}
	bygonePlugins = map[string]string{
		"reservation": "of Volcano up to 1.2: starts are planned by backfill",
	}
	// By the plugin or action that had it. An asterisk at the end stands for the rest.
	bygoneArguments = map[string]string{
		"predicates/predicate.GPUSharingEnable":   "of Volcano up to 1.8: pods that ask for parts of GPUs are always served",
		"predicates/predicate.GPUNumberEnable":    "of Volcano up to 1.8: pods that ask for GPUs are always served",
		"predicates/predicate.NodeLockEnable":     "of Volcano up to 1.8: GPU ids are written with the binding, so that nodes need no lock",
		"predicates/predicate.ProportionalEnable": "of Volcano up to 1.8: see proportional.enable of plugin resource-strategy-fit",
		"predicates/predicate.resources":          "of Volcano up to 1.8: see proportional.resources of plugin resource-strategy-fit",
		"predicates/predicate.resources.*":        "of Volcano up to 1.8: see proportional.resourceProportion of plugin resource-strategy-fit",
		"nodeorder/selectorspread.weight":         "nothing spreads by Services; pods say by topologySpreadConstraints how they spread",
		"usage/thresholds.CPUUsageAvg.*":          "of Volcano up to 1.7: see thresholds.cpu",
		"usage/thresholds.MEMUsageAvg.*":          "of Volcano up to 1.7: see thresholds.mem",
		"enqueue/overcommit-factor":               "it is an argument of plugin overcommit",
	}
)

// bygone returns why an argument that a plugin or action had in earlier releases is not used.
func bygone(owner, key string) (why string, ok bool) {
	key = owner + "/" + key
	if why, ok = bygoneArguments[key]; ok {
		return why, true
	}
	for name, why := range bygoneArguments {
		if begin, any := strings.CutSuffix(name, "*"); any && strings.HasPrefix(key, begin) && len(key) > len(begin) {
			return why, true
		}
	}
	return "", false
}
