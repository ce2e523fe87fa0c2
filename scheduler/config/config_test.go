package config_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/actions/repair"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// volcanoDefault is Volcano's built-in configuration, helmDefault the one of its
// chart and ciDefault the one of its end-to-end suites.
const (
	volcanoDefault = `
actions: "enqueue, allocate, backfill"
tiers:
- plugins:
  - name: priority
  - name: gang
  - name: conformance
- plugins:
  - name: overcommit
  - name: drf
  - name: predicates
  - name: proportion
  - name: nodeorder
`
	helmDefault = "actions: \"enqueue, allocate, backfill\"\n" + schedtest.VolcanoTiers
	ciDefault   = `
actions: "enqueue, allocate, backfill, reclaim, preempt"
tiers:
- plugins:
  - name: priority
  - name: gang
  - name: conformance
  - name: sla
- plugins:
  - name: overcommit
  - name: drf
  - name: predicates
  - name: proportion
  - name: nodeorder
  - name: binpack
  - name: network-topology-aware
`
)

func TestVolcanosConfigurationsAreRead(t *testing.T) {
	for _, text := range []string{volcanoDefault, helmDefault, ciDefault, config.Standard} {
		c, warnings, err := config.Parse([]byte(text))
		if err != nil || len(warnings) > 0 {
			t.Errorf("%v, warned %q in:%s", err, warnings, text)
			continue
		}
		if names := pluginNames(c.Pipeline()); !strings.Contains(names, "proportion") || !strings.Contains(names, "predicates") {
			t.Errorf("plugins are %s", names)
		}
	}
}

func pluginNames(p framework.Pipeline) string {
	var out []string
	for _, pl := range p.Plugins {
		out = append(out, pl.Name())
	}
	return strings.Join(out, " ")
}

func actionNames(p framework.Pipeline) string {
	var out []string
	for _, a := range p.Actions {
		out = append(out, a.Name())
	}
	return strings.Join(out, " ")
}

