package config

import (
	"math"

	"github.com/isthmus-hpc/isthmus/scheduler/actions/allocate"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/backfill"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/consolidate"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/elastic"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/enqueue"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/preempt"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/reclaim"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/repair"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/shuffle"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/deviceshare"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/drf"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/fairshare"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/gang"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/locality"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/nodegroup"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/numaaware"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/overcommit"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/priority"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/proportion"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/resourcequota"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/sla"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/tasktopology"
)

// Standard is what runs without a configuration.
const Standard = `
actions: "enqueue, allocate, backfill, elastic, preempt, reclaim, repair"
tiers:
- plugins:
  - name: priority
  - name: gang
  - name: sla
- plugins:
  - name: proportion
  - name: drf
  - name: predicates
  - name: nodegroup
    arguments: {strict: false}
  - name: locality
`

// actions lists every action in the order in which those that a configuration
// does not name, but that always run, are put: before the others, or last. A new
// one is a line here.
var actions = []actionEntry{
	{name: "enqueue", unnamed: enqueue.Action{All: true}, make: func(Arguments) framework.Action { return enqueue.Action{} }},
	{name: "allocate", arguments: []argument{errorCache}, make: func(Arguments) framework.Action { return allocate.Action{} }},
	{name: "backfill", arguments: append([]argument{errorCache}, heads, conservative, unknownRuns), make: func(a Arguments) framework.Action {
		return backfill.Action{Heads: int(min(a.Int(heads.name, 0), 64)), Conservative: a.Bool(conservative.name, false), PassUnknown: a.Text(unknownRuns.name, "wait") == "pass"}
	}},
	{name: "elastic", arguments: []argument{minRun}, make: func(a Arguments) framework.Action { return elastic.Action{MinRun: a.Duration(minRun.name, 0)} }},
	{name: "preempt", twin: "gangpreempt", arguments: append(preemption, minRun), make: func(a Arguments) framework.Action { return preempt.Action{MinRun: a.Duration(minRun.name, 0)} }},
	{name: "reclaim", twin: "gangreclaim", arguments: append([]argument{errorCache}, minRun), make: func(a Arguments) framework.Action { return reclaim.Action{MinRun: a.Duration(minRun.name, 0)} }},
	// All preemption here is of gangs and for gangs.
	{name: "gangpreempt", twin: "preempt", arguments: append(gangs, minRun), make: func(a Arguments) framework.Action {
		return preempt.Action{MinRun: a.Duration(minRun.name, 0), SpareWholes: !a.Bool("allowWholeBundle", true), SpareOwn: true, As: "gangpreempt"}
	}},
	{name: "gangreclaim", twin: "reclaim", arguments: append(gangs, minRun), make: func(a Arguments) framework.Action {
		return reclaim.Action{MinRun: a.Duration(minRun.name, 0), SpareWholes: !a.Bool("allowWholeBundle", true), As: "gangreclaim"}
	}},
	{name: "repair", last: true, arguments: []argument{arg("grace", duration).obeyed(), arg("enabled", boolean).obeyed()}, make: func(a Arguments) framework.Action {
		return repair.Action{Grace: a.Duration("grace", 0), Off: !a.Bool("enabled", true)}
	}},
	// Of our own; nothing is moved unless a configuration names it.
	{name: "consolidate", arguments: []argument{minRun}, make: func(a Arguments) framework.Action { return consolidate.Action{MinRun: a.Duration(minRun.name, 0)} }},
	{name: "shuffle", make: func(Arguments) framework.Action { return shuffle.Action{} }},
}

