package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
)

// row is one line of Volcano's contract for its scheduler's ConfigMap: a piece of
// configuration, and what this scheduler makes of it.
type row struct {
	name, text string
	// without is the same without what the row is about, "" where that is all of it.
	without string
	// unused is what is told to be known and not used; "" is nothing.
	unused string
	// instead says what does it here, where nothing is told although nothing obeys it.
	instead string
}

func ofAction(name, argument string) string {
	if argument == "" {
		return "actions: " + name + "\n"
	}
	return "actions: " + name + "\nconfigurations: [{name: " + name + ", arguments: {" + argument + "}}]\n"
}

func ofPlugin(name, rest string) string {
	return "actions: allocate\ntiers: [{plugins: [{name: " + name + rest + "}]}]\n"
}

// rows are all lines: actions with their arguments, switches, and plugins with theirs,
// ours among them. TestVolcanoContract holds that none is missing.
func rows() (out []row) {
	for _, a := range []struct {
		name  string
		obeys string // arguments that are obeyed
		known string // those that have no meaning here
	}{
		{"enqueue", "", ""}, {"allocate", "", "predicateErrorCacheEnable: true"}, {"backfill", "heads: 2; conservative: true; unknownRunTimes: pass", "predicateErrorCacheEnable: true"},
		{"preempt", "minimumRunTime: 5m", "predicateErrorCacheEnable: true; enableTopologyAwarePreemption: false; topologyAwarePreemptWorkerNum: 16; minCandidateNodesPercentage: 10; minCandidateNodesAbsolute: 1; maxCandidateNodesAbsolute: 100"},
		{"reclaim", "minimumRunTime: 5m", "predicateErrorCacheEnable: true"}, {"gangpreempt", "minimumRunTime: 5m; allowWholeBundle: false", "maxDomains: 3"}, {"gangreclaim", "minimumRunTime: 5m; allowWholeBundle: false", "maxDomains: 3"},
		{"elastic", "minimumRunTime: 5m", ""}, {"repair", "grace: 1m; enabled: false", ""}, {"consolidate", "minimumRunTime: 5m", ""}, {"shuffle", "", ""},
	} {
		out = append(out, row{name: "action " + a.name, text: ofAction(a.name, "")})
		for _, arg := range split(a.obeys) {
			out = append(out, row{name: "action " + a.name + " " + arg, text: ofAction(a.name, arg), without: ofAction(a.name, "")})
		}
		for _, arg := range split(a.known) {
			out = append(out, row{name: "action " + a.name + " " + arg, text: ofAction(a.name, arg), unused: "the argument"})
		}
	}
	for _, s := range strings.Fields("enableJobOrder enableHierarchy enableQueueOrder enablePredicate enableBestNode enableNodeOrder enableJobEnqueued enableTaskOrder enabledHyperNodeOrder enabledVictim") {
		value := ": false"
		if s == "enableHierarchy" {
			value = ": true"
		}
		out = append(out, row{name: "switch " + s, text: ofPlugin("drf", ", "+s+value), without: ofPlugin("drf", "")})
	}
	// A switch, off, of plugins of which that is told, and of all others nothing to tell.
	for s, kept := range map[string]string{
		"enableJobReady": "gang", "enableJobPipelined": "gang sla tdm", "enableTaskOrder": "task-topology", "enableJobStarving": "priority gang tdm",
		"enablePreemptable": "priority conformance pdb cdp tdm", "enableReclaimable": "proportion capacity conformance pdb cdp", "enablePreemptive": "proportion capacity",
		"enabledOverused": "proportion capacity", "enabledAllocatable": "proportion capacity", "enabledHyperNodeGradient": "network-topology-aware",
		"enabledSubJobReady": "gang", "enabledSubJobPipelined": "gang", "enabledSubJobOrder": "gang priority",
		"enabledClusterOrder": "", "enableTargetJob": "", "enableReservedNodes": "",
	} {
		for _, p := range strings.Fields("gang priority conformance pdb cdp sla tdm drf proportion capacity overcommit predicates nodeorder binpack task-topology network-topology-aware") {
			r := row{name: "switch " + s + " of " + p, text: ofPlugin(p, ", "+s+": false")}
			if slices.Contains(strings.Fields(kept), p) {
				r.unused = "the switch"
			}
			out = append(out, r)
		}
	}
	for _, p := range []struct{ name, obeys, known, instead string }{
		{name: "gang"}, {name: "priority"}, {name: "drf", obeys: "drf.by: namespace"}, {name: "proportion"}, {name: "resourcequota"}, {name: "locality"},
		{name: "capacity", known: "capacity.DynamicResourceAllocationEnable: true; capacity.DRAConsumableCapacityEnable: true", obeys: "enableHierarchy: false; ancestorReclaimLevel: 1"},
		{name: "fairshare", obeys: "fairshare.halfLife: 24h; fairshare.by: namespace"},
		{
			name:  "predicates",
			obeys: "predicate.NodeAffinityEnable: false; predicate.TaintTolerationEnable: false; predicate.NodePortsEnable: false; predicate.PodAffinityEnable: false; predicate.NodeVolumeLimitsEnable: false; predicate.VolumeZoneEnable: false; predicate.PodTopologySpreadEnable: false; predicate.VolumeBindingEnable: false; predicate.DynamicResourceAllocationEnable: false",
			known: "predicate.CacheEnable: false; volumebinding.shape: []; volumebinding.weight: 1; dynamicresources.filterTimeoutSeconds: 10",
		},
		{name: "tdm", obeys: "tdm.revocable-zone.night: '20:00-06:00'; tdm.time-zone: Europe/Berlin; tdm.evict.period: 1m"},
		{
			name:  "rescheduling",
			obeys: "labelSelector.a: b; interval: 1m; metricsPeriod: 1m; queueSelector: [a]; strategies: [{name: lowNodeUtilization, params: {targetThresholds: {cpu: 60}}}]",
		},
		{name: "conformance", instead: "pods of the system are protected from every action"},
		{name: "pdb", instead: "disruption budgets are asked by the Eviction API, and before that by the search for victims"},
		{name: "cdp", instead: "volcano.sh/cooldown-time is obeyed by the search for victims"},
		{name: "overcommit", obeys: "overcommit-factor: 1.5"}, {name: "sla", obeys: "sla-waiting-time: 1h"},
		{name: "binpack", obeys: "binpack.weight: 5; binpack.cpu: 2; binpack.memory: 3; 'binpack.resources': 'nvidia.com/gpu'; binpack.resources.nvidia.com/gpu: 4"},
		{name: "nodeorder", obeys: "nodeaffinity.weight: 7; leastrequested.weight: 2; mostrequested.weight: 2; balancedresource.weight: 2; tainttoleration.weight: 2; podaffinity.weight: 7; imagelocality.weight: 7; podtopologyspread.weight: 7"},
		{
			name: "deviceshare", obeys: "deviceshare.SchedulePolicy: spread; deviceshare.ScheduleWeight: 2",
			known: "deviceshare.GPUSharingEnable: false; deviceshare.GPUNumberEnable: false; deviceshare.NodeLockEnable: true; deviceshare.VGPUEnable: false; deviceshare.AscendMindClusterVNPUEnable: true; deviceshare.AscendHAMiVNPUEnable: true; deviceshare.KnownGeometriesCMName: a; deviceshare.KnownGeometriesCMNamespace: a; deviceshare.GPUExclusiveRules: []",
		},
		{
			name: "network-topology-aware", known: "hypernode.gradient.evict.max-hypernodes: 3",
			obeys: "weight: 2; hypernode.binpack.cpu: 2; hypernode.binpack.memory: 2; 'hypernode.binpack.resources': 'nvidia.com/gpu'; hypernode.binpack.resources.nvidia.com/gpu: 2; hypernode.binpack.normal-pod.enable: false; hypernode.binpack.normal-pod.fading: 0.5",
		},
		{name: "usage", obeys: "usage.weight: 7; cpu.weight: 2; memory.weight: 2; thresholds: {cpu: 60}; 'thresholds.mem': 70", known: "estimator.type: x"},
		{name: "numa-aware", obeys: "weight: 3"}, {name: "task-topology", obeys: "task-topology.weight: 3"},
		{name: "nodegroup", obeys: "strict: false; enablePreferredOrder: false"},
		{
			name:  "resource-strategy-fit",
			obeys: "resourceStrategyFitWeight: 2; 'resources.cpu.type': MostAllocated; resources.cpu.weight: 2; sra.enable: true; 'sra.resources': 'nvidia.com/gpu'; sra.weight: 2; sra.resourceWeight.nvidia.com/gpu: 2; proportional.enable: true; 'proportional.resources': 'nvidia.com/gpu'; proportional.resourceProportion.nvidia.com/gpu.cpu: 2",
		},
		{
			name: "extender", obeys: "extender.httpTimeout: 2s; extender.predicateVerb: a; extender.prioritizeVerb: b; extender.ignorable: true; 'extender.managedResources': 'cpu'",
			known: "extender.onSessionOpenVerb: a; extender.onSessionCloseVerb: a; extender.preemptableVerb: a; extender.reclaimableVerb: a; extender.queueOverusedVerb: a; extender.jobEnqueueableVerb: a; extender.jobReadyVerb: a",
		},
	} {
		with := func(arg string) string {
			if p.name == "extender" {
				arg = strings.TrimSuffix("extender.urlPrefix: 'http://e', "+arg, ", ")
			}
			return ofPlugin(p.name, ", arguments: {"+arg+"}")
		}
		out = append(out, row{name: "plugin " + p.name, text: with(""), instead: p.instead})
		all := split(p.obeys)
		for i, arg := range all {
			others := slices.Delete(slices.Clone(all), i, i+1)
			out = append(out, row{name: "plugin " + p.name + " " + arg, text: with(strings.Join(all, ", ")), without: with(strings.Join(others, ", "))})
		}
		for _, arg := range split(p.known) {
			out = append(out, row{name: "plugin " + p.name + " " + arg, text: with(arg), unused: "the argument"})
		}
	}
	for text := range map[string]bool{ // as it always is
		ofPlugin("deviceshare", ", arguments: {deviceshare.GPUSharingEnable: true, deviceshare.GPUNumberEnable: true, deviceshare.VGPUEnable: true, deviceshare.NodeLockEnable: false, deviceshare.AscendHAMiVNPUEnable: false}"): true,
		ofPlugin("capacity", ", arguments: {enableHierarchy: true, capacity.DynamicResourceAllocationEnable: false}"):                                                                                                             true,
		ofPlugin("predicates", ", arguments: {volumebinding.bindTimeoutSeconds: 60}"):                                                                                                                                             true,
		ofAction("preempt", "enableTopologyAwarePreemption: true"):                                                                                                                                                                true,
	} {
		out = append(out, row{name: "as always: " + text, text: text})
	}
	topology := func(rest string) string { return ofPlugin("network-topology-aware", rest) }
	return append(out, row{name: "plugin network-topology-aware hypernode.binpack.weight: 0", text: topology(", arguments: {hypernode.binpack.weight: 0}"), without: topology("")})
}

