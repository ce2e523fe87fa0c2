// Package report writes what simulated runs came to as one HTML file that needs
// nothing else: figures, waits by size, queue and user, how busy the cluster was,
// and who ran where and when.
package report

import (
	"embed"
	"fmt"
	"hash/fnv"
	"html/template"
	"io"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/simulate"
)

// Page is what a report shows.
type Page struct {
	// Title says what was simulated.
	Title string
	// Nodes have PerNode processors each.
	Nodes, PerNode int64
	// Ways are runs of the same trace by different rules.
	Ways []Way
}

// Way is one run.
type Way struct {
	Name   string
	Result simulate.Result
}

// Sizes of the pictures, in points, and how much they may hold.
const (
	width      = 1000.0
	busyHeight = 120.0
	maxHeight  = 640.0
	laneHeight = 8.0
	busyParts  = 250
	maxBars    = 20_000
)

//go:embed page.html
var files embed.FS

var page = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"percent": func(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) },
	"figure":  func(v float64) string { return fmt.Sprintf("%.1f", v) },
	"index":   func(v float64) string { return fmt.Sprintf("%.2f", v) },
	"seconds": func(v float64) string { return time.Duration(v * float64(time.Second)).Round(time.Second).String() },
	"hours":   func(v float64) string { return fmt.Sprintf("%.1f", v/3600) },
	"groups":  func(what string, g []simulate.Group) table { return table{what, g} },
}).ParseFS(files, "page.html"))

type table struct {
	What   string
	Groups []simulate.Group
}

// Write writes the page. It blocks on w alone.
func Write(w io.Writer, p Page) error {
	data := struct {
		Page
		Width float64
		Views []view
	}{Page: p, Width: width}
	for i := range p.Ways {
		data.Views = append(data.Views, draw(&p.Ways[i], p.Nodes, p.PerNode))
	}
	if err := page.Execute(w, data); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// view is a way with its pictures.
type view struct {
	*Way
	Span       time.Duration
	Busy       []bar
	BusyHeight float64
	Bars       []bar
	Height     float64
	// Left is how many jobs the picture has no room for.
	Left int
}

// bar is one rectangle, in points.
type bar struct {
	X, Y, W, H float64
	Hue        uint32
	Tip        string
}

func draw(way *Way, nodes, perNode int64) view {
	v := view{Way: way, BusyHeight: busyHeight}
	lanes := float64(nodes * perNode)
	v.Height = min(lanes*laneHeight, maxHeight)
	from, to := way.Result.Span()
	if to <= from || lanes <= 0 {
		return v
	}
	v.Span = time.Duration(to-from) * time.Second
	for i, busy := range way.Result.Busy(busyParts) {
		h := busyHeight * busy / lanes
		v.Busy = append(v.Busy, bar{X: float64(i) * width / busyParts, Y: busyHeight - h, W: width / busyParts, H: h})
	}
	scale, lane := width/float64(to-from), v.Height/lanes
	taken := make([]int64, nodes*perNode) // until when each processor runs something
	order := slices.Clone(way.Result.Jobs)
	slices.SortStableFunc(order, func(a, b simulate.Outcome) int { return int(min(max(a.Start-b.Start, -1), 1)) })
	for i, o := range order {
		if len(v.Bars) >= maxBars {
			v.Left = len(order) - i
			break
		}
		at := lanesOf(o, perNode, taken)
		tip := fmt.Sprintf("job %s of %s in %s: %d processors, waited %s, ran %s", o.ID, o.User, o.Queue, o.Size,
			time.Duration(o.Wait())*time.Second, time.Duration(o.Run)*time.Second)
		for len(at) > 0 {
			n := 1 // lanes side by side are one bar
			for n < len(at) && at[n] == at[0]+int64(n) {
				n++
			}
			v.Bars = append(v.Bars, bar{
				X: float64(o.Start-from) * scale, W: max(float64(o.Run)*scale, 0.3),
				Y: float64(at[0]) * lane, H: float64(n) * lane, Hue: hue(o.User), Tip: tip,
			})
			at = at[n:]
		}
	}
	return v
}

// lanesOf gives the job the lowest free processors of each of its nodes.
func lanesOf(o simulate.Outcome, perNode int64, taken []int64) []int64 {
	var out []int64
	for _, n := range o.Nodes {
		for l := int64(n) * perNode; l < int64(n+1)*perNode; l++ {
			if taken[l] <= o.Start {
				taken[l] = o.Start + o.Run
				out = append(out, l)
				break
			}
		}
	}
	return out
}

// hue is a user's colour, in degrees.
func hue(user string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(user)) // it cannot fail
	return h.Sum32() % 360
}