// plugins lists every plugin. Those that are always asked come last in the order
// given here when a configuration does not name them. A new one is a line here.
var plugins = []pluginEntry{
	{name: "priority", make: func(Plugin) framework.Plugin { return priority.Plugin{} }},
	{name: "gang", always: true, make: func(Plugin) framework.Plugin { return gang.Plugin{} }},
	{name: "conformance", implied: true},
	{name: "cdp", implied: true},
	{name: "pdb", implied: true},
	{name: "resourcequota", make: func(Plugin) framework.Plugin { return resourcequota.Plugin{} }},
	{name: "sla", arguments: []argument{arg("sla-waiting-time", duration).obeyed()}, make: func(p Plugin) framework.Plugin {
		return sla.Plugin{WaitAtMost: int64(p.Arguments.Duration("sla-waiting-time", 0))}
	}},
	{name: "fairshare", arguments: []argument{halfLife, arg("fairshare.by", text).either("queue", "namespace").obeyed()}, make: func(p Plugin) framework.Plugin {
		return fairshare.Plugin{Fades: p.Arguments.Duration(halfLife.name, 0), ByNamespace: p.Arguments.Text("fairshare.by", "queue") == "namespace"}
	}},
	{name: "drf", arguments: []argument{arg("drf.by", text).either("job", "namespace").obeyed()}, make: func(p Plugin) framework.Plugin {
		return drf.Plugin{Hierarchy: p.Switches["enableHierarchy"], ByNamespace: p.Arguments.Text("drf.by", "job") == "namespace"}
	}},
	{name: "proportion", make: func(Plugin) framework.Plugin { return proportion.Plugin{} }},
	{name: "capacity", arguments: append(only(false, queueDRA, "capacity.DynamicResourceAllocationEnable", "capacity.DRAConsumableCapacityEnable"),
		arg("enableHierarchy", boolean).obeyed(), arg("ancestorReclaimLevel", integer).obeyed()), make: makeCapacity},
	{name: "overcommit", arguments: []argument{arg("overcommit-factor", number).atLeast(1).obeyed()}, make: func(p Plugin) framework.Plugin {
		return overcommit.Plugin{Percent: int64(math.Round(min(p.Arguments.Float("overcommit-factor", 1.2), 1e6) * 100))}
	}},
	{name: "predicates", always: true, arguments: predicate, make: makePredicates},
	{name: "nodegroup", always: true, arguments: []argument{arg("strict", boolean).obeyed(), arg("enablePreferredOrder", boolean).obeyed()}, make: func(p Plugin) framework.Plugin {
		return nodegroup.Plugin{Strict: p.Arguments.Bool("strict", p.named()), Level: !p.Arguments.Bool("enablePreferredOrder", true)}
	}},
	{name: "locality", always: true, make: func(Plugin) framework.Plugin { return locality.Plugin{} }},
	{name: "binpack", always: true, arguments: []argument{
		arg("binpack.weight", integer).obeyed(), arg("binpack.cpu", integer).obeyed(), arg("binpack.memory", integer).obeyed(),
		arg("binpack.resources.*", integer).obeyed(), arg("binpack.resources", words).obeyed(),
	}, make: makeBinpack},
	{name: "nodeorder", always: true, arguments: []argument{
		arg("nodeaffinity.weight", integer).obeyed(), arg("tainttoleration.weight", integer).obeyed(), arg("leastrequested.weight", integer).obeyed(),
		arg("mostrequested.weight", integer).obeyed(), arg("balancedresource.weight", integer).obeyed(),
		arg("podaffinity.weight", integer).obeyed(), arg("podtopologyspread.weight", integer).obeyed(),
		arg("imagelocality.weight", integer).obeyed(),
	}, make: makeNodeOrder},
	{name: "deviceshare", arguments: devices, make: func(p Plugin) framework.Plugin {
		return deviceshare.Plugin{Spread: p.Arguments.Text("deviceshare.SchedulePolicy", "binpack") == "spread", Weight: p.Arguments.Int("deviceshare.ScheduleWeight", 0)}
	}},
	{name: "network-topology-aware", arguments: topology, make: makeTopology},
	{name: "tdm", arguments: []argument{arg(revocableZone+"*", text).checked(isWindow).obeyed(), arg("tdm.time-zone", text).checked(isLocation).obeyed(), arg(evictPeriod, duration).obeyed()}, make: makeTDM},
	{name: "usage", measures: true, arguments: load, make: makeUsage},
	{name: "numa-aware", arguments: []argument{arg("weight", integer).obeyed()}, make: func(p Plugin) framework.Plugin { return numaaware.Plugin{Weight: p.Arguments.weight("weight", 1)} }},
	{name: "task-topology", arguments: []argument{arg("task-topology.weight", integer).obeyed()}, make: func(p Plugin) framework.Plugin {
		return tasktopology.Plugin{Weight: p.Arguments.weight("task-topology.weight", 1)}
	}},
	{name: "resource-strategy-fit", arguments: strategy, make: makeStrategyFit},
	{name: "extender", arguments: extension, make: func(p Plugin) framework.Plugin { return makeExtender(p) }},
	{name: "rescheduling", measures: true, arguments: moving, make: makeRescheduling},
}