func split(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "; "), func(s string) bool { return s == "" })
}

// TestVolcanoContract has a subtest for each line of the contract: it is read; what
// has no meaning here is told, and everything else changes what runs, or something
// else does it, which the row names.
func TestVolcanoContract(t *testing.T) {
	var texts strings.Builder
	for _, r := range rows() {
		texts.WriteString(strings.ReplaceAll(r.text, "thresholds: {cpu", "thresholds.cpu")) // one row has a map in a map
	}
	for _, known := range config.Known() {
		known, _, _ = strings.Cut(known, "*") // whatever comes after
		if !strings.Contains(texts.String(), known) {
			t.Errorf("no row has %s", known)
		}
	}
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) {
			c, warnings, err := config.Parse([]byte(r.text))
			switch {
			case err != nil:
				t.Fatalf("%v in\n%s", err, r.text)
			case r.unused == "" && len(warnings) > 0:
				t.Errorf("told %q of what is obeyed", warnings)
			case r.unused != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], r.unused+" is known and not used")):
				t.Errorf("told %q, want that %s is not used", warnings, r.unused)
			}
			kind, rest, _ := strings.Cut(r.name, " ")
			name, _, _ := strings.Cut(rest, " ")
			pipeline := c.Pipeline()
			if r.without != "" {
				without, _, err := config.Parse([]byte(r.without))
				if err != nil || fmt.Sprintf("%+v", without.Pipeline()) == fmt.Sprintf("%+v", pipeline) {
					t.Errorf("it changes nothing, %v, between\n%s and\n%s", err, r.without, r.text)
				}
			}
			switch {
			case kind == "action":
				if !slices.Contains(strings.Fields(actionNames(pipeline)), name) {
					t.Errorf("the actions are %s", actionNames(pipeline))
				}
			case kind == "plugin" && r.instead == "":
				if !slices.Contains(strings.Fields(pluginNames(pipeline)), name) {
					t.Errorf("the plugins are %s", pluginNames(pipeline))
				}
			}
		})
	}
}
