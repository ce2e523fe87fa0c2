package tdm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/tdm"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func TestWindows(t *testing.T) {
	for text, open := range map[string]map[string]bool{
		"10:00-21:00": {"09:59": false, "10:00": true, "20:59": true, "21:00": false, "00:00": false},
		"21:00-9:30":  {"20:59": false, "21:00": true, "23:59": true, "00:00": true, "09:29": true, "09:30": false},
		"8:00 - 8:00": {"07:59": true, "08:00": true, "00:00": true},
	} {
		w, err := tdm.ParseWindow(text)
		if err != nil {
			t.Fatal(err)
		}
		for at, want := range open {
			clock, err := time.Parse("15:04", at)
			if err != nil {
				t.Fatal(err)
			}
			if got := w.Open(clock.Hour()*60 + clock.Minute()); got != want {
				t.Errorf("%q at %s: open is %t", text, at, got)
			}
		}
	}
	for _, wrong := range []string{"", "10:00", "10-11", "25:00-26:00", "10:00-11:60", "a-b"} {
		if w, err := tdm.ParseWindow(wrong); err == nil {
			t.Errorf("%q is read as %s", wrong, w)
		}
	}
}

func pipeline(t *testing.T, more string) framework.Pipeline {
	t.Helper()
	c, warnings, err := config.Parse([]byte(`
actions: "enqueue, allocate, preempt"
tiers:
- plugins: [{name: priority}, {name: gang}, {name: proportion}]
- plugins:
  - {name: tdm, arguments: {tdm.revocable-zone.night: "20:00-06:00"` + more + `}}
`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	return c.Pipeline()
}

// world has a node for all, and one that is free at night.
func world(t *testing.T, at string, lines ...string) *schedtest.World {
	t.Helper()
	w := schedtest.NewWorld()
	now, err := time.Parse(time.RFC3339, at)
	if err != nil {
		t.Fatal(err)
	}
	w.Now = now
	for _, line := range append([]string{
		"node day cpu=8 gpu=4", "node dark cpu=8 gpu=4 label.volcano.sh/revocable-zone=night", "node odd cpu=8 gpu=4 label.volcano.sh/revocable-zone=other",
	}, lines...) {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// TestZonesAreOpenByTheHour says where pods go, in which time zone.
func TestZonesAreOpenByTheHour(t *testing.T) {
	for _, c := range []struct{ at, more, want string }{
		{"2026-01-01T19:59:00Z", "", "fixed=day any=day"},
		{"2026-01-01T20:00:00Z", "", "fixed=day any=dark"},
		{"2026-01-02T05:59:59Z", "", "fixed=day any=dark"},
		{"2026-01-02T06:00:00Z", "", "fixed=day any=day"},
		{"2026-01-01T19:00:00Z", ", tdm.time-zone: Europe/Berlin", "fixed=day any=dark"},
		{"2026-07-01T18:00:00Z", ", tdm.time-zone: Europe/Berlin", "fixed=day any=dark"}, // in summer
		{"2026-07-01T04:30:00Z", ", tdm.time-zone: Europe/Berlin", "fixed=day any=day"},
	} {
		w := world(t, c.at, "group any min=1", "pods any w 1 gpu=2 revocable=night", "group fixed min=1", "pods fixed w 1 gpu=2")
		w.Apply(scheduler.Cycle(pipeline(t, c.more), w.Snapshot(), w.Now))
		if got := fmt.Sprintf("fixed=%s any=%s", w.Gang("fixed").Pods[0].Node, w.Gang("any").Pods[0].Node); got != c.want {
			t.Errorf("at %s%s: %s, want %s", c.at, c.more, got, c.want)
		}
	}
	w := world(t, "2026-01-01T12:00:00Z", "group wide min=3", "pods wide w 3 gpu=4 revocable=*")
	p := scheduler.Cycle(pipeline(t, ""), w.Snapshot(), w.Now)
	for _, words := range []string{`revocable zone "night" is open at 20:00-06:00 UTC alone`, `no hours are known of revocable zone "other"`} {
		if !strings.Contains(p.String(), words) {
			t.Errorf("it is not told that %s:\n%s", words, p)
		}
	}
}

// TestZonesAreClearedWhenTheyClose: whoever may be revoked goes back as a whole gang
// or as what it can do without, as budgets allow; whoever may not stays.
func TestZonesAreClearedWhenTheyClose(t *testing.T) {
	w := world(t, "2026-01-01T23:00:00Z",
		"group whole min=2", "pods whole w 2 gpu=1 revocable=*",
		"group slim min=1", "pods slim w 1 gpu=1 revocable=*", "pods slim x 1 gpu=1 revocable=*",
		"group kept min=1", "pods kept w 1 gpu=1 revocable=* budget=default/none",
		"group fixed min=1", "pods fixed w 1 cpu=1",
	)
	w.Budgets = []snapshot.Budget{{Name: "default/none"}}
	for _, p := range w.Pods("") {
		p.Node, p.Attempt, p.Size = "dark", strings.SplitN(p.Name, "-", 2)[0], 1
	}
	w.Gang("slim").Pods[0].Node = "day" // its minimum may stay
	for _, name := range []string{"whole", "slim"} {
		for i, p := range w.Gang(name).Pods {
			p.Size, p.Rank = 2, int64(i)
		}
	}
	w.Settle(time.Minute)
	going := func() (names []string) {
		for _, p := range w.Pods("") {
			if p.Terminating {
				names = append(names, p.Name)
			}
		}
		return names
	}
	pipe := pipeline(t, "")
	w.Apply(scheduler.Cycle(pipe, w.Snapshot(), w.Now))
	if got := going(); len(got) > 0 {
		t.Fatalf("%v go while the zone is open", got)
	}
	w.Now = w.Now.Add(7 * time.Hour)
	p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
	w.Apply(p)
	if got := fmt.Sprint(going()); got != "[whole-w-0 whole-w-1 slim-x-0]" {
		t.Fatalf("%s go:\n%s", got, p)
	}
	if !strings.Contains(p.String(), `sent back: the hours of revocable zone "night" are over`) {
		t.Errorf("it is not told why:\n%s", p)
	}
	w.Budgets[0].Allowed = 1
	for range 4 { // those that went come back elsewhere, and nothing goes round
		w.Settle(time.Minute)
		w.Apply(scheduler.Cycle(pipe, w.Snapshot(), w.Now))
	}
	for _, p := range w.Pods("") {
		if p.Node != "day" && p.Name != "fixed-w-0" && p.Node != "" || p.Terminating {
			t.Errorf("pod %s is on %q, going is %t", p.Name, p.Node, p.Terminating)
		}
	}
}

// TestClearingHasItsPeriod: who is left when a budget allows more goes a period after
// those before, and at once where none is said.
func TestClearingHasItsPeriod(t *testing.T) {
	for more, want := range map[string]string{"": "1 2 3", ", tdm.evict.period: 1m": "1 1 2"} {
		w := world(t, "2026-01-02T05:00:00Z",
			"group a min=1", "pods a w 1 gpu=1 revocable=* budget=default/one",
			"group b min=1", "pods b w 1 gpu=1 revocable=* budget=default/one",
			"group c min=1", "pods c w 1 gpu=1 revocable=* budget=default/one")
		for _, p := range w.Pods("") {
			p.Node, p.Attempt, p.Size = "dark", p.Name, 1
		}
		w.Settle(time.Minute)
		w.Now = w.Now.Add(3 * time.Hour)
		var got []string
		for _, pause := range []time.Duration{0, 59 * time.Second, time.Second} {
			w.Now = w.Now.Add(pause)
			w.Budgets = []snapshot.Budget{{Name: "default/one", Allowed: 1}}
			w.Apply(scheduler.Cycle(pipeline(t, more), w.Snapshot(), w.Now))
			gone := 0
			for _, p := range w.Pods("") {
				if p.Terminating {
					gone++
				}
			}
			got = append(got, fmt.Sprint(gone))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("with%q %v pods are gone after the rounds, want %s", more, got, want)
		}
	}
}