// switches lists the switches of plugins.
var switches = []switchEntry{
	{name: "enableJobOrder", used: true}, {name: "enableQueueOrder", used: true}, {name: "enablePredicate", used: true},
	{name: "enableNodeOrder", used: true}, {name: "enableBestNode", used: true}, {name: "enableJobEnqueued", used: true},
	{name: "enableHierarchy", used: true}, {name: "enabledHyperNodeOrder", used: true}, {name: "enabledVictim", used: true},
	{name: "enableTaskOrder", used: true, kept: []string{"task-topology"}, why: "the tasks of a gang are placed together, whatever their order"},
	{name: "enableJobReady", kept: []string{"gang"}, why: "a gang has its minimum at once or starts nothing"},
	{name: "enableJobPipelined", kept: []string{"gang", "sla", "tdm"}, why: "room is kept for a whole gang or not at all"},
	{name: "enableJobStarving", kept: []string{"priority", "gang", "tdm"}, why: "room is made for every gang that has none and may have it"},
	{name: "enabledSubJobReady", kept: []string{"gang"}, why: "a part of a gang has its size at once or starts nothing"},
	{name: "enabledSubJobPipelined", kept: []string{"gang"}, why: "room is kept for a whole gang or not at all"},
	{name: "enabledSubJobOrder", kept: []string{"gang", "priority"}, why: "the parts of a gang that are hardest to place come first"},
	{name: "enablePreemptable", kept: []string{"priority", "conformance", "pdb", "cdp", "tdm", "extender"}, why: "whom an owner, a budget or the system protects is never sent away, and nobody for one of lower priority"},
	{name: "enableReclaimable", kept: []string{"proportion", "capacity", "conformance", "pdb", "cdp", "extender"}, why: "nothing is taken but what a queue holds beyond what it deserves, and nothing that is protected"},
	{name: "enablePreemptive", kept: []string{"proportion", "capacity", "extender"}, why: "a queue takes no more than it deserves"},
	{name: "enabledOverused", kept: []string{"proportion", "capacity", "extender"}, why: "no queue gets more than its capability"},
	{name: "enabledAllocatable", kept: []string{"proportion", "capacity"}, why: "no queue gets more than its capability"},
	{name: "enabledHyperNodeGradient", kept: []string{"network-topology-aware"}, why: "what a gang's topology demands is never left out"},
	// No plugin of Volcano does anything at these.
	{name: "enabledClusterOrder"}, {name: "enableTargetJob"}, {name: "enableReservedNodes"},
}

// heads and conservative are arguments of our own: how many gangs of each queue
// have a planned start, and whether all have.
var (
	heads        = arg("heads", integer).atLeast(1).obeyed()
	conservative = arg("conservative", boolean).obeyed()
	unknownRuns  = arg("unknownRunTimes", text).either("wait", "pass").obeyed()
)

// halfLife is how fast fairshare forgets, for all queues.
var halfLife = arg("fairshare.halfLife", duration).atLeast(60).obeyed()

// minRun is an argument of our own: how long a pod runs at least before it is evicted.
var minRun = arg("minimumRunTime", duration).obeyed()

// Why arguments are not used.
const (
	noAscend   = "NPUs are whole devices here"
	geometries = "nodes tell the geometry of their GPUs themselves"
	queueDRA   = "queues count what pods request, and resource claims are no part of that"
)

