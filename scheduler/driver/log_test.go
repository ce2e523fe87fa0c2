package driver

import (
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestLogTellsWhoLosesPods: the log of an operator has a line for each gang that loses pods,
// with whom they go for and why, as it has one for each that is placed.
func TestLogTellsWhoLosesPods(t *testing.T) {
	var lines []string
	log := funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})
	logDecisions(log, plan.Plan{
		Claims: []plan.Claim{{Gang: "urgent", Action: "preempt", Evictions: []plan.Eviction{
			{UID: "1", Gang: "a", Message: "its priority is lower"}, {UID: "2", Gang: "b", Message: "it holds more"}, {UID: "3", Gang: "a", Message: "its priority is lower"},
		}}, {Gang: "expects", Action: "preempt"}},
		Releases: []plan.Eviction{{UID: "4", Gang: "c", Message: "below its minimum"}},
	})
	want := []string{
		`"podGroup"="a" "pods"=2 "action"="preempt" "for"="urgent" "node"="" "reason"="its priority is lower"`,
		`"podGroup"="b" "pods"=1 "action"="preempt" "for"="urgent" "node"="" "reason"="it holds more"`,
		`"podGroup"="c" "pods"=1 "reason"="below its minimum"`,
	}
	if len(lines) != len(want) {
		t.Fatalf("logged %q, want %d lines", lines, len(want))
	}
	for i, w := range want {
		if !strings.Contains(lines[i], w) {
			t.Errorf("line %d is %s, want %s", i, lines[i], w)
		}
	}
}

// TestVictimsStayToBeSeen: cycles are many and scrapes few, so that the number of victims is
// that of the last cycle that had any.
func TestVictimsStayToBeSeen(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry())
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, step := range []struct {
		evicts int
		want   float64
	}{{0, 0}, {3, 3}, {0, 3}, {1, 1}} {
		p := plan.Plan{Claims: []plan.Claim{{Action: "preempt", Evictions: make([]plan.Eviction, step.evicts)}}}
		m.cycle(&snapshot.Snapshot{}, p, entitlement.Options{}, now, time.Millisecond)
		var shown dto.Metric
		if err := m.victims.Write(&shown); err != nil {
			t.Fatal(err)
		}
		if got := shown.GetGauge().GetValue(); got != step.want {
			t.Errorf("step %d: the metric says %v, want %v", i, got, step.want)
		}
	}
}