// TestEveryActionOfVolcano has a row for each action and its arguments.
func TestEveryActionOfVolcano(t *testing.T) {
	cache := map[string]any{"predicateErrorCacheEnable": true}
	gang := map[string]any{"maxDomains": int64(3), "allowWholeBundle": true}
	for name, want := range map[string]map[string]any{
		"enqueue": {}, "shuffle": {}, "allocate": cache, "backfill": cache, "reclaim": cache,
		"preempt": {
			"predicateErrorCacheEnable": false, "enableTopologyAwarePreemption": true, "topologyAwarePreemptWorkerNum": int64(16),
			"minCandidateNodesPercentage": int64(10), "minCandidateNodesAbsolute": int64(1), "maxCandidateNodesAbsolute": int64(100),
		},
		"gangpreempt": gang, "gangreclaim": gang,
	} {
		text := fmt.Sprintf("actions: %s\nconfigurations:\n- name: %s\n  arguments:\n", name, name)
		for k, v := range want {
			text += fmt.Sprintf("    %s: %v\n", k, v)
		}
		c, _, err := config.Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := c.Actions[0]; got.Name != name || !reflect.DeepEqual(map[string]any(got.Arguments), want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		if bad := strings.Replace(text, "arguments:\n", "arguments:\n    nonsense: 1\n", 1); parses(bad) {
			t.Errorf("%s: an unknown argument was accepted", name)
		}
	}
}

func parses(text string) bool { _, _, err := config.Parse([]byte(text)); return err == nil }

// value is an argument as written, as understood, and a value that is refused.
type value struct {
	write string
	want  any
	bad   string
}

var (
	yes    = value{"true", true, "7"}
	quoted = value{`"false"`, false, "perhaps"}
	weight = value{"10", int64(10), "-1"}
	asText = value{`"5"`, int64(5), "1.5"}
	hour   = value{"1h", time.Hour, "1"}
	name   = value{"some-name", "some-name", "[1]"}
	names  = value{"nvidia.com/gpu, example.com/foo", []string{"nvidia.com/gpu", "example.com/foo"}, "[[1]]"}
)

// TestEveryPluginOfVolcano has a row for each plugin and each of its arguments.
func TestEveryPluginOfVolcano(t *testing.T) {
	rows := map[string]map[string]value{
		"gang": {}, "priority": {}, "conformance": {}, "proportion": {}, "cdp": {}, "pdb": {}, "resourcequota": {},
		"drf":        {"drf.by": {"namespace", "namespace", "user"}}, // an argument of our own
		"overcommit": {"overcommit-factor": {"1.5", 1.5, "0.9"}},
		"sla":        {"sla-waiting-time": hour},
		"binpack": {
			"binpack.weight": weight, "binpack.cpu": asText, "binpack.memory": weight, "binpack.resources": names,
			"binpack.resources.nvidia.com/gpu": weight,
		},
		"nodeorder": {
			"nodeaffinity.weight": weight, "podaffinity.weight": weight, "leastrequested.weight": weight, "mostrequested.weight": weight,
			"balancedresource.weight": asText, "tainttoleration.weight": weight, "imagelocality.weight": weight, "podtopologyspread.weight": weight,
		},
		"predicates": {
			"predicate.NodeAffinityEnable": yes, "predicate.NodePortsEnable": yes, "predicate.TaintTolerationEnable": quoted, "predicate.PodAffinityEnable": yes,
			"predicate.NodeVolumeLimitsEnable": yes, "predicate.VolumeZoneEnable": yes, "predicate.PodTopologySpreadEnable": yes, "predicate.VolumeBindingEnable": yes,
			"predicate.DynamicResourceAllocationEnable": yes, "predicate.CacheEnable": yes,
			"volumebinding.bindTimeoutSeconds": weight, "volumebinding.weight": weight, "dynamicresources.filterTimeoutSeconds": weight,
			"volumebinding.shape": {"[a]", []any{"a"}, ""},
		},
		"capacity": {
			"enableHierarchy": yes, "ancestorReclaimLevel": weight, "capacity.DynamicResourceAllocationEnable": yes, "capacity.DRAConsumableCapacityEnable": yes,
		},
		"deviceshare": {
			"deviceshare.GPUSharingEnable": yes, "deviceshare.GPUNumberEnable": yes, "deviceshare.NodeLockEnable": yes, "deviceshare.VGPUEnable": yes,
			"deviceshare.AscendMindClusterVNPUEnable": yes, "deviceshare.AscendHAMiVNPUEnable": yes,
			"deviceshare.SchedulePolicy": {"binpack", "binpack", "tightest"}, "deviceshare.ScheduleWeight": weight,
			"deviceshare.KnownGeometriesCMName": name, "deviceshare.KnownGeometriesCMNamespace": name, "deviceshare.GPUExclusiveRules": {"[a]", []any{"a"}, ""},
		},
		"network-topology-aware": {
			"weight": weight, "hypernode.binpack.weight": weight, "hypernode.binpack.cpu": weight, "hypernode.binpack.memory": weight, "hypernode.binpack.resources": names,
			"hypernode.binpack.resources.nvidia.com/gpu": weight, "hypernode.binpack.normal-pod.enable": yes,
			"hypernode.binpack.normal-pod.fading": {"0.8", 0.8, "x"}, "hypernode.gradient.evict.max-hypernodes": weight,
		},
		"tdm":        {"tdm.revocable-zone.rz1": {`"10:00-21:00"`, "10:00-21:00", "10-21"}, "tdm.time-zone": {"Europe/Berlin", "Europe/Berlin", "Europe/Atlantis"}, "tdm.evict.period": hour},
		"usage":      {"usage.weight": weight, "cpu.weight": weight, "memory.weight": weight, "thresholds.cpu": {"80", 80.0, "x"}, "thresholds.mem": {"70", 70.0, "x"}, "estimator.type": {"x", "x", ""}},
		"numa-aware": {"weight": weight}, "task-topology": {"task-topology.weight": weight},
		"nodegroup": {"strict": yes, "enablePreferredOrder": yes},
		"resource-strategy-fit": {
			"resourceStrategyFitWeight": weight, "resources.nvidia.com/gpu.type": {"MostAllocated", "MostAllocated", "Most"}, "resources.cpu.weight": weight,
			"sra.enable": {"true", true, ""}, "proportional.enable": {"true", true, ""},
		},
		"extender": {
			"extender.urlPrefix": {"http://127.0.0.1", "http://127.0.0.1", "[1]"}, "extender.httpTimeout": hour, "extender.ignorable": yes,
			"extender.predicateVerb": name, "extender.onSessionOpenVerb": name, "extender.managedResources": names,
		},
		"rescheduling": {
			"interval": hour, "metricsPeriod": hour, "queueSelector": names, "labelSelector.a": name,
			"strategies": {"[{name: offlineOnly}]", []any{map[string]any{"name": "offlineOnly"}}, "[a]"},
		},
	}
	for plugin, args := range rows {
		text := "actions: allocate\ntiers:\n- plugins:\n  - name: " + plugin + "\n    arguments:\n"
		all := text
		for key, v := range args {
			all += "      " + key + ": " + v.write + "\n"
			if v.bad == "" {
				continue
			}
			_, _, err := config.Parse([]byte(text + "      " + key + ": " + v.bad + "\n"))
			if want := fmt.Sprintf("tiers[0].plugins[0].arguments[%q]", key); !pathIs(err, want) {
				t.Errorf("%s, %s = %s: %v, want an error at %s", plugin, key, v.bad, err, want)
			}
		}
		if plugin == "extender" && parses(text+"      extender.ignorable: true\n") {
			t.Error("an extender without a URL was accepted")
		}
		c, _, err := config.Parse([]byte(all))
		if err != nil {
			t.Errorf("%s: %v", plugin, err)
			continue
		}
		got := c.Tiers[0][0]
		if got.Name != plugin || len(got.Arguments) != len(args) {
			t.Errorf("%s: %+v", plugin, got)
		}
		for key, v := range args {
			if !reflect.DeepEqual(got.Arguments[key], v.want) {
				t.Errorf("%s, %s: %#v, want %#v", plugin, key, got.Arguments[key], v.want)
			}
		}
		if parses(text + "      nonsense: 1\n") {
			t.Errorf("%s: an unknown argument was accepted", plugin)
		}
	}
}

// TestNumbersAreReadAsWritten: whole numbers in all the forms that files have them in, and
// the words for those that are none.
func TestNumbersAreReadAsWritten(t *testing.T) {
	read := func(v string) (config.Config, error) {
		c, _, err := config.Parse([]byte("actions: allocate\ntiers:\n- plugins:\n  - name: nodeorder\n    arguments: {nodeaffinity.weight: " + v + "}\n"))
		return c, err
	}
	for v, want := range map[string]int64{`"1.0"`: 1, "1.0": 1, `"3"`: 3, `" 4 "`: 4, `"1e3"`: 1000, "1e3": 1000, `"-0.0"`: 0, `"9007199254740993"`: 1<<53 + 1} {
		if c, err := read(v); err != nil || c.Tiers[0][0].Arguments["nodeaffinity.weight"] != want {
			t.Errorf("%s is read as %v (%v), want %d", v, c.Tiers, err, want)
		}
	}
	for v, why := range map[string]string{
		"-1": "it is less", `"-1"`: "it is less", `"-1.0"`: "it is less", `"-1e30"`: "it is less", "1.5": "it has a fraction", `"1.5"`: "it has a fraction",
		"1e30": "it is too large", `"1e400"`: "it is too large", `"NaN"`: "it is no number", "high": "it is no number", `""`: "it is no number", "null": "must be a single value",
	} {
		_, err := read(v)
		if !pathIs(err, `tiers[0].plugins[0].arguments["nodeaffinity.weight"]`) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s gives %v, want the path and %q", v, err, why)
		}
	}
}

