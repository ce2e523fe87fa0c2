// Package schedtest is for tests of scheduling decisions: a small world of nodes,
// queues and gangs that plans can be applied to, builders for it, and a script
// language over it. It is pure, like what it tests.
package schedtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Pipeline is what runs without a configuration.
func Pipeline() framework.Pipeline { return config.Default() }

// PipelineWithout is Pipeline without some actions, and with switches turned off, each written
// PLUGIN.SWITCH.
func PipelineWithout(off ...string) framework.Pipeline {
	c, _, err := config.Parse([]byte(config.Standard))
	if err != nil {
		panic(err)
	}
	for _, name := range off {
		c.Actions = slices.DeleteFunc(c.Actions, func(a config.Action) bool { return a.Name == name })
		plugin, name, _ := strings.Cut(name, ".")
		for _, tier := range c.Tiers {
			for i := range tier {
				if tier[i].Name == plugin {
					tier[i].Switches[name] = false
				}
			}
		}
	}
	return c.Pipeline()
}

// FromNothing is the plan of a cycle that remembers nothing of those before it, and leaves
// nothing to those after it.
func FromNothing(pipe framework.Pipeline, s *snapshot.Snapshot, now time.Time) plan.Plan {
	left := s.Memory().Take()
	defer func() { s.Memory().Leave(left) }()
	return scheduler.Cycle(pipe, s, now)
}

// World is a cluster as data.
type World struct {
	Now        time.Time
	Nodes      []snapshot.NodeSpec
	Queues     []snapshot.Queue
	Gangs      []*Gang
	HyperNodes []snapshot.HyperNodeSpec
	// Levels are the labels that stand for tiers where there are no HyperNodes.
	Levels   []string
	attempts int
	made     int
	replaced int
	// Budgets are the disruption budgets.
	Budgets      []snapshot.Budget
	Reservations []snapshot.Reservation
	// Loads are how busy nodes were measured to be.
	Loads []snapshot.Load
	// Rounds say when plugins last had their turn.
	Rounds map[string]int64
	// Turns say who was looked at last in such a round.
	Turns map[string]string
	// Opinions are what an extender said.
	Opinions []snapshot.Opinion
	Quotas   []snapshot.Quota
	// Usage is what queues have held of late.
	Usage *snapshot.Usage
	// Claims are the volumes and devices, nil for none.
	Claims *claims.Spec
	// off is what a script has turned off, as PipelineWithout has it.
	off []string
}

// Gang is a gang with its pods.
type Gang struct {
	snapshot.GangSpec
	Pods []*Pod
	// Hurt says that a member failed, and that the gang was not whole since: nobody but
	// the member is to blame then for a part that runs.
	Hurt  bool
	short snapshot.Shortness
}

// Pod is a pod with what it asks for.
type Pod struct {
	snapshot.Pod
	Needs snapshot.ClassSpec
}

// NewWorld has the queue "default" and nothing else.
func NewWorld() *World {
	return &World{
		Now:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Queues: []snapshot.Queue{{Name: "default", Weight: 1, State: "Open"}},
	}
}

// Real returns a ready real node.
func Real(name string, offers ...resource.Quantity) snapshot.NodeSpec {
	return snapshot.NodeSpec{Name: name, UID: name, Ready: true, Allocatable: resource.MakeList(offers...)}
}

// Virtual returns a ready virtual node that offers the sum of its shapes.
func Virtual(name string, shapes hostshape.Shapes) snapshot.NodeSpec {
	qs := []resource.Quantity{{Name: "pods", Amount: 100000}}
	for _, sh := range shapes.Shapes {
		for r, amount := range sh.Resources {
			qs = append(qs, resource.Quantity{Name: r, Amount: resource.Mul(amount, sh.Count)})
		}
	}
	return snapshot.NodeSpec{Name: name, UID: name, Ready: true, Virtual: true, Shapes: &shapes, Allocatable: resource.MakeList(qs...)}
}

// SetNode adds a node or replaces the one of its name.
func (w *World) SetNode(n snapshot.NodeSpec) {
	if i := slices.IndexFunc(w.Nodes, func(o snapshot.NodeSpec) bool { return o.Name == n.Name }); i >= 0 {
		w.Nodes[i] = n
		return
	}
	w.Nodes = append(w.Nodes, n)
}

// AddGang adds a gang without pods; created one second after the one before.
func (w *World) AddGang(name string, minMember int64) *Gang {
	w.made++
	g := &Gang{GangSpec: snapshot.GangSpec{
		Key: "podgroup/default/" + name, UID: fmt.Sprintf("uid-%04d", w.made), Namespace: "default", Name: name,
		Queue: "default", MinMember: minMember, CreatedAt: w.Now.Add(-time.Hour).Add(time.Duration(w.made) * time.Second).UnixNano(),
		Status: snapshot.GroupStatus{Phase: snapshot.GroupInqueue},
	}}
	w.Gangs = append(w.Gangs, g)
	return g
}

