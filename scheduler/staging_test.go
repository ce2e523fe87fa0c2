package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// staged is data that only a cluster which no node is of has, and that is copied, in
// seconds of a thousand bytes, to some.
func staged(name string, seconds int64, targets ...string) snapshot.Data {
	d := onCluster(name, "gone", seconds*1000)
	d.Staged = true
	for _, t := range targets {
		d.Targets = append(d.Targets, snapshot.DataTarget{Cluster: t, Labels: map[string]string{"isthmus.sh/cluster": t}})
	}
	return d
}

// arrive makes a copy a place.
func arrive(d *snapshot.Data, cluster string) {
	kept := d.Targets[:0:0]
	for _, t := range d.Targets {
		if t.Cluster != cluster {
			kept = append(kept, t)
			continue
		}
		d.Places = append(d.Places, snapshot.DataPlace{Labels: t.Labels, Path: "/copy/" + d.Name})
	}
	d.Targets = kept
}

// next is the plan of a cycle, applied; it is the same for equal input.
func next(t *testing.T, w *schedtest.World) plan.Plan {
	t.Helper()
	p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
	if again := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now); again.String() != p.String() {
		t.Errorf("not the same again:\n%s\n%s", p, again)
	}
	w.Apply(p)
	return p
}

func says(t *testing.T, p plan.Plan, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(p.String(), want) {
			t.Errorf("the plan does not say %q:\n%s", want, p)
		}
	}
}

// A gang whose data has to be copied first holds nothing and asks for the copy where it
// starts first; it stays with that while the copy is made, and goes there when it is.
func TestCopyIsMadeFirst(t *testing.T) {
	w := dataWorld(t)
	data := staged("a", 3600, "near", "tight")
	w.Gang("g").Data = []snapshot.Data{data}
	p := next(t, w)
	if len(p.Placements) != 0 || len(p.Stagings) != 1 || p.Stagings[0].Want != `{"a":"tight"}` {
		t.Fatalf("want a copy at tight:\n%s", p)
	}
	says(t, p, "wait g DataStaging: waits for a copy of dataset a at cluster tight, which takes about 1h0m0s; it then goes to tight")

	// Without memory: what is asked for is the same, and nothing is written again.
	w.Now = w.Now.Add(10 * time.Second)
	if p = next(t, w); len(p.Stagings) != 0 {
		t.Errorf("asked for once more:\n%s", p)
	}
	// Another cluster becomes as good, and the copy under way still is the sooner one.
	w.Nodes[0].Wait = 0
	w.Gang("g").Data[0].Targets[1].Since = w.Now.UnixNano()
	before := ""
	for range 3 {
		w.Now = w.Now.Add(15 * time.Minute)
		p = next(t, w)
		if len(p.Stagings) != 0 || len(p.Placements) != 0 {
			t.Errorf("the choice flaps:\n%s", p)
		}
		says(t, p, "ready at about 2026-01-01T01:00:10Z")
		if before != "" && before != p.Unschedulable[0].Message {
			t.Errorf("the words change: %q, %q", before, p.Unschedulable[0].Message)
		}
		before = p.Unschedulable[0].Message
	}
	w.Now = w.Now.Add(45 * time.Minute)
	says(t, next(t, w), "which was to take 1h0m0s when it began at 2026-01-01T00:00:10Z")
	// One that takes more than twice as long is not waited for where another is sooner.
	w.Now = w.Now.Add(45 * time.Minute)
	says(t, next(t, w), `stage g {"a":"near"}`)
	arrive(&w.Gang("g").Data[0], "tight")
	p = next(t, w)
	if len(p.Placements) != 1 || p.Placements[0].Domain != "tight" || p.Placements[0].Paths != `{"a":"/copy/a"}` {
		t.Errorf("not placed at its copy:\n%s", p)
	}
	says(t, p, "stage g nothing")
}

// Where the data is counts against where it is copied to, the waits of both included.
func TestCopyAgainstWaiting(t *testing.T) {
	for name, tt := range map[string]struct {
		seconds int64
		want    string
	}{"the copy is sooner": {60, `stage g {"a":"tight"}`}, "the data's queue is": {900, "place g domain=near"}} {
		w := dataWorld(t)
		d := staged("a", tt.seconds, "tight")
		d.Places[0].Labels = map[string]string{"isthmus.sh/cluster": "near"}
		w.Gang("g").Data = []snapshot.Data{d}
		if p := next(t, w); !strings.Contains(p.String(), tt.want) {
			t.Errorf("%s: want %s:\n%s", name, tt.want, p)
		}
	}
}