func pathIs(err error, path string) bool {
	var e *config.Error
	return errors.As(err, &e) && e.Path == path
}

// TestEverySwitchOfVolcano has a row for each switch.
func TestEverySwitchOfVolcano(t *testing.T) {
	for _, sw := range strings.Fields(`enableJobOrder enableHierarchy enableJobReady enableJobPipelined enableTaskOrder enablePreemptable
		enableReclaimable enablePreemptive enableQueueOrder enabledClusterOrder enablePredicate enableBestNode enableNodeOrder enableTargetJob
		enableReservedNodes enableJobEnqueued enabledVictim enableJobStarving enabledOverused enabledAllocatable enabledHyperNodeOrder
		enabledHyperNodeGradient enabledSubJobReady enabledSubJobPipelined enabledSubJobOrder`) {
		text := "actions: allocate\ntiers:\n- plugins:\n  - name: gang\n    " + sw + ": "
		c, _, err := config.Parse([]byte(text + "false\n"))
		if err != nil || c.Tiers[0][0].On(sw) {
			t.Errorf("%s: %v, %+v", sw, err, c)
		}
		if _, _, err := config.Parse([]byte(text + "maybe\n")); !pathIs(err, "tiers[0].plugins[0]."+sw) {
			t.Errorf("%s: maybe gave %v", sw, err)
		}
	}
}

