// Package overview puts a scheduling state into tables for people: what the cluster
// has, queues, nodes with GPUs, and gangs with the reason why they wait. It is pure.
package overview

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Choice is what is shown.
type Choice struct {
	// Namespace and Queue, when set, leave out the gangs of others.
	Namespace, Queue string
	// Rows is how many rows a table may have; what is left out is counted. 0 is all.
	Rows int
	// Width is how many characters a line may have; 0 is any number.
	Width int
}

// Write writes the state as of now with what the scheduler decides for it.
func Write(w io.Writer, s *snapshot.Snapshot, p plan.Plan, ses *framework.Session, c Choice) error {
	o := overview{Choice: c, s: s, ses: ses, why: map[string]string{}, wide: dimensions(s)}
	o.reasons(p)
	var out strings.Builder
	o.cluster(&out)
	o.queues(&out)
	o.nodes(&out)
	o.gangs(&out)
	if _, err := io.WriteString(w, cut(out.String(), c.Width)); err != nil {
		return fmt.Errorf("write overview: %w", err)
	}
	return nil
}

// cut ends lines that are too long with a mark.
func cut(text string, width int) string {
	if width <= 0 {
		return text
	}
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if r := []rune(l); len(r) > width {
			lines[i] = string(r[:width-1]) + "~"
		}
	}
	return strings.Join(lines, "\n")
}

type overview struct {
	Choice
	s   *snapshot.Snapshot
	ses *framework.Session
	// why has what is said of a gang that waits, by its key.
	why map[string]string
	// wide are the dimensions that tables have columns for: GPUs of every kind
	// that the cluster has, processors and memory.
	wide []int
}

func dimensions(s *snapshot.Snapshot) []int {
	offered := make([]bool, s.Dims.Len())
	for _, n := range s.Nodes {
		for d, a := range n.Total {
			offered[d] = offered[d] || a > 0
		}
	}
	var gpus, rest []int
	for d, name := range s.Dims.Names() {
		switch {
		case offered[d] && snapshot.IsGPU(name):
			gpus = append(gpus, d)
		case offered[d] && (name == "cpu" || name == "memory"):
			rest = append(rest, d)
		}
	}
	return append(gpus, rest...)
}

// Stale returns why a gang holds places that are of no use to it, or too few for want of
// pods, as its PodGroup's condition says it or is to say it now; one of Kubernetes' own API
// has no such condition. It reports whether that is so at all.
func Stale(p plan.Plan, g *snapshot.Gang) (snapshot.Condition, bool) {
	for i := range p.Statuses {
		if p.Statuses[i].Gang == g.Key {
			return stale(g, p.Statuses[i].Want.Conditions)
		}
	}
	return stale(g, g.Status.Conditions)
}

func stale(g *snapshot.Gang, conditions []snapshot.Condition) (snapshot.Condition, bool) {
	for _, c := range conditions {
		if c.Type == snapshot.Stale {
			return c, c.Status == "True"
		}
	}
	switch {
	case g.Native && g.Unmade != "":
		return snapshot.Condition{Type: snapshot.Stale, Reason: snapshot.PodsMissing, Message: g.Unmade}, true
	case g.Native && g.ShortSince != 0 && g.Lacks() != "":
		return snapshot.Condition{Type: snapshot.Stale, Reason: snapshot.BelowMinimum, Message: g.Lacks()}, true
	}
	return snapshot.Condition{}, false
}

// reasons keeps one line a gang that waits, or that has too few members.
func (o *overview) reasons(p plan.Plan) {
	said := make(map[string][]snapshot.Condition, len(p.Statuses))
	for i := range p.Statuses {
		said[p.Statuses[i].Gang] = p.Statuses[i].Want.Conditions
	}
	for _, g := range o.s.Gangs {
		conditions, changed := said[g.Key]
		if !changed {
			conditions = g.Status.Conditions
		}
		if c, is := stale(g, conditions); is {
			o.why[g.Key] = c.Type + " (" + c.Reason + "): " + c.Message
		} else if words := Unmade(g); words != "" {
			o.why[g.Key] = words
		}
	}
	for _, u := range p.Unschedulable { // the planned start of a head is said there too
		o.why[u.Gang] = string(u.Code) + ": " + u.Message
	}
	for _, cl := range p.Claims {
		o.why[cl.Gang] = fmt.Sprintf("%d pods make room for it (%s)", len(cl.Evictions), cl.Action)
	}
	for _, pl := range p.Placements {
		o.why[pl.Gang] = Placed(pl)
	}
}

// Unmade says that a gang which was let in has no pods, "" when it has some or is not let
// in: no cycle looks at it, and whoever is to make its pods knows why they are not there.
func Unmade(g *snapshot.Gang) string {
	letIn := g.Native && g.Whole == nil || g.Status.Phase == snapshot.GroupInqueue
	if g.Plain || g.Absent || !letIn || len(g.Pods) > 0 {
		return ""
	}
	return fmt.Sprintf("it has no pods, and needs %d: its owner has to make them, and has events if it cannot", g.Minimum())
}

