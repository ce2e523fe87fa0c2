package report_test

import (
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/simulate"
	"github.com/isthmus-hpc/isthmus/scheduler/simulate/report"
	"github.com/isthmus-hpc/isthmus/scheduler/trace"
)

func write(t *testing.T, nodes, perNode int64, jobs []trace.Job) string {
	t.Helper()
	return writeBy(t, simulate.Setting{Pipeline: config.Default(), Nodes: nodes, PerNode: perNode}, jobs)
}

func writeBy(t *testing.T, set simulate.Setting, jobs []trace.Job) string {
	t.Helper()
	r, err := simulate.Run(set, jobs)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := report.Write(&out, report.Page{Title: "a trace", Nodes: set.Nodes, PerNode: set.PerNode, Ways: []report.Way{{Name: "backfill", Result: r}}}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// apart has each cycle look at each gang by itself.
type apart struct{}

func (apart) Name() string             { return "apart" }
func (apart) Run(s *framework.Session) { s.Apart() }

// TestSameApart: where far more jobs come than fit, most of those that wait are like others,
// and the report is the same to the byte as if each were looked at by itself.
func TestSameApart(t *testing.T) {
	for _, set := range []simulate.Setting{{}, {InOrder: true}, {Learn: true}, {Queues: true}} {
		for seed := range uint64(3) {
			jobs := simulate.Generate(seed, 150, 16, 1.5)
			for i := range jobs {
				jobs[i].Queue = jobs[i].User
			}
			set.Pipeline, set.Nodes, set.PerNode = config.Default(), 4, 4
			got := writeBy(t, set, jobs)
			set.Pipeline.Actions = slices.Concat([]framework.Action{apart{}}, set.Pipeline.Actions)
			if got != writeBy(t, set, jobs) {
				t.Errorf("seed %d, in order %t, learnt %t, queues %t: another report", seed, set.InOrder, set.Learn, set.Queues)
			}
		}
	}
}

// TestPicture: every processor second of the trace is in the picture once.
func TestPicture(t *testing.T) {
	const nodes, perNode = 8, 4
	page := write(t, nodes, perNode, simulate.Generate(3, 80, nodes*perNode, 0.9))
	i := strings.Index(page, `aria-label="jobs over time`)
	if i < 0 {
		t.Fatal("no picture")
	}
	number := func(s string) float64 {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	type box struct{ x, y, w, h float64 }
	var boxes []box
	for _, m := range regexp.MustCompile(`<rect x="([^"]*)" y="([^"]*)" width="([^"]*)" height="([^"]*)" fill="hsl`).FindAllStringSubmatch(page[i:], -1) {
		boxes = append(boxes, box{number(m[1]), number(m[2]), number(m[3]), number(m[4])})
	}
	if len(boxes) < 80 {
		t.Fatalf("%d bars for 80 jobs", len(boxes))
	}
	const thin = 0.31 // the least width of a bar, to be seen
	for i, a := range boxes {
		if a.x < 0 || a.x+a.w > 1000+thin || a.y < 0 || a.y+a.h > nodes*perNode*8+0.01 {
			t.Errorf("bar %+v is outside", a)
		}
		for _, b := range boxes[:i] {
			if min(a.x+a.w, b.x+b.w)-max(a.x, b.x) > thin && min(a.y+a.h, b.y+b.h)-max(a.y, b.y) > 0.01 {
				t.Errorf("bars %+v and %+v lie on each other", a, b)
			}
		}
	}
}

// TestOneFile: nothing is loaded from elsewhere, and what a trace says is text.
func TestOneFile(t *testing.T) {
	page := write(t, 1, 1, []trace.Job{{ID: "1", Run: 10, Size: 1, User: "<script>alert(1)</script>", Queue: `"><img src=x>`}})
	for _, bad := range []string{"<script", "<img", "<link", "http:", "https:", "url("} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	if !strings.Contains(page, "&lt;script&gt;") {
		t.Error("the user is not shown")
	}
	// It is well-formed but for the elements that HTML leaves open.
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestNothingRan: an empty trace has a page too.
func TestNothingRan(t *testing.T) {
	if page := write(t, 1, 1, []trace.Job{{ID: "1", Run: 10, Size: 2}}); !strings.Contains(page, "<td>backfill</td><td>0</td><td>1</td>") {
		t.Error("the page does not say that the only job was too large")
	}
}
