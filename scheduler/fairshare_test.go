package scheduler_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/simulate"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
	"github.com/isthmus-hpc/isthmus/scheduler/trace"
)

func pipelineOf(t *testing.T, text string) framework.Pipeline {
	t.Helper()
	c, warnings, err := config.Parse([]byte(text))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	return c.Pipeline()
}

const fair = `
actions: "enqueue, allocate, backfill"
tiers:
- plugins:
  - {name: priority}
  - {name: gang}
  - {name: fairshare, arguments: {fairshare.halfLife: 1h, fairshare.by: namespace}}
  - {name: proportion}
`

// held is what somebody held an hour ago: a number of seconds of the whole cluster.
func held(w *schedtest.World, queue, namespace string, seconds int64) snapshot.UsageOf {
	return snapshot.UsageOf{Queue: queue, Namespace: namespace, Held: resource.MakeList(resource.Quantity{Name: gpu, Amount: seconds * resource.ShareUnit})}
}

// TestThoseWhoHadLittleComeFirst: the order of gangs and queues under a memory of what
// was held, by queue, by weight, by the queues above, and by namespace inside one.
func TestThoseWhoHadLittleComeFirst(t *testing.T) {
	for _, c := range []struct {
		name   string
		queues []snapshot.Queue
		usage  [][2]string // queue and namespace, in order of what they held: 4,000 seconds, 3,000 and so on
		want   string
	}{
		{name: "nobody remembers", want: "heavy"},
		{name: "by queue", usage: [][2]string{{"heavy", "x"}}, want: "light"},
		{name: "both held, one more", usage: [][2]string{{"heavy", "x"}, {"light", "y"}}, want: "light"},
		{name: "by weight", queues: []snapshot.Queue{{Name: "heavy", Weight: 2, State: "Open"}}, usage: [][2]string{{"heavy", "x"}, {"light", "y"}}, want: "heavy"},
		{name: "a queue below", queues: []snapshot.Queue{{Name: "below", Parent: "heavy", Weight: 1, State: "Open"}}, usage: [][2]string{{"below", "x"}}, want: "light"},
		{name: "priority of queues", queues: []snapshot.Queue{{Name: "heavy", Weight: 1, Priority: 1, State: "Open"}}, usage: [][2]string{{"heavy", "x"}}, want: "heavy"},
		{name: "a queue that is no more", usage: [][2]string{{"gone", "x"}}, want: "heavy"},
	} {
		w := schedtest.NewWorld()
		w.SetNode(schedtest.Real("n", append(amounts(64, 4), resource.Quantity{Name: "pods", Amount: 100})...))
		w.Queues = append(w.Queues, snapshot.Queue{Name: "heavy", Weight: 1, State: "Open"}, snapshot.Queue{Name: "light", Weight: 1, State: "Open"})
		for _, q := range c.queues {
			for i := range w.Queues {
				if w.Queues[i].Name == q.Name {
					w.Queues[i] = q
					q.Name = ""
				}
			}
			if q.Name != "" {
				w.Queues = append(w.Queues, q)
			}
		}
		for _, name := range []string{"heavy", "light"} {
			g := w.AddGang(name, 1)
			g.Queue = name
			g.AddPods("w", 1, snapshot.ClassSpec{Requests: resource.MakeList(amounts(1, 4)...)})
		}
		if c.usage != nil {
			w.Usage = &snapshot.Usage{At: w.Now.Unix() - 3600, HalfLife: 3600}
			for i, of := range c.usage {
				w.Usage.Of = append(w.Usage.Of, held(w, of[0], of[1], int64(4000-1000*i)))
			}
		}
		p := scheduler.Cycle(pipelineOf(t, fair), w.Snapshot(), w.Now)
		if len(p.Placements) != 1 || p.Placements[0].Name != c.want {
			t.Errorf("%s: %s is wanted first:\n%s", c.name, c.want, p)
		}
	}
	w := schedtest.NewWorld()
	w.SetNode(schedtest.Real("n", append(amounts(64, 4), resource.Quantity{Name: "pods", Amount: 100})...))
	for _, ns := range []string{"heavy", "light"} {
		g := w.AddGang(ns, 1)
		g.Namespace = ns
		g.AddPods("w", 1, snapshot.ClassSpec{Requests: resource.MakeList(amounts(1, 4)...)})
	}
	w.Usage = &snapshot.Usage{At: w.Now.Unix() - 3600, HalfLife: 3600, Of: []snapshot.UsageOf{held(w, "default", "heavy", 1000)}}
	if p := scheduler.Cycle(pipelineOf(t, fair), w.Snapshot(), w.Now); len(p.Placements) != 1 || p.Placements[0].Name != "light" {
		t.Errorf("in one queue, the namespace that held nothing is wanted first:\n%s", p)
	}
}

// TestHeavyUserYieldsToLightOne runs a trace of two users of one cluster: one floods
// it for hours, the other comes now and then. With a memory of what was held the light
// one waits for less than a job of the heavy one; without, for as long as he has
// queued; and the heavy one's work is done all the same.
func TestHeavyUserYieldsToLightOne(t *testing.T) {
	var jobs []trace.Job
	for i := range 60 {
		jobs = append(jobs, trace.Job{ID: fmt.Sprint("h", i), Submit: int64(i), Run: 600, Estimate: 600, Size: 2, User: "heavy"})
	}
	for i := range 4 {
		jobs = append(jobs, trace.Job{ID: fmt.Sprint("l", i), Submit: int64(1800 + i*900), Run: 600, Estimate: 600, Size: 2, User: "light"})
	}
	waits := func(text string) (light, heavy float64, last int64) {
		got, err := simulate.Run(simulate.Setting{Pipeline: pipelineOf(t, text), Nodes: 4, PerNode: 2}, jobs)
		if err != nil || len(got.Jobs) != len(jobs) {
			t.Fatal(len(got.Jobs), err)
		}
		for _, o := range got.Jobs {
			last = max(last, o.Start+o.Run)
			if o.User == "light" {
				light += float64(o.Wait()) / 4
			} else {
				heavy += float64(o.Wait()) / 60
			}
		}
		return light, heavy, last
	}
	without := strings.Replace(fair, "  - {name: fairshare, arguments: {fairshare.halfLife: 1h, fairshare.by: namespace}}\n", "", 1)
	lightBefore, heavyBefore, endBefore := waits(without)
	light, heavy, end := waits(fair)
	t.Logf("mean waits: light %.0f s before and %.0f s now, heavy %.0f s and %.0f s", lightBefore, light, heavyBefore, heavy)
	if light > 600 || lightBefore < 10*light {
		t.Errorf("the light user waits for %.0f s with a memory and %.0f s without", light, lightBefore)
	}
	if end > endBefore || heavy > 1.1*heavyBefore {
		t.Errorf("the heavy user is done at %d and waits for %.0f s; without a memory at %d and for %.0f s", end, heavy, endBefore, heavyBefore)
	}
}
