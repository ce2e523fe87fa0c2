package scheduler_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// dataWorld has two virtual nodes of two clusters, the first of which is what a gang
// without data goes to, and a real node that waits for nobody.
func dataWorld(t *testing.T, lines ...string) *schedtest.World {
	t.Helper()
	w := schedtest.NewWorld()
	for _, line := range append([]string{
		"virtual near shape=1*cpu=16,gpu=4 wait=600", "virtual tight shape=1*cpu=8,gpu=2", "group g min=1", "pods g w 1 gpu=2",
	}, lines...) {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	for i := range w.Nodes {
		w.Nodes[i].Labels = map[string]string{"isthmus.sh/cluster": w.Nodes[i].Name}
	}
	return w
}

func onCluster(name, cluster string, size int64) snapshot.Data {
	return snapshot.Data{Name: name, Size: size, PerSecond: 1000, Places: []snapshot.DataPlace{
		{Labels: map[string]string{"isthmus.sh/cluster": cluster}, Path: "/data/" + name}}}
}

// The time to copy what a gang reads counts like the time to wait for a batch system:
// it goes where it starts first, and is told the paths of what is there.
func TestDataCounts(t *testing.T) {
	for name, tt := range map[string]struct {
		data  []snapshot.Data
		where string
		paths string
	}{
		"nothing to read":          {nil, "tight", ""},
		"far more than the wait":   {[]snapshot.Data{onCluster("a", "near", 10_000_000)}, "near", `{"a":"/data/a"}`},
		"quicker than the wait":    {[]snapshot.Data{onCluster("a", "near", 60_000)}, "tight", ""},
		"two add up":               {[]snapshot.Data{onCluster("a", "near", 400_000), onCluster("b", "near", 400_000)}, "near", `{"a":"/data/a","b":"/data/b"}`},
		"one here and one there":   {[]snapshot.Data{onCluster("a", "near", 400_000), onCluster("b", "tight", 400_000)}, "tight", `{"b":"/data/b"}`},
		"nowhere":                  {[]snapshot.Data{onCluster("a", "gone", 10_000_000)}, "tight", ""},
		"larger than can be added": {[]snapshot.Data{onCluster("a", "near", 1<<62), onCluster("b", "near", 1<<62)}, "near", `{"a":"/data/a","b":"/data/b"}`},
	} {
		w := dataWorld(t)
		w.Gang("g").Data = tt.data
		p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
		if len(p.Placements) != 1 || p.Placements[0].Domain != tt.where || p.Placements[0].Paths != tt.paths {
			t.Errorf("%s: want %s %s, got %+v", name, tt.where, tt.paths, p.Placements)
		}
	}
}

// On real nodes the one that has the longest to copy counts.
func TestDataOnRealNodes(t *testing.T) {
	w := dataWorld(t, "node real cpu=8 gpu=2")
	w.Gang("g").Data = []snapshot.Data{onCluster("a", "near", 10_000_000)}
	if p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now); len(p.Placements) != 1 || p.Placements[0].Domain != "near" {
		t.Errorf("want near, got %+v", p.Placements)
	}
	w.Gang("g").Data[0].Places = []snapshot.DataPlace{{Labels: map[string]string{"isthmus.sh/cluster": "real"}, Path: "/mnt"}}
	if p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now); len(p.Placements) != 1 || p.Placements[0].Binds[0].Node != "real" || p.Placements[0].Paths != "" {
		t.Errorf("want the real node, got %+v", p.Placements)
	}
}

// A gang that names what does not exist waits and says so; others of its queue go on.
func TestUnknownDataWaits(t *testing.T) {
	w := dataWorld(t, "queue default fifo", "group next min=1", "pods next w 1 gpu=2")
	w.Gang("g").Data = []snapshot.Data{onCluster("a", "near", 1), {Name: "b", Unknown: true}}
	p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
	if len(p.Placements) != 1 || p.Placements[0].Name != "next" {
		t.Errorf("want next placed alone, got %+v", p.Placements)
	}
	if got := p.String(); !strings.Contains(got, `Dataset "b" does not exist in namespace default`) || !strings.Contains(got, "DatasetNotFound") {
		t.Errorf("the plan does not say why g waits:\n%s", got)
	}
}
