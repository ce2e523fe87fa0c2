package config_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// configured runs a cycle as a configuration says, in a world of lines; "cycle" and
// "settle" among them are as without a configuration.
func configured(t *testing.T, text string, w *schedtest.World, lines ...string) plan.Plan {
	t.Helper()
	conf, warnings, err := config.Parse([]byte(text))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v, warnings %q of\n%s", err, warnings, text)
	}
	for _, line := range lines {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return scheduler.Cycle(conf.Pipeline(), w.Snapshot(), w.Now)
}

// bound lists where pods go, by pod.
func bound(p plan.Plan) string {
	var out []string
	for _, pl := range p.Placements {
		for _, b := range pl.Binds {
			out = append(out, b.Name+"="+b.Node)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestPredicatesAreSwitchedOff: each switch of predicates has its own filter not looked
// at, and no other; without it the pod waits.
func TestPredicatesAreSwitchedOff(t *testing.T) {
	claiming := func(names string, more func(*claims.Spec)) func(*schedtest.World) {
		return func(w *schedtest.World) {
			w.Claims = &claims.Spec{
				StorageClasses: []*storagev1.StorageClass{schedtest.StorageClass("local", "")},
				DeviceClasses:  []*resourcev1.DeviceClass{schedtest.DeviceClass("gpu", "gpu.example.com")},
				ResourceSlices: []*resourcev1.ResourceSlice{schedtest.Slice("n1", "gpu.example.com", "x", 1)},
			}
			more(w.Claims)
			w.Gang("a").Pods[0].Needs.Claims = schedtest.Claiming(names)
		}
	}
	volume := func(change func(*corev1.PersistentVolume)) func(*claims.Spec) {
		return func(s *claims.Spec) {
			v := schedtest.LocalVolume("v", "local", "h1", "10Gi")
			change(v)
			s.Volumes = []*corev1.PersistentVolume{v}
			s.VolumeClaims = []*corev1.PersistentVolumeClaim{schedtest.VolumeClaim("c", "local", "1Gi")}
		}
	}
	one := []string{"node n1 cpu=8 label.z=a label.kubernetes.io/hostname=h1 label.topology.kubernetes.io/zone=a", "group a min=1"}
	rows := map[string]struct {
		lines []string
		more  func(*schedtest.World)
	}{
		"NodeAffinity":      {append(one[:2:2], "pods a w 1 cpu=1 select.z=b"), nil},
		"TaintToleration":   {[]string{"node n1 cpu=8 taint=k:NoSchedule", "group a min=1", "pods a w 1 cpu=1"}, nil},
		"NodePorts":         {append(one[:1:1], "group b min=1", "pods b w 1 cpu=1 port=80", "cycle", "group a min=1", "pods a w 1 cpu=1 port=80"), nil},
		"PodAffinity":       {append(one[:1:1], "group b min=1", "pods b w 1 cpu=1 lab.app=b apart=z:app=a", "cycle", "group a min=1", "pods a w 1 cpu=1 lab.app=a apart=z:app=b near=z:app=c"), nil},
		"PodTopologySpread": {append(one[:1:1], "node n2 cpu=8 label.z=b notready", "group b min=1", "pods b w 1 cpu=1 lab.app=a", "cycle", "group a min=1", "pods a w 1 cpu=1 lab.app=a spread=z:app=a:1"), nil},
		"VolumeBinding": {append(one[:2:2], "pods a w 1 cpu=1"), claiming("v:c", volume(func(v *corev1.PersistentVolume) {
			v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] = "elsewhere"
		}))},
		"VolumeZone": {append(one[:2:2], "pods a w 1 cpu=1"), claiming("v:c", volume(func(v *corev1.PersistentVolume) { v.Labels = map[string]string{corev1.LabelTopologyZone: "b"} }))},
		"NodeVolumeLimits": {append(one[:2:2], "pods a w 1 cpu=1"), claiming("v:c", func(s *claims.Spec) {
			volume(func(v *corev1.PersistentVolume) {
				v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "v"}}
			})(s)
			most := int32(0)
			s.CSINodes = []*storagev1.CSINode{{Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "d", Allocatable: &storagev1.VolumeNodeResources{Count: &most}}}}}}
			s.CSINodes[0].Name = "n1"
		})},
		"DynamicResourceAllocation": {append(one[:2:2], "pods a w 1 cpu=1"), claiming("d:c", func(s *claims.Spec) {
			s.ResourceClaims = []*resourcev1.ResourceClaim{schedtest.ResourceClaim("c", "gpu", "", 2)}
		})},
	}
	for filter, row := range rows {
		for off := range rows {
			w := schedtest.NewWorld()
			for _, line := range row.lines {
				if _, err := w.Do(line); err != nil {
					t.Fatalf("%s: %s: %v", filter, line, err)
				}
			}
			if row.more != nil {
				row.more(w)
			}
			text := "actions: allocate\ntiers: [{plugins: [{name: predicates, arguments: {predicate." + off + "Enable: false}}]}]\n"
			got, want := bound(configured(t, text, w)), ""
			if off == filter || filter == "VolumeZone" && off == "VolumeBinding" || filter == "NodeVolumeLimits" && off == "VolumeBinding" {
				want = "a-w-0=n1"
			}
			if got != want {
				t.Errorf("what %s looks at, with %s switched off: bound is %q, want %q", filter, off, got, want)
			}
		}
	}
	// A preference is no filter, and two pods with one port are two pods.
	w := schedtest.NewWorld()
	text := "actions: allocate\ntiers: [{plugins: [{name: predicates, arguments: {predicate.NodePortsEnable: false}}]}]\n"
	if got := bound(configured(t, text, w, "node n1 cpu=8", "group a min=3", "pods a w 3 cpu=1 port=80")); got != "a-w-0=n1 a-w-1=n1 a-w-2=n1" {
		t.Errorf("without ports bound is %q", got)
	}
}