var (
	errorCache = arg("predicateErrorCacheEnable", boolean).unused("what filters say of a class of equal pods is always remembered within a cycle, and never longer")
	preemption = append([]argument{errorCache, arg("enableTopologyAwarePreemption", boolean).only(true, "victims are always chosen by where the whole gang would go")},
		unused(integer, "every domain is looked at, one after the other", "topologyAwarePreemptWorkerNum", "minCandidateNodesPercentage", "minCandidateNodesAbsolute", "maxCandidateNodesAbsolute")...)
	gangs = []argument{
		arg("maxDomains", integer).atLeast(1).unused("every domain is looked at"),
		arg("allowWholeBundle", boolean).obeyed(),
	}
	affinityFilter = arg("predicate.NodeAffinityEnable", boolean).obeyed()
	taintFilter    = arg("predicate.TaintTolerationEnable", boolean).obeyed()
	claimsWithin   = arg("volumebinding.bindTimeoutSeconds", integer).atLeast(1).obeyed()
	predicate      = []argument{
		affinityFilter, taintFilter, arg("predicate.NodePortsEnable", boolean).obeyed(), arg("predicate.PodAffinityEnable", boolean).obeyed(), arg("predicate.PodTopologySpreadEnable", boolean).obeyed(),
		arg("predicate.NodeVolumeLimitsEnable", boolean).obeyed(), arg("predicate.VolumeZoneEnable", boolean).obeyed(), arg("predicate.VolumeBindingEnable", boolean).obeyed(),
		arg("predicate.DynamicResourceAllocationEnable", boolean).obeyed(),
		arg("predicate.CacheEnable", boolean).unused("what filters say of a class of equal pods is always remembered within a cycle, and never longer"),
		claimsWithin,
		arg("volumebinding.shape", anything).unused("of volumes that suit the smallest is taken, and nodes are not scored by them"),
		arg("volumebinding.weight", integer).unused("of volumes that suit the smallest is taken, and nodes are not scored by them"),
		arg("dynamicresources.filterTimeoutSeconds", integer).unused("no filter waits for anything"),
	}
	devices = append(only(true, "pods that ask by these names are always served", "deviceshare.GPUSharingEnable", "deviceshare.GPUNumberEnable", "deviceshare.VGPUEnable"),
		arg("deviceshare.NodeLockEnable", boolean).only(false, "GPU ids are written with the binding, and pods are bound one after the other to nodes whose plugin needs that, so that nodes need no lock"),
		arg("deviceshare.AscendMindClusterVNPUEnable", boolean).only(false, noAscend), arg("deviceshare.AscendHAMiVNPUEnable", boolean).only(false, noAscend),
		arg("deviceshare.SchedulePolicy", text).either("binpack", "spread").obeyed(), arg("deviceshare.ScheduleWeight", integer).obeyed(),
		arg("deviceshare.KnownGeometriesCMName", text).unused(geometries), arg("deviceshare.KnownGeometriesCMNamespace", text).unused(geometries),
		arg("deviceshare.GPUExclusiveRules", anything).unused("which GPUs a pod may have to itself is said by the pod"))
	topology = []argument{
		arg("weight", integer).obeyed(), arg("hypernode.binpack.weight", integer).obeyed(), arg("hypernode.binpack.cpu", integer).obeyed(), arg("hypernode.binpack.memory", integer).obeyed(),
		arg("hypernode.binpack.resources.*", integer).obeyed(), arg("hypernode.binpack.resources", words).obeyed(),
		arg("hypernode.binpack.normal-pod.enable", boolean).obeyed(), arg("hypernode.binpack.normal-pod.fading", number).obeyed(),
		arg("hypernode.gradient.evict.max-hypernodes", integer).unused("every HyperNode is looked at"),
	}
	load = []argument{
		arg("usage.weight", integer).obeyed(), arg("cpu.weight", integer).obeyed(), arg("memory.weight", integer).obeyed(),
		arg("thresholds.cpu", number).obeyed(), arg("thresholds.mem", number).obeyed(), arg("estimator.*", anything).unused("measurements count as they are"),
	}
	moving = []argument{
		arg("interval", duration).obeyed(), arg("metricsPeriod", duration).obeyed(), arg("queueSelector", words).obeyed(), arg(strategies, anything).verified(isStrategies).obeyed(),
		arg(moveLabels+"*", text).obeyed(),
	}
	strategy = []argument{
		arg("resourceStrategyFitWeight", integer).obeyed(), arg("resources.*.type", text).either("MostAllocated", "LeastAllocated").obeyed(), arg("resources.*.weight", integer).obeyed(),
		arg("sra.enable", boolean).obeyed(), arg("sra.weight", integer).obeyed(), arg("sra.resources", words).obeyed(), arg("sra.resourceWeight.*", integer).obeyed(), arg("sra.*", text).unused("nothing is known of it"),
		arg("proportional.enable", boolean).obeyed(), arg("proportional.resources", words).obeyed(), arg("proportional.resourceProportion.*", number).obeyed(), arg("proportional.*", text).unused("nothing is known of it"),
	}
	extension = []argument{
		arg("extender.urlPrefix", text).obeyed(), arg("extender.httpTimeout", duration).obeyed(), arg("extender.ignorable", boolean).obeyed(), arg("extender.managedResources", words).obeyed(),
		arg("extender.predicateVerb", text).obeyed(), arg("extender.prioritizeVerb", text).obeyed(), arg("extender.*Verb", text).unused("an extender is asked about nodes alone"),
	}
)
