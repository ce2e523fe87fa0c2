package overview_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/overview"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// TestTables compares the tables of a small cluster with a file; -rewrite of
// ISTHMUS_REWRITE=1 writes it again, to be read.
func TestTables(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{
		"queue research weight=3", "queue vision weight=1 parent=research", "queue closed weight=1 state=Closed",
		"node n1 cpu=8 gpu=4", "node n2 cpu=8 gpu=4", "node plain cpu=2",
		"group a min=2 queue=vision estimate=2h", "pods a w 2 gpu=4", "cycle", "settle 30m",
		"group big min=2 queue=vision", "pods big w 2 gpu=4",
		"group shut min=1 queue=closed", "pods shut w 1 cpu=1",
	} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	now := time.Date(2026, 1, 1, 0, 30, 0, 0, time.UTC)
	s := w.Snapshot()
	p, ses := scheduler.Cycle(config.Default(), s, now), framework.NewSession(config.Default(), s, now)
	print := func(c overview.Choice) string {
		var b strings.Builder
		if err := overview.Write(&b, s, p, ses, c); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	got := print(overview.Choice{})
	file := filepath.Join("testdata", "tables.txt")
	if os.Getenv("ISTHMUS_REWRITE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Errorf("got\n%s\nwant\n%s(%v)", got, want, err)
	}

	if few := print(overview.Choice{Rows: 1}); !strings.Contains(few, "... and 2 more gangs") || strings.Contains(few, "shut") {
		t.Errorf("one row a table gives\n%s", few)
	}
	for line := range strings.Lines(print(overview.Choice{Width: 40})) {
		if len(line) > 41 {
			t.Errorf("%q is longer than 40", line)
		}
	}
	if other := print(overview.Choice{Queue: "closed"}); strings.Contains(other, " big ") || !strings.Contains(other, "shut") {
		t.Errorf("the gangs of one queue are\n%s", other)
	}
	if other := print(overview.Choice{Namespace: "none"}); strings.Contains(other, "GANG") {
		t.Errorf("a namespace without gangs has\n%s", other)
	}
}

// TestPlacedTellsOfClaims: a gang whose claims are not met yet is placed, and not bound.
func TestPlacedTellsOfClaims(t *testing.T) {
	pl := plan.Placement{Domain: "nodes", Binds: []plan.Bind{{}, {}}}
	if got := overview.Placed(pl); got != "2 members are placed on nodes now" {
		t.Errorf("without claims it says %q", got)
	}
	pl.Binds[1].Claims = &claims.Got{}
	if got := overview.Placed(pl); !strings.Contains(got, "bound once the volumes and devices that they claim are theirs") {
		t.Errorf("with claims it says %q", got)
	}
}