// No copy is asked for where the gang cannot go, and what is wrong is said.
func TestCopiesThatAreNotMade(t *testing.T) {
	failed := staged("a", 60, "near", "tight")
	failed.Targets[0].Failed, failed.Targets[0].Why = true, "rsync: no such host"
	failed.Targets[1].RetryAt, failed.Targets[1].Why = schedtest.NewWorld().Now.Add(time.Hour).UnixNano(), "disk full"
	dead := staged("a", 60, "near", "tight")
	for i := range dead.Targets {
		dead.Targets[i].Failed, dead.Targets[i].Why = true, "rsync: no such host"
	}
	for name, tt := range map[string]struct {
		data   snapshot.Data
		change func(g *schedtest.Gang)
		wants  []string
		asks   string
	}{
		"no target":              {staged("a", 60), nil, []string{"NodesDontMatch", "dataset a is not there, nor is it copied there"}, ""},
		"one failed for good":    {failed, nil, []string{"DataStaging", "at cluster tight, which failed and is tried again at 2026-01-01T01:00:00Z: disk full"}, `{"a":"tight"}`},
		"all failed for good":    {dead, nil, []string{"dataset a could not be copied to cluster near: rsync: no such host", "to cluster tight"}, ""},
		"no PodGroup":            {staged("a", 60, "near"), func(g *schedtest.Gang) { g.Plain = true }, []string{"for gangs with a PodGroup of Volcano's kind only"}, ""},
		"of Kubernetes' own API": {staged("a", 60, "near"), func(g *schedtest.Gang) { g.Native = true }, []string{"for gangs with a PodGroup of Volcano's kind only"}, ""},
	} {
		w := dataWorld(t)
		w.Gang("g").Data = []snapshot.Data{tt.data}
		if tt.change != nil {
			tt.change(w.Gang("g"))
		}
		p := next(t, w)
		asks := ""
		for _, s := range p.Stagings {
			asks += s.Want
		}
		if asks != tt.asks || len(p.Placements) != 0 {
			t.Errorf("%s: asks for %q, want %q:\n%s", name, asks, tt.asks, p)
		}
		for _, want := range tt.wants {
			if !strings.Contains(p.String(), want) {
				t.Errorf("%s: does not say %q:\n%s", name, want, p)
			}
		}
	}
}

