package config_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
)

// TestConfigurationsOfEarlierVolcano: what the guides of Volcano's earlier releases have is
// told and keeps no scheduler from starting; what nobody knows does.
func TestConfigurationsOfEarlierVolcano(t *testing.T) {
	for text, told := range map[string]string{
		"actions: enqueue, elect, allocate, reserve, backfill":                                                                                           `"elect" "reserve"`,
		"actions: allocate\nconfigurations: [{name: elect}]":                                                                                             `"elect"`,
		"actions: allocate\ntiers: [{plugins: [{name: reservation}]}]":                                                                                   `"reservation"`,
		"actions: enqueue, allocate\nconfigurations:\n- name: enqueue\n  arguments: {overcommit-factor: 1.5}":                                            "overcommit-factor",
		predicatesWith("predicate.GPUSharingEnable: true"):                                                                                               "predicate.GPUSharingEnable",
		predicatesWith("predicate.GPUNumberEnable: true"):                                                                                                "predicate.GPUNumberEnable",
		predicatesWith("predicate.ProportionalEnable: true\n      predicate.resources: nvidia.com/gpu\n      predicate.resources.nvidia.com/gpu.cpu: 8"): "predicate.ProportionalEnable predicate.resources predicate.resources.nvidia.com/gpu.cpu",
		"actions: allocate\ntiers: [{plugins: [{name: usage, arguments: {thresholds: {CPUUsageAvg.5m: 80, MEMUsageAvg.5m: 90}}}]}]":                      "thresholds.CPUUsageAvg.5m thresholds.MEMUsageAvg.5m",
		"actions: allocate\ntiers: [{plugins: [{name: nodeorder, arguments: {selectorspread.weight: 1}}]}]":                                              "selectorspread.weight",
	} {
		c, warnings, err := config.Parse([]byte(text))
		if err != nil {
			t.Errorf("%s\n: %v", text, err)
			continue
		}
		all := strings.Join(warnings, "\n")
		for _, what := range strings.Fields(told) {
			if !strings.Contains(all, what) {
				t.Errorf("%s\n%s is not told: %q", text, what, warnings)
			}
		}
		c.Pipeline()
	}
	for _, text := range []string{"actions: elected", predicatesWith("predicate.GPUSharing: true"), predicatesWith("predicate.resources.: 1"), predicatesWith("selectorspread.weight: 1"), "actions: allocate\ntiers: [{plugins: [{name: nodeorder, arguments: {overcommit-factor: 1.5}}]}]"} {
		if parses(text) {
			t.Errorf("accepted: %s", text)
		}
	}
}

func predicatesWith(arguments string) string {
	return "actions: allocate\ntiers:\n- plugins:\n  - name: predicates\n    arguments:\n      " + arguments + "\n"
}