func TestMistakesTellTheirPath(t *testing.T) {
	ok := "actions: allocate\n"
	for text, path := range map[string]string{
		"actions: allocat":                         "actions",
		"actions: ''":                              "actions",
		"actions: [a]":                             "actions",
		"actions: allocate, allocate":              "actions",
		"actions: gangpreempt, preempt":            "actions",
		"[]":                                       "configuration",
		"actions: {":                               "configuration",
		"actions: a\nactions: b":                   "configuration",
		ok + "tier: []":                            "tier",
		ok + "tiers: {}":                           "tiers",
		ok + "tiers: [7]":                          "tiers[0]",
		ok + "tiers: [{plugin: []}]":               "tiers[0].plugin",
		ok + "tiers: [{plugins: [{}]}]":            "tiers[0].plugins[0]",
		ok + "tiers: [{plugins: [{name: gangs}]}]": "tiers[0].plugins[0].name",
		ok + "tiers: [{plugins: [{name: gang, enableAll: true}]}]":                          "tiers[0].plugins[0].enableAll",
		ok + "tiers: [{plugins: [{name: gang, arguments: 7}]}]":                             "tiers[0].plugins[0].arguments",
		ok + "tiers: [{plugins: [{name: gang}, {name: gang}]}]":                             "tiers[0].plugins",
		ok + "tiers: [{plugins: [{name: proportion}, {name: drf, enableHierarchy: true}]}]": "tiers",
		ok + "tiers: [{plugins: [{name: proportion}, {name: capacity}]}]":                   "tiers",
		ok + "configurations: [{name: nothing}]":                                            "configurations[0].name",
		ok + "configurations: [{name: allocate, argument: 1}]":                              "configurations[0].argument",
		ok + "metrics: [1]":                                    "metrics",
		ok + "metrics: {type: guesses}":                        "metrics.type",
		ok + "metrics: {type: prometheus}":                     "metrics.address",
		ok + "metrics: {type: prometheus, address: nowhere}":   "metrics.address",
		ok + "metrics: {interval: often}":                      "metrics.interval",
		ok + "metrics: {tls: {insecureSkipVerify: sometimes}}": "metrics.tls.insecureSkipVerify",
		ok + "tiers: .inf":                                     "tiers",
		ok + "tiers: [{plugins: [{name: .nan}]}]":              "tiers[0].plugins[0].name",
		ok + "tiers: [{plugins: [{name: binpack, arguments: {binpack: {weight: -.inf}}}]}]":           `tiers[0].plugins[0].arguments["binpack.weight"]`,
		ok + "tiers: [{plugins: [{name: overcommit, arguments: {overcommit-factor: .inf}}]}]":         `tiers[0].plugins[0].arguments["overcommit-factor"]`,
		ok + "tiers: [{plugins: [{name: sla, arguments: {sla-waiting-time: .NaN}}]}]":                 `tiers[0].plugins[0].arguments["sla-waiting-time"]`,
		ok + "tiers: [{plugins: [{name: gang, enableJobOrder: .inf}]}]":                               "tiers[0].plugins[0].enableJobOrder",
		ok + "configurations: [{name: preempt, arguments: {minCandidateNodesPercentage: .INF}}]":      `configurations[0].arguments["minCandidateNodesPercentage"]`,
		ok + "tiers: [{plugins: [{name: overcommit, arguments: {overcommit-factor: .inf, a: {, }}]}]": "configuration",
		ok + "metrics: {interval: .inf}": "metrics.interval",
		strings.Repeat(" ", 2<<20):       "configuration",
	} {
		if _, _, err := config.Parse([]byte(text)); !pathIs(err, path) {
			t.Errorf("%.80s\n gave %v, want an error at %s", text, err, path)
		}
	}
	_, _, err := config.Parse([]byte("actions: a, b\ntiers: [{plugins: [{name: x}]}]"))
	if n := strings.Count(fmt.Sprint(err), "\n"); n != 2 {
		t.Errorf("three mistakes are told as: %v", err)
	}
	_, _, err = config.Parse([]byte("actions: a\ntiers: [{plugins: [{name: overcommit, arguments: {overcommit-factor: .inf}}, {name: binpack, arguments: {binpack.cpu: .nan}}]}]"))
	for _, want := range []string{"no action is named", `["overcommit-factor"]: is ".inf", must be a number of at least 1`, `["binpack.cpu"]: is ".nan", must be a whole number of at least 0`} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

func TestWhatIsOfNoUseIsWarnedOf(t *testing.T) {
	_, warnings, err := config.Parse([]byte(`
actions: allocate, shuffle
tiers:
- plugins:
  - name: numa-aware
    arguments: {weight: 1}
  - name: conformance
  - name: gang
    enableJobReady: false
    enableTargetJob: false
configurations:
- name: backfill
metrics: {type: elasticsearch, address: "http://127.0.0.1:9200", elasticsearch: {index: x}}
`))
	want := []string{
		`tiers[0].plugins[2].enableJobReady: the switch is known and not used by this scheduler: a gang has its minimum at once or starts nothing`,
		`configurations[0]: action "backfill" is not among the actions`,
		`metrics.elasticsearch.index: the setting is known and not used by this scheduler: nothing is known of it`,
		`metrics.type: source elasticsearch is known and not used by this scheduler: metrics-server and Prometheus itself are asked`,
	}
	if err != nil || !reflect.DeepEqual(warnings, want) {
		t.Errorf("%v\n got %q\nwant %q", err, warnings, want)
	}
}

func TestPipelineFollowsTheConfiguration(t *testing.T) {
	build := func(text string) framework.Pipeline {
		t.Helper()
		c, _, err := config.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c.Pipeline()
	}
	p := build("actions: allocate\ntiers:\n- plugins:\n  - name: capacity\n  - name: drf\n    enableJobOrder: false\n    arguments: {drf.by: namespace}\n")
	if got := actionNames(p); got != "enqueue allocate repair" {
		t.Errorf("actions: %s; PodGroups are let in by enqueue and short gangs sent back by repair, which always run", got)
	}
	p = build("actions: allocate\ntiers: []\nconfigurations: [{name: repair, arguments: {grace: 90s, enabled: false}}]\n")
	if got := p.Actions[len(p.Actions)-1]; got != (repair.Action{Grace: 90 * time.Second, Off: true}) {
		t.Errorf("repair with arguments is %#v", got)
	}
	p = build("actions: allocate\ntiers:\n- plugins:\n  - name: capacity\n  - name: drf\n    enableJobOrder: false\n    arguments: {drf.by: namespace}\n")
	if got := pluginNames(p); !strings.HasPrefix(got, "capacity drf gang predicates") {
		t.Errorf("plugins: %s", got)
	}
	m, ok := p.Plugins[1].(framework.Muted)
	if !ok || !m.GangOrder || m.QueueOrder {
		t.Errorf("drf without order of gangs is %#v", p.Plugins[1])
	}
	if a, b := config.Default(), build(config.Standard); !reflect.DeepEqual(a, b) {
		t.Errorf("the default is %+v, the standard text gives %+v", a, b)
	}
}

// FuzzParse holds that no text makes the parser panic, and that what it takes
// makes a pipeline.
func FuzzParse(f *testing.F) {
	for _, text := range []string{volcanoDefault, helmDefault, ciDefault, config.Standard, "tiers: [{plugins: [{name: drf, arguments: {a: {b: [1]}}}]}]"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, _, err := config.Parse(text); err == nil {
			if len(c.Actions) == 0 {
				t.Error("a configuration without actions was taken")
			}
			c.Pipeline()
		}
	})
}

// TestSpareCommas: an action that is not named is told of, and keeps no scheduler from
// starting; a list of nothing is a mistake.
func TestSpareCommas(t *testing.T) {
	for text, valid := range map[string]bool{"enqueue, allocate,": true, ",enqueue,,allocate": true, ",": false, " , ": false} {
		c, warnings, err := config.Parse(fmt.Appendf(nil, "actions: %q\ntiers: [{plugins: [{name: gang}]}]\n", text))
		if (err == nil) != valid {
			t.Errorf("%q: %v", text, err)
		}
		if !valid {
			continue
		}
		if c.Actions[0].Name != "enqueue" || c.Actions[1].Name != "allocate" || !strings.Contains(strings.Join(warnings, "\n"), "between two commas") {
			t.Errorf("%q: %v, %v", text, c.Actions, warnings)
		}
	}
}