// A copy is asked for where the gang fits: not where it never does, and where others run
// it is made while they do.
func TestCopyWhereItFits(t *testing.T) {
	w := dataWorld(t, "group big min=1", "pods big w 1 gpu=4", "group holds min=1 estimate=2h", "pods holds w 1 gpu=4", "delete g")
	w.Gang("big").Data = []snapshot.Data{staged("a", 60, "near", "tight")}
	p := next(t, w)
	says(t, p, `stage big {"a":"near"}`, "place holds domain=near") // whoever comes later takes the room meanwhile
	for _, line := range []string{"run holds", "later 1m"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	p = next(t, w)
	if len(p.Stagings) != 0 || len(p.Claims) != 0 || len(p.Heads) != 0 || w.Gang("big").Staging == "" {
		t.Errorf("want the same copy asked for, and nothing kept:\n%s", p)
	}
	says(t, p, "wait big NoCapacity", "near is to have room, and meanwhile it waits for a copy of dataset a at cluster near")
	arrive(&w.Gang("big").Data[0], "near")
	if p = next(t, w); len(p.Heads) != 1 || p.Heads[0].Domain != "near" {
		t.Errorf("want its start planned:\n%s", p)
	}
	says(t, p, "stage big nothing")
}

// Nobody is evicted for a gang before its data is there.
func TestNobodyIsEvictedBeforeTheCopy(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{"virtual near shape=1*cpu=16,gpu=4", "group low min=1", "pods low w 1 gpu=4"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	w.Nodes[0].Labels = map[string]string{"isthmus.sh/cluster": "near"}
	next(t, w)
	for _, line := range []string{"run low", "later 30m", "group urgent min=1 priority=5", "pods urgent w 1 gpu=4"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	w.Gang("urgent").Data = []snapshot.Data{staged("a", 60, "near")}
	if p := next(t, w); len(p.Claims) != 0 {
		t.Errorf("evicts too early:\n%s", p)
	}
	arrive(&w.Gang("urgent").Data[0], "near")
	if p := next(t, w); len(p.Claims) != 1 {
		t.Errorf("no room is made once the data is there:\n%s", p)
	}
}

// Two gangs of the same pods, of which one needs a copy, are judged each by itself; in a
// queue that is served in order, the one behind goes on.
func TestGangsBehindGoOn(t *testing.T) {
	w := dataWorld(t, "queue default fifo", "group next min=1", "pods next w 1 gpu=2")
	w.Gang("g").Data = []snapshot.Data{staged("a", 60, "near", "tight")}
	p := next(t, w)
	if len(p.Placements) != 1 || p.Placements[0].Name != "next" {
		t.Errorf("want next placed alone:\n%s", p)
	}
	says(t, p, "wait g DataStaging")
}

// A gang waits for room where its data is, which is kept for it, if others end there before
// a copy is made elsewhere, and nobody guesses when; else for the copy.
func TestCopyAgainstEnding(t *testing.T) {
	for name, tt := range map[string]struct {
		estimate string
		seconds  int64
		wants    []string
		heads    int
	}{
		"others end sooner":     {" estimate=30m", 3600, []string{"wait g NoCapacity", "it can start at 2026-01-01T00:30:00Z on near"}, 1},
		"its queue counts too":  {" estimate=30m", 2000, []string{`stage g {"a":"tight"}`}, 0},
		"the copy is sooner":    {" estimate=30m", 60, []string{`stage g {"a":"tight"}`}, 0},
		"nobody knows the ends": {"", 3 * 3600, []string{`stage g {"a":"tight"}`}, 0},
	} {
		w := schedtest.NewWorld()
		for _, line := range []string{"virtual near shape=1*cpu=16,gpu=4 wait=600", "group holds min=1" + tt.estimate, "pods holds w 1 gpu=4"} {
			if _, err := w.Do(line); err != nil {
				t.Fatal(err)
			}
		}
		next(t, w)
		for _, line := range []string{"run holds", "virtual tight shape=1*cpu=8,gpu=2", "group g min=1", "pods g w 1 gpu=2"} {
			if _, err := w.Do(line); err != nil {
				t.Fatal(err)
			}
		}
		for i := range w.Nodes {
			w.Nodes[i].Labels = map[string]string{"isthmus.sh/cluster": w.Nodes[i].Name}
		}
		d := staged("a", tt.seconds, "tight")
		d.Places[0].Labels = map[string]string{"isthmus.sh/cluster": "near"}
		w.Gang("g").Data = []snapshot.Data{d}
		p := next(t, w)
		if len(p.Heads) != tt.heads || len(p.Placements) != 0 {
			t.Errorf("%s: want %d planned starts:\n%s", name, tt.heads, p)
		}
		for _, want := range tt.wants {
			if !strings.Contains(p.String(), want) {
				t.Errorf("%s: the plan does not say %q:\n%s", name, want, p)
			}
		}
	}
}

// The replicas of a loose gang wait for a copy where they do not fit beside those that are
// placed.
func TestLooseGangsWaitForCopies(t *testing.T) {
	w := dataWorld(t, "virtual near shape=1*cpu=16,gpu=2", "pods g w 2 gpu=2")
	w.Gang("g").Loose = true
	for i := range w.Nodes {
		w.Nodes[i].Labels = map[string]string{"isthmus.sh/cluster": w.Nodes[i].Name}
	}
	d := staged("a", 60, "tight")
	d.Places[0].Labels = map[string]string{"isthmus.sh/cluster": "near"}
	w.Gang("g").Data = []snapshot.Data{d}
	p := next(t, w)
	if len(p.Placements) != 1 || p.Placements[0].Domain != "near" {
		t.Errorf("want one on near:\n%s", p)
	}
	says(t, p, `stage g {"a":"tight"}`)
	arrive(&w.Gang("g").Data[0], "tight")
	if p = next(t, w); len(p.Placements) != 1 || p.Placements[0].Domain != "tight" {
		t.Errorf("want the other on tight:\n%s", p)
	}
}
