package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// TestNodesAreChosenAsConfigured: the plugins that score nodes, by what Volcano's
// configurations say, on nodes of which each has its own advantage.
func TestNodesAreChosenAsConfigured(t *testing.T) {
	even := []string{"node n1 cpu=8 gpu=4", "node n2 cpu=8 gpu=4", "node n3 cpu=8 gpu=4"}
	// By nothing but the weight of its own nodeorder looks at what a row is about.
	nodeorder := func(weights string) string {
		out := "[{name: nodeorder, arguments: {" + weights
		for _, w := range []string{"leastrequested", "balancedresource", "tainttoleration", "nodeaffinity", "podaffinity", "podtopologyspread", "imagelocality"} {
			if !strings.Contains(weights, w) {
				out += ", " + w + ".weight: 0"
			}
		}
		return out + "}}]"
	}
	zones := []string{"node n1 cpu=8 label.z=a label.h=1", "node n2 cpu=8 label.z=b label.h=2", "node n3 cpu=8 label.z=b label.h=3"}
	friends := slices.Concat(zones, []string{"group f min=1", "pods f w 1 cpu=8 lab.app=db select.h=3", "cycle", "group a min=2", "pods a w 2 cpu=1 likes=z:app=db"})
	spread := slices.Concat(zones, []string{"group a min=3", "pods a w 3 cpu=1 lab.app=web softspread=h:app=web:1"})
	crowd := slices.Concat(zones, []string{"group f min=2", "pods f w 2 cpu=1 lab.app=db select.h=1", "cycle", "group a min=2", "pods a w 2 cpu=1 lab.app=web likes=z:app=db softspread=z:app=web:1"})
	images := []string{"node n1 cpu=8", "node n2 cpu=8 image.app=900 image.base=20", "node n3 cpu=8 image.base=20", "group a min=2", "pods a w 2 cpu=1 image=app image=base"}
	for _, tt := range []struct {
		name, plugins string
		given         []string
		want          string
	}{
		{"volcano's own default spreads", "[{name: nodeorder}]", append(even, "group a min=3", "pods a w 3 cpu=1"), "n1 n2 n3"},
		{"the fuller first", "[{name: nodeorder, arguments: {leastrequested.weight: 0, balancedresource.weight: 0, mostrequested.weight: 1}}]", append(even, "group a min=3", "pods a w 3 cpu=1"), "n1 n1 n1"},
		{"without a configuration nodes are filled", "[]", append(even, "group a min=3", "pods a w 3 cpu=1"), "n1 n1 n1"},
		{"binpack outweighs", "[{name: nodeorder}, {name: binpack, arguments: {binpack.weight: 10}}]", append(even, "group a min=3", "pods a w 3 cpu=1"), "n1 n1 n1"},
		{"binpack by GPUs alone", "[{name: nodeorder}, {name: binpack, arguments: {binpack.weight: 10, binpack.cpu: 0, binpack.memory: 0, binpack.resources: nvidia.com/gpu, binpack.resources.nvidia.com/gpu: 5}}]",
			append(even, "group a min=2", "pods a w 2 cpu=1 gpu=1", "group b min=2", "pods b w 2 cpu=1"), "n1 n1 n2 n3"},
		{"some filled, others spread", "[{name: resource-strategy-fit, arguments: {resources: {nvidia.com/gpu: {type: MostAllocated, weight: 2}, cpu: {type: LeastAllocated, weight: 1}}}}]",
			append(even, "group a min=2", "pods a w 2 gpu=1", "group b min=2", "pods b w 2 cpu=1"), "n1 n1 n1 n2"},
		{"scarce nodes are spared", "[{name: resource-strategy-fit, arguments: {sra: {enable: true, resources: nvidia.com/gpu, weight: 10, resourceWeight: {nvidia.com/gpu: 1}}}}]",
			[]string{"node g1 cpu=2 gpu=4", "node p1 cpu=8", "group a min=1", "pods a w 1 cpu=1"}, "p1"},
		{"proportions are kept", "[{name: resource-strategy-fit, arguments: {proportional: {enable: true, resources: nvidia.com/gpu, resourceProportion: {nvidia.com/gpu.cpu: 2}}}}]",
			[]string{"node g1 cpu=10 gpu=4", "group a min=1", "pods a w 3 cpu=1"}, "g1 g1"},
		{"GPUs are spread", "[{name: deviceshare, arguments: {deviceshare.SchedulePolicy: spread, deviceshare.ScheduleWeight: 10}}]", append(even, "group a min=3", "pods a w 3 gpu=1"), "n1 n2 n3"},
		{"GPUs are packed", "[{name: nodeorder}, {name: deviceshare, arguments: {deviceshare.SchedulePolicy: binpack, deviceshare.ScheduleWeight: 100}}]", append(even, "group a min=3", "pods a w 3 cpu=1 gpu=1"), "n1 n1 n1"},
		{"near whom pods prefer", nodeorder("podaffinity.weight: 2"), friends, "n2 n2"},
		{"whom pods prefer is nobody's business", nodeorder("podaffinity.weight: 0"), friends, "n1 n1"},
		{"spread where pods prefer it", nodeorder("podtopologyspread.weight: 2"), spread, "n1 n2 n3"},
		{"no spread", nodeorder("podtopologyspread.weight: 0"), spread, "n1 n1 n1"},
		{"spread outweighs affinity", nodeorder("podaffinity.weight: 1, podtopologyspread.weight: 1"), crowd, "n1 n2"},
		{"affinity outweighs spread", nodeorder("podaffinity.weight: 50, podtopologyspread.weight: 1"), crowd, "n1 n1"},
		{"without a configuration both count", "[]", crowd, "n1 n2"},
		{"where the images are", nodeorder("imagelocality.weight: 1"), images, "n2 n2"},
		{"where no images are", nodeorder("imagelocality.weight: 0"), images, "n1 n1"},
		{"images outweigh spreading", "[{name: nodeorder, arguments: {imagelocality.weight: 20}}]", images, "n2 n2"},
		{"small images do not outweigh spreading", "[{name: nodeorder}]", []string{"node n1 cpu=8", "node n2 cpu=8 image.little=100", "node n4 cpu=8 image.little=100", "group a min=3", "pods a w 3 cpu=1 image=little"}, "n1 n2 n4"},
		{"the volume of taints", nodeorder("tainttoleration.weight: 1"), []string{"node n1 cpu=8 taint=old:PreferNoSchedule", "node n2 cpu=8", "group a min=1", "pods a w 1 cpu=1"}, "n2"},
		{"taints that ask are not looked at", nodeorder("tainttoleration.weight: 0"), []string{"node n1 cpu=8 taint=old:PreferNoSchedule", "node n2 cpu=8", "group a min=1", "pods a w 1 cpu=1"}, "n1"},
		{"peers switched off", "[{name: nodeorder, enableNodeOrder: false}]", spread, "n1 n1 n1"},
		{"switched off", "[{name: nodeorder, enableNodeOrder: false}]", append(even, "group a min=3", "pods a w 3 cpu=1"), "n1 n1 n1"},
	} {
		conf, warnings, err := config.Parse([]byte("actions: allocate\ntiers:\n- plugins: " + tt.plugins + "\n"))
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, warnings %q", tt.name, err, warnings)
			continue
		}
		w := schedtest.NewWorld()
		for _, line := range tt.given {
			if _, err := w.Do(line); err != nil {
				t.Fatalf("%s: %s: %v", tt.name, line, err)
			}
		}
		var got []string
		for _, p := range scheduler.Cycle(conf.Pipeline(), w.Snapshot(), time.Unix(0, 0)).Placements {
			var nodes []string
			for _, b := range p.Binds {
				nodes = append(nodes, b.Node)
			}
			slices.Sort(nodes)
			got = append(got, nodes...)
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: pods go to %s, want %s", tt.name, s, tt.want)
		}
	}
}

// TestWeightsAreWritten: mistakes in what these plugins read are told by their path.
func TestWeightsAreWritten(t *testing.T) {
	for args, want := range map[string]string{
		"resources: {cpu: {type: Most}}":                    `tiers[0].plugins[0].arguments["resources.cpu.type"]`,
		"sra: {enable: perhaps}":                            `tiers[0].plugins[0].arguments["sra.enable"]`,
		"proportional: {resourceProportion: {gpu.cpu: -1}}": `tiers[0].plugins[0].arguments["proportional.resourceProportion.gpu.cpu"]`,
	} {
		_, _, err := config.Parse([]byte(fmt.Sprintf("actions: allocate\ntiers:\n- plugins: [{name: resource-strategy-fit, arguments: {%s}}]\n", args)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %s", args, err, want)
		}
	}
	_, warnings, err := config.Parse([]byte("actions: allocate\ntiers:\n- plugins: [{name: resource-strategy-fit, arguments: {sra: {policy: x}}}]\n"))
	if err != nil || len(warnings) != 1 {
		t.Errorf("what nobody knows of sra gives %v and warnings %q", err, warnings)
	}
}