// Placed says that gang members are placed, and whether they start only once what they
// claim is theirs.
func Placed(pl plan.Placement) string {
	words := fmt.Sprintf("%d members are placed on %s now", len(pl.Binds), pl.Domain)
	if slices.ContainsFunc(pl.Binds, func(b plan.Bind) bool { return b.Claims != nil }) {
		words += ", and are bound once the volumes and devices that they claim are theirs (events of the PodGroup say what is missing)"
	}
	return words
}

// table writes rows in columns, as many as are shown.
func (o *overview) table(w io.Writer, what string, head []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintln(w)
	left := 0
	if o.Rows > 0 && len(rows) > o.Rows {
		left = len(rows) - o.Rows
		rows = rows[:o.Rows]
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range append([][]string{head}, rows...) {
		for i, cell := range r {
			r[i] = Printable(cell)
		}
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	_ = tw.Flush() // it goes to memory
	if left > 0 {
		fmt.Fprintf(w, "... and %d more %s\n", left, what)
	}
}

func (o *overview) cluster(w io.Writer) {
	ready := 0
	used, total := make([]int64, o.s.Dims.Len()), make([]int64, o.s.Dims.Len())
	for i, n := range o.s.Nodes {
		if n.Ready && n.Broken == "" {
			ready++
		}
		free := o.ses.Txn.Free(i)
		for _, d := range o.wide {
			total[d] += n.Total[d]
			used[d] += n.Total[d] - free[d]
		}
	}
	runs, waits := 0, 0
	for _, g := range o.s.Gangs {
		switch o.state(g) {
		case running, growing:
			runs++
		case waiting:
			waits++
		}
	}
	fmt.Fprintf(w, "%s  %d of %d nodes ready  gangs: %d run, %d wait", o.ses.Now.UTC().Format(time.RFC3339), ready, len(o.s.Nodes), runs, waits)
	for _, d := range o.wide {
		name := o.s.Dims.Names()[d]
		fmt.Fprintf(w, "  %s: %s of %s", name, plan.Amount(name, used[d]), plan.Amount(name, total[d]))
	}
	fmt.Fprintln(w)
}

func (o *overview) queues(w io.Writer) {
	gangs := map[string][2]int{}
	for _, g := range o.s.Gangs {
		n := gangs[g.Queue]
		switch o.state(g) {
		case running, growing:
			n[0]++
		case waiting:
			n[1]++
		}
		gangs[g.Queue] = n
	}
	head := []string{"QUEUE", "STATE", "WEIGHT", "RUN", "WAIT"}
	recent := framework.NewRecent(o.s, o.ses.Ledger, o.ses.Now)
	if o.s.Usage != nil {
		head = append(head, "OF LATE")
	}
	for _, d := range o.wide {
		head = append(head, strings.ToUpper(o.s.Dims.Names()[d])+" HELD/DESERVED/MOST")
	}
	var rows [][]string
	var add func(q *entitlement.Queue, depth int)
	add = func(q *entitlement.Queue, depth int) {
		if !q.Own {
			n := gangs[q.Name]
			state := snapshot.QueueOpen
			if q.Spec != nil && q.Spec.State != "" {
				state = q.Spec.State
			}
			if o.ses.Ledger.Stopped(q.Name) != nil {
				state += " (stopped)"
			}
			row := []string{strings.Repeat("  ", depth) + q.Name, state, strconv.FormatInt(q.Weight, 10), strconv.Itoa(n[0]), strconv.Itoa(n[1])}
			if o.s.Usage != nil {
				row = append(row, plan.Percent(recent.Queue(q)))
			}
			for _, d := range o.wide {
				name := o.s.Dims.Names()[d]
				most := "-"
				if q.Limits(d) {
					most = plan.Amount(name, q.Capability[d])
				}
				row = append(row, plan.Amount(name, q.Held[d])+"/"+plan.Amount(name, q.Deserved[d])+"/"+most)
			}
			rows = append(rows, row)
			depth++
		}
		below := slices.Clone(o.ses.Ledger.Below(q))
		slices.SortFunc(below, func(a, b *entitlement.Queue) int { return strings.Compare(a.Name, b.Name) })
		for _, b := range below {
			add(b, depth)
		}
	}
	for _, q := range o.ses.Ledger.Queues() {
		if q.Root() {
			add(q, 0)
		}
	}
	o.table(w, "queues", head, rows)
}

// nodes shows virtual nodes and those with GPUs, the fullest first.
func (o *overview) nodes(w io.Writer) {
	head := []string{"NODE", "STATE", "MODEL"}
	for _, d := range o.wide {
		head = append(head, strings.ToUpper(o.s.Dims.Names()[d])+" USED/OF")
	}
	head = append(head, "PODS")
	type line struct {
		used int64
		row  []string
	}
	var lines []line
	for i, n := range o.s.Nodes {
		free, gpus := o.ses.Txn.Free(i), int64(0)
		l := line{row: []string{n.Name, nodeState(n), models(n)}}
		for _, d := range o.wide {
			name := o.s.Dims.Names()[d]
			used := n.Total[d] - free[d]
			if snapshot.IsGPU(name) {
				gpus += n.Total[d]
				l.used += used
			}
			l.row = append(l.row, plan.Amount(name, used)+"/"+plan.Amount(name, n.Total[d]))
		}
		if gpus == 0 && l.used == 0 && !n.Virtual { // what is held of GPUs that a node lost is shown
			continue
		}
		l.row = append(l.row, strconv.Itoa(len(n.Residents)))
		lines = append(lines, l)
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(b.used, a.used) })
	rows := make([][]string, len(lines))
	for i, l := range lines {
		rows[i] = l.row
	}
	o.table(w, "nodes", head, rows)
}

func nodeState(n *snapshot.Node) string {
	switch {
	case n.Broken != "":
		return "not understood"
	case !n.Ready:
		return "not ready"
	case n.Unschedulable:
		return "cordoned"
	}
	return "ready"
}

// models names the models of a node's GPUs, each once.
func models(n *snapshot.Node) string {
	var names []string
	if n.GPUs != nil {
		for _, g := range n.GPUs.GPUs {
			names = append(names, g.Model)
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > 0 {
		return strings.Join(names, ", ")
	}
	return "-"
}

// What a gang does.
const (
	running = "runs"
	growing = "runs, grows" // it has its minimum, and more of it waits
	waiting = "waits"
	ended   = "ended"
)

func (o *overview) state(g *snapshot.Gang) string {
	alive := slices.ContainsFunc(g.Pods, func(p *snapshot.Pod) bool { return !p.Terminal() })
	switch {
	case len(g.Pods) > 0 && !alive:
		return ended
	case len(g.Pods) == 0 && g.Status.Phase == snapshot.GroupCompleted:
		return ended
	case g.Have() < g.Minimum():
		return waiting
	case g.Waiting > 0:
		return growing
	}
	return running
}

// gangs shows those that wait first, in the order of age, then those that run.
func (o *overview) gangs(w io.Writer) {
	head := []string{"NAMESPACE", "GANG", "QUEUE", "PRIORITY", "STATE", "MEMBERS"}
	var shown []int
	for _, d := range o.wide {
		if name := o.s.Dims.Names()[d]; snapshot.IsGPU(name) {
			shown = append(shown, d)
			head = append(head, strings.ToUpper(name))
		}
	}
	head = append(head, "SINCE", "ON", "WHY")
	list := slices.DeleteFunc(slices.Clone(o.s.Gangs), func(g *snapshot.Gang) bool {
		return o.Namespace != "" && g.Namespace != o.Namespace || o.Queue != "" && g.Queue != o.Queue || o.state(g) == ended
	})
	slices.SortStableFunc(list, func(a, b *snapshot.Gang) int {
		return cmp.Or(-cmp.Compare(o.state(a), o.state(b)), cmp.Compare(since(a), since(b)), strings.Compare(a.Key, b.Key))
	})
	var rows [][]string
	for _, g := range list {
		row := []string{g.Namespace, g.Name, g.Queue, strconv.Itoa(int(g.Priority)), o.state(g), fmt.Sprintf("%d/%d", g.Have(), g.Minimum())}
		for _, d := range shown {
			row = append(row, plan.Amount(o.s.Dims.Names()[d], g.Held[d]+g.Wants[d]))
		}
		age := "-"
		if at := since(g); at > 0 {
			age = max(o.ses.Now.Sub(time.Unix(0, at)).Truncate(time.Second), 0).String()
		}
		rows = append(rows, append(row, age, places(g), cmp.Or(o.why[g.Key], "-")))
	}
	o.table(w, "gangs", head, rows)
}

// since is when the first member of a gang started, or when the gang was made.
func since(g *snapshot.Gang) int64 {
	at := int64(0)
	for _, p := range g.Pods {
		if p.StartedAt > 0 && !p.Terminal() && (at == 0 || p.StartedAt < at) {
			at = p.StartedAt
		}
	}
	if at == 0 {
		return g.CreatedAt
	}
	return at
}

// places names the node of a gang's members, or counts the nodes.
func places(g *snapshot.Gang) string {
	var nodes []string
	for _, p := range g.Pods {
		if p.Node != "" && !p.Terminal() {
			nodes = append(nodes, p.Node)
		}
	}
	slices.Sort(nodes)
	switch nodes = slices.Compact(nodes); len(nodes) {
	case 0:
		return "-"
	case 1:
		return nodes[0]
	default:
		return fmt.Sprintf("%d nodes", len(nodes))
	}
}
