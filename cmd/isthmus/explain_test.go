package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestTerminalIsLeftAlone: the queue of a PodGroup is free text; nothing of it acts on the
// terminal of who looks, and it makes up no line.
func TestTerminalIsLeftAlone(t *testing.T) {
	w := schedtest.NewWorld()
	if _, err := w.Do("node n1 cpu=8 gpu=4"); err != nil {
		t.Fatal(err)
	}
	g := w.AddGang("a", 1)
	g.Queue = "\x1b]0;x\a\nteam-b\tother\u009b2J\u202e"
	g.AddPods("w", 1, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1000})})
	file := written(t, w)
	for _, args := range []string{"top", "explain job a"} {
		got, err := printed(t, append(strings.Fields(args), "--snapshot="+file)...)
		if err != nil || !strings.Contains(got, `\x1b]0;x\a\nteam-b\tother\u009b2J\u202e`) || strings.ContainsAny(got, "\x1b\a\t\u009b\u202e") {
			t.Errorf("%s prints %q (%v)", args, got, err)
		}
	}
}

// TestQueueIsExplained: a queue in which nothing is held or wanted has its state, limits
// and guarantee told, those of the queues above it, and what is declared wrongly.
func TestQueueIsExplained(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{"node n1 cpu=8 gpu=4", "queue research weight=3", "queue vision weight=2 parent=research state=Closed"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	gpus := func(n int64) resource.List {
		return resource.MakeList(resource.Quantity{Name: "nvidia.com/gpu", Amount: n})
	}
	state := w.Snapshot()
	for _, q := range state.Queues {
		switch q.Name {
		case "research":
			q.Capability = gpus(3)
		case "vision":
			q.Guarantee, q.Unreclaimable, q.Dequeue = gpus(5), true, snapshot.DequeueFIFO
		}
	}
	got, err := printed(t, "explain", "queue", "vision", "--snapshot="+saved(t, state))
	for _, want := range []string{
		"queue vision, Closed, not reclaimable, dequeue strategy fifo, weight 2",
		"nvidia.com/gpu: holds 0, deserves 3, may hold 3, waits for 0, is guaranteed 3",
		"below queue research", "nvidia.com/gpu: holds 0, may hold 3",
		`declared wrongly (GuaranteeAboveLimit): queue "vision" is guaranteed 5 of nvidia.com/gpu and can hold at most 3`,
	} {
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("%q is not in (%v)\n%s", want, err, got)
		}
	}
}

// TestUnknownQueueIsAnError: who mistypes a queue gets no empty table, and is told what is
// named nearly so; a queue that gangs wait for need not exist.
func TestUnknownQueueIsAnError(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{"node n1 cpu=8", "queue research", "queue vision parent=research", "group a min=1 queue=later", "pods a w 1 cpu=1"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	file := written(t, w)
	for args, want := range map[string]string{
		"top --queue vison":         "queue vison: there is none; there is vision (`isthmus top` lists all",
		"explain queue vison":       "queue vison: there is none; there is vision (`isthmus top` lists all",
		"top --queue re":            "there is research",
		"top --queue Root":          "there is root",
		"top --queue nothing-alike": "queue nothing-alike: there is none (`isthmus top` lists all",
		"top --queue later":         "",
		"top --queue research":      "",
		"top -n nobody":             "",
	} {
		got, err := printed(t, append(strings.Fields(args), "--snapshot="+file)...)
		if want == "" && err != nil || want != "" && (err == nil || got != "" || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s gives %v and prints %q, want %q", args, err, got, want)
		}
	}
}

// TestTooFewMembersAreExplained: what the condition Stale of a PodGroup says is told by
// explain and top, and so it is of a PodGroup that cannot have it; and who is sent away.
func TestTooFewMembersAreExplained(t *testing.T) {
	for name, tt := range map[string]struct {
		does     []string
		explains []string
		top      string
	}{
		"lost, and made anew": {
			[]string{"restart g-w-2", "node n1 gpu=2", "cycle", "later 1m"},
			[]string{"has too few members (Stale BelowMinimum): 2 of the 3 members that it needs are left; unless they are made up for by 2026-01-01T01:05:00Z"}, "",
		},
		"sent back": {
			[]string{"restart g-w-2", "node n1 gpu=2", "cycle", "later 5m"},
			[]string{"has too few members (Stale BelowMinimum): 2 of the 3 members that it needs are left; what was left was sent back", "2 of its pods would be evicted: sent back"}, "",
		},
		"scaled down": {
			[]string{"delete g-w-2", "cycle"},
			[]string{"has too few members (Stale PodsMissing): 2 of the 3 members that it needs are left; there are no pods"}, "Stale (PodsMissing): 2 of the 3",
		},
		"whole again": {
			[]string{"delete g-w-2", "cycle", "pods g x 1 gpu=1", "cycle", "cycle"},
			nil, "",
		},
		"sent away for another": {
			[]string{"later 1h", "group urgent min=3 priority=5", "pods urgent w 3 gpu=1"},
			[]string{"3 of its pods would be evicted: preempt for default/urgent"}, "",
		},
	} {
		for _, kind := range []string{"", "native"} {
			w := schedtest.NewWorld()
			lines := []string{"node n1 gpu=3", strings.TrimSpace("group g min=3 " + kind), "pods g w 3 gpu=1", "cycle", "run g", "cycle", "later 1h"}
			for _, line := range append(lines, tt.does...) {
				if _, err := w.Do(line); err != nil {
					t.Fatal(line, err)
				}
			}
			file, at := written(t, w), "--at="+w.Now.UTC().Format(time.RFC3339)
			got, err := printed(t, "explain", "job", "g", "--snapshot="+file, at)
			if err != nil || tt.explains == nil && strings.Contains(got, "Stale") {
				t.Errorf("%s %s: %v\n%s", name, kind, err, got)
			}
			for _, want := range tt.explains {
				if kind != "" {
					want, _, _ = strings.Cut(want, ";") // what comes of it is in the condition alone
				}
				if !strings.Contains(got, want) {
					t.Errorf("%s %s: explain does not say %q:\n%s", name, kind, want, got)
				}
			}
			if top, err := printed(t, "top", "--snapshot="+file, at); err != nil || !strings.Contains(top, tt.top) {
				t.Errorf("%s %s: top does not say %q (%v):\n%s", name, kind, tt.top, err, top)
			}
		}
	}
}

// TestOwnMembersAreExplained: a gang that gives up a member for one of higher priority is told
// so, whatever the configuration says of members beyond the minimum.
func TestOwnMembersAreExplained(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{"node n1 cpu=8 gpu=4", "group a min=2 task.lead=1", "pods a lead 1 gpu=1 priority=10", "pods a w 3 gpu=1", "cycle", "run a", "later 1h", "fail a-lead-0", "group b min=1", "pods b w 1 gpu=1", "cycle", "run b", "restart a-lead-0"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(t.TempDir(), "scheduler.conf")
	if err := os.WriteFile(conf, []byte("actions: allocate, preempt\ntiers: [{plugins: [{name: priority}, {name: gang, enableJobStarving: false}]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := printed(t, "explain", "job", "a", "--snapshot="+written(t, w), "--scheduler-conf="+conf)
	for _, want := range []string{
		"waits (Nominated): 1 pods are evicted from nodes by preempt to make room", "1 pods would be evicted for it by preempt",
		"1 of its pods would be evicted: preempt for default/a: 1 of its members have no place, and it has others of lower priority",
	} {
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("%q is not in (%v)\n%s", want, err, got)
		}
	}
}