// AddPods adds pending pods of a task, named <gang>-<task>-<index> with indices
// from the first free one on.
func (g *Gang) AddPods(task string, count int, needs snapshot.ClassSpec) []*Pod {
	var first int64
	for _, p := range g.Pods {
		if p.Task == task {
			first = max(first, p.Index+1)
		}
	}
	needs.Requests = resource.MakeList(append(slices.Clone(needs.Requests), resource.Quantity{Name: "pods", Amount: 1})...)
	var out []*Pod
	for i := first; i < first+int64(count); i++ {
		name := fmt.Sprintf("%s-%s-%d", g.Name, task, i)
		if g.Plain {
			name = g.Name
		}
		out = append(out, &Pod{Needs: needs, Pod: snapshot.Pod{UID: g.UID + "/" + name, Namespace: g.Namespace, Name: name, Task: task, Index: i, Phase: snapshot.PodPending}})
	}
	g.Pods = append(g.Pods, out...)
	return out
}

// Gang returns a gang by name, nil when there is none.
func (w *World) Gang(name string) *Gang {
	for _, g := range w.Gangs {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// assume has pods be on a node by bindings that may fail yet.
func (w *World) assume(prefix, node string) error {
	pods := w.Pods(prefix)
	if len(pods) == 0 || !slices.ContainsFunc(w.Nodes, func(n snapshot.NodeSpec) bool { return n.Name == node }) {
		return fmt.Errorf("assume: no pod is named %s, or no node %s", prefix, node)
	}
	for _, p := range pods {
		p.Node, p.Assumed = node, true
	}
	return nil
}

// noteShort notes since when a gang is short, as the cache does.
func (g *Gang) noteShort(now time.Time) {
	of := &snapshot.Gang{GangSpec: g.GangSpec}
	for _, p := range g.Pods {
		of.Pods = append(of.Pods, &p.Pod)
	}
	of.NoteWhole()
	g.short.Note(of, now.UnixNano())
	g.Whole, g.Unmade, g.UnmadeSince, g.ShortSince = of.Whole, of.Unmade, of.UnmadeSince, of.ShortSince
}

// Document is the world as snapshot data.
func (w *World) Document() snapshot.Document {
	for _, g := range w.Gangs {
		g.noteShort(w.Now)
	}
	d := snapshot.Document{Version: 1, Nodes: slices.Clone(w.Nodes), Queues: slices.Clone(w.Queues), HyperNodes: slices.Clone(w.HyperNodes), Levels: w.Levels, Budgets: slices.Clone(w.Budgets), Reservations: slices.Clone(w.Reservations), Quotas: slices.Clone(w.Quotas), Usage: w.Usage, Loads: slices.Clone(w.Loads), Rounds: maps.Clone(w.Rounds), Turns: maps.Clone(w.Turns), Opinions: slices.Clone(w.Opinions), Claims: w.Claims}
	index := map[string]int{}
	for _, g := range w.Gangs {
		gd := snapshot.GangDoc{GangSpec: g.GangSpec}
		for _, p := range g.Pods {
			key := p.Needs.Key()
			if _, ok := index[key]; !ok {
				index[key] = len(d.Classes)
				d.Classes = append(d.Classes, p.Needs)
			}
			gd.Pods = append(gd.Pods, snapshot.PodDoc{Pod: p.Pod, Class: index[key]})
		}
		d.Gangs = append(d.Gangs, gd)
	}
	return d
}

// Snapshot compiles the world; it panics on data that a test got wrong.
func (w *World) Snapshot() *snapshot.Snapshot {
	s, err := w.Document().Build()
	if err != nil {
		panic(err)
	}
	return s
}

// Apply carries a plan out: all of it at once, as a healthy cluster would.
// Attempts are named a1, a2 and so on.
func (w *World) Apply(p plan.Plan) {
	byUID := map[string]*Pod{}
	groups := map[string]*Gang{}
	for _, g := range w.Gangs {
		groups[g.Key] = g
		for _, pod := range g.Pods {
			byUID[pod.UID] = pod
		}
	}
	for _, pl := range p.Placements {
		attempt := pl.Attempt
		if attempt == "" {
			w.attempts++
			attempt = fmt.Sprintf("a%d", w.attempts)
		}
		for _, b := range pl.Binds {
			pod := byUID[b.UID]
			pod.Node, pod.Attempt, pod.Size, pod.Rank = b.Node, attempt, pl.Size, b.Rank
			pod.Devices, pod.Cells = nil, snapshot.ParseCells(b.Cells)
			w.applyClaims(b)
			pod.Devices = nil
			if b.Devices != "" {
				pod.Devices = strings.Split(b.Devices, ",")
			}
		}
	}
	for _, h := range p.HyperNodes {
		for i := range w.HyperNodes {
			if w.HyperNodes[i].Name == h.HyperNode {
				w.HyperNodes[i].NodeCount = h.Count
			}
		}
	}
	for _, r := range p.Reservations {
		for i := range w.Reservations {
			if w.Reservations[i].Name == r.Name {
				w.Reservations[i].Status = r.Want
			}
		}
	}
	for _, s := range p.Stagings {
		groups[s.Gang].Staging = s.Want
	}
	for _, s := range p.Statuses {
		groups[s.Gang].Status = s.Want
	}
	for _, c := range p.Claims {
		n := c.Nomination
		groups[c.Gang].Nominated = &n
		for _, e := range c.Evictions {
			byUID[e.UID].Terminating = true
		}
	}
	for _, e := range p.Releases {
		byUID[e.UID].Terminating = true
	}
	for _, r := range p.Rounds {
		if w.Rounds == nil {
			w.Rounds, w.Turns = map[string]int64{}, map[string]string{}
		}
		w.Rounds[r.Plugin] = w.Now.UnixNano()
		if r.After != "" {
			w.Turns[r.Plugin] = r.After
		}
	}
	for _, ref := range p.Opened {
		byUID[ref.UID].Gated, byUID[ref.UID].Gate = false, snapshot.GateOpen
	}
}

// Pods returns the pods whose names start with prefix.
func (w *World) Pods(prefix string) []*Pod {
	var out []*Pod
	for _, g := range w.Gangs {
		for _, p := range g.Pods {
			if strings.HasPrefix(p.Name, prefix) {
				out = append(out, p)
			}
		}
	}
	return out
}

// Restart replaces pods whose names start with prefix by new ones that wait, as
// their owner does when they have gone.
func (w *World) Restart(prefix string) {
	for _, p := range w.Pods(prefix) {
		w.Replace(p)
	}
}

// hurt notes that members of their gangs failed.
func (w *World) hurt(pods []*Pod) {
	for _, g := range w.Gangs {
		g.Hurt = g.Hurt || slices.ContainsFunc(g.Pods, func(p *Pod) bool { return slices.Contains(pods, p) })
	}
}

// Replace replaces one pod by a new one of its name that waits.
func (w *World) Replace(p *Pod) {
	w.replaced++
	old, _, _ := strings.Cut(p.UID, "#")
	p.Pod = snapshot.Pod{
		UID: fmt.Sprintf("%s#%d", old, w.replaced), Namespace: p.Namespace, Name: p.Name, Task: p.Task, Index: p.Index,
		Phase: snapshot.PodPending, Protected: p.Protected, Cooldown: p.Cooldown, Budgets: p.Budgets, Movable: p.Movable, Picked: p.Picked,
		Policy: p.Policy, SubGroup: p.SubGroup, Priority: p.Priority,
	}
}

// Settle lets time pass: bound pods run, and those that terminate are replaced.
func (w *World) Settle(d time.Duration) {
	for _, g := range w.Gangs {
		for _, p := range g.Pods {
			switch {
			case p.Terminating:
				w.Replace(p)
			case p.Node != "" && p.Phase == snapshot.PodPending:
				p.Phase, p.StartedAt = snapshot.PodRunning, w.Now.UnixNano()
			}
		}
	}
	w.Now = w.Now.Add(d)
}

// Finish ends the gang of a name well, if it has its minimum.
func (w *World) Finish(name string) {
	g := w.Gang(name)
	if g == nil {
		return
	}
	var have int64
	for _, p := range g.Pods {
		if p.Counts() {
			have++
		}
	}
	if have < g.MinMember {
		return
	}
	for _, p := range g.Pods {
		if !p.Terminal() {
			p.Phase, p.Terminating = snapshot.PodSucceeded, false
		}
	}
}

// Clone returns a world of its own that is equal.
func (w *World) Clone() *World {
	out := *w
	out.Nodes, out.Queues, out.Budgets = slices.Clone(w.Nodes), slices.Clone(w.Queues), slices.Clone(w.Budgets)
	out.Rounds, out.Turns = maps.Clone(w.Rounds), maps.Clone(w.Turns)
	out.Gangs = nil
	for _, g := range w.Gangs {
		c := *g
		c.Pods = nil
		for _, p := range g.Pods {
			q := *p
			c.Pods = append(c.Pods, &q)
		}
		out.Gangs = append(out.Gangs, &c)
	}
	return &out
}

// Delete removes the pods whose names start with prefix.
func (w *World) Delete(prefix string) {
	for _, g := range w.Gangs {
		g.Pods = slices.DeleteFunc(g.Pods, func(p *Pod) bool { return strings.HasPrefix(p.Name, prefix) })
	}
}