// TestSwitchesByEffect: what each switch turns off.
func TestSwitchesByEffect(t *testing.T) {
	closed := []string{
		"node n1 cpu=8 label.volcano.sh/revocable-zone=z", "group a min=1", "pods a w 1 cpu=1 revocable=*",
	}
	revoked := func(more string) int {
		w := schedtest.NewWorld()
		w.Now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
		for _, line := range closed {
			if _, err := w.Do(line); err != nil {
				t.Fatal(err)
			}
		}
		p := w.Gang("a").Pods[0]
		p.Node, p.Phase, p.StartedAt = "n1", "Running", w.Now.Add(-time.Hour).UnixNano()
		text := "actions: shuffle\ntiers: [{plugins: [{name: tdm, arguments: {tdm.revocable-zone.z: '20:00-21:00'}" + more + "}]}]\n"
		return len(configured(t, text, w).Releases)
	}
	if on, off := revoked(""), revoked(", enabledVictim: false"); on != 1 || off != 0 {
		t.Errorf("tdm sends %d back, and %d with enabledVictim off", on, off)
	}

	first := func(more string) string {
		text := "actions: allocate\ntiers: [{plugins: [{name: priority" + more + "}, {name: predicates}]}]\n"
		return bound(configured(t, text, schedtest.NewWorld(), "node n1 cpu=2", "group a min=1", "pods a w 2 cpu=1", "pods a x 1 cpu=1 priority=5"))
	}
	if on, off := first(""), first(", enableTaskOrder: false"); on != "a-w-0=n1 a-x-0=n1" || off != "a-w-0=n1 a-w-1=n1" {
		t.Errorf("members placed are %s, and %s with enableTaskOrder off", on, off)
	}

	tier := func(more string) string {
		text := "actions: allocate\ntiers: [{plugins: [{name: predicates}, {name: network-topology-aware" + more + "}]}]\n"
		w := schedtest.NewWorld()
		p := configured(t, text, w, "node n1 cpu=4", "node n2 cpu=4", "node n3 cpu=8", "node n4 cpu=8",
			"hypernode s1 tier=1 nodes=n1,n2", "hypernode s2 tier=1 nodes=n3,n4",
			"group f min=1", "pods f w 1 cpu=6 ", "cycle", "group a min=2 topology=hard:1", "pods a w 2 cpu=2")
		return bound(p)
	}
	if on, off := tier(""), tier(", enabledHyperNodeOrder: false"); on == off {
		t.Errorf("with enabledHyperNodeOrder on and off bound is %s", on)
	}

	evicted := func(more string) int {
		w := schedtest.NewWorld()
		text := "actions: \"allocate, gangpreempt\"\ntiers: [{plugins: [{name: priority}, {name: gang}]}]\nconfigurations: [{name: gangpreempt, arguments: {" + more + "}}]\n"
		p := configured(t, text, w, "node n1 cpu=2", "group a min=2", "pods a w 2 cpu=1", "cycle", "settle 1h", "group b min=1 priority=9", "pods b w 1 cpu=1")
		var n int
		for _, c := range p.Claims {
			n += len(c.Evictions)
		}
		return n
	}
	if on, off := evicted("allowWholeBundle: true"), evicted("allowWholeBundle: false"); on != 2 || off != 0 {
		t.Errorf("%d pods of a whole gang go, and %d without allowWholeBundle", on, off)
	}
}

// TestClaimsWithin: how long a gang waits for its volumes.
func TestClaimsWithin(t *testing.T) {
	for text, want := range map[string]time.Duration{
		ofPlugin("predicates", ", arguments: {volumebinding.bindTimeoutSeconds: 90}"):                  90 * time.Second,
		ofPlugin("predicates", ", arguments: {volumebinding.bindTimeoutSeconds: 9223372036854775807}"): 365 * 24 * time.Hour,
		ofPlugin("predicates", ""): 0,
		"actions: allocate\n":      0,
	} {
		c, _, err := config.Parse([]byte(text))
		if got := c.ClaimsWithin(); err != nil || got != want {
			t.Errorf("%v, %v of\n%s", got, err, text)
		}
	}
}
