package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/overview"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// say writes one line, with nothing in it that a terminal would act on.
func say(w io.Writer, format string, args ...any) {
	line := strings.TrimSuffix(fmt.Sprintf(format, args...), "\n")
	_, _ = fmt.Fprintln(w, overview.Printable(line)) // it is only said
}

var errNone = errors.New("there is none")

// ofJob reports whether a gang is the job's: its PodGroup has the job's name, or
// that with the job's UID after it; a pod without a PodGroup has its own name.
func ofJob(g *snapshot.Gang, namespace, job string) bool {
	return g.Namespace == namespace && (g.Name == job || strings.HasPrefix(g.Name, job+"-") && len(g.Name) == len(job)+37)
}

func explainJob(w io.Writer, s *snapshot.Snapshot, p plan.Plan, ses *framework.Session, namespace, name string) error {
	found := false
	for _, g := range s.Gangs {
		if !ofJob(g, namespace, name) {
			continue
		}
		found = true
		say(w, "%s/%s in queue %s, priority %d: %d of at least %d members placed, %d wait\n", g.Namespace, g.Name, g.Queue, g.Priority, g.Have(), g.Minimum(), g.Waiting)
		if g.Estimate > 0 {
			say(w, "  runs for about %s (%s)\n", time.Duration(g.Estimate), g.EstimateFrom)
		}
		if c, is := overview.Stale(p, g); is {
			say(w, "  has too few members (%s %s): %s\n", c.Type, c.Reason, c.Message)
		}
		explainOrder(w, s, g)
		explainData(w, s, g, ses.Now)
		for _, pl := range p.Placements {
			if pl.Gang == g.Key {
				say(w, "  %s\n", overview.Placed(pl))
			}
		}
		if words := overview.Unmade(g); words != "" {
			say(w, "  %s\n", words)
		}
		for _, u := range p.Unschedulable {
			if u.Gang != g.Key {
				continue
			}
			say(w, "  waits (%s): %s\n", u.Code, u.Message)
			for _, words := range tooBig(s, g) {
				say(w, "    %s\n", words)
			}
			for _, d := range u.Domains {
				if words := d.Words(); len(u.Domains) > 1 || !strings.Contains(u.Message, words) { // of one domain it is said already
					say(w, "    %s\n", words)
				}
			}
		}
		for _, h := range p.Heads {
			if h.Gang != g.Key {
				continue
			}
			sure := "at the latest, should estimates hold"
			if h.Guessed {
				sure = "at a guess: the run time of some that have to end is not known"
			}
			say(w, "  starts %s on %s, %s\n", time.Unix(0, h.At).UTC().Format(time.RFC3339), h.Domain, sure)
			for _, other := range h.For {
				say(w, "    after %s\n", other)
			}
		}
		for _, cl := range p.Claims {
			if cl.Gang == g.Key && !cl.Moves() {
				say(w, "  %d pods would be evicted for it by %s\n", len(cl.Evictions), cl.Action)
			}
			explainSent(w, g, cl.Evictions)
		}
		explainSent(w, g, p.Releases)
	}
	if !found {
		return fmt.Errorf("job %s/%s: %w", namespace, name, errNone)
	}
	return nil
}

// explainSent tells how many of a gang's pods are among those that are sent away, with the
// words that the first of them hears.
func explainSent(w io.Writer, g *snapshot.Gang, all []plan.Eviction) {
	sent, first := 0, ""
	for i := range all {
		if all[i].Gang == g.Key {
			sent, first = sent+1, cmp.Or(first, all[i].Message)
		}
	}
	if sent > 0 {
		say(w, "  %d of its pods would be evicted: %s\n", sent, first)
	}
}

// explainOrder tells which Jobs have to complete before the gang starts: where a flow
// queues its steps early, its pods name the attempts of these.
func explainOrder(w io.Writer, s *snapshot.Snapshot, g *snapshot.Gang) {
	var after []string
	for _, p := range g.Pods {
		for _, attempt := range p.After {
			if p.Phase == snapshot.PodPending && !slices.Contains(after, attempt) {
				after = append(after, attempt)
			}
		}
	}
	for _, attempt := range after {
		say(w, "  starts after %s\n", ofAttempt(s, g.Namespace, attempt))
	}
}

// ofAttempt says whose an attempt is, and how far it is. Whoever writes an annotation
// names pods of his own namespace only.
func ofAttempt(s *snapshot.Snapshot, namespace, attempt string) string {
	for _, g := range s.Gangs {
		if g.Namespace != namespace {
			continue
		}
		of, at, succeeded, failed, running := 0, "", 0, 0, 0
		for _, p := range g.Pods {
			if p.Attempt != attempt {
				continue
			}
			of, at = of+1, p.Node
			switch p.Phase {
			case snapshot.PodSucceeded:
				succeeded++
			case snapshot.PodFailed:
				failed++
			case snapshot.PodRunning:
				running++
			}
		}
		switch {
		case of == 0:
		case failed > 0:
			return fmt.Sprintf("%s has completed, of which %d of %d members failed on node %s: it is taken back", jobOf(g), failed, of, at)
		case succeeded == of:
			return fmt.Sprintf("%s, which has completed on node %s", jobOf(g), at)
		default:
			return fmt.Sprintf("%s has completed, of which %d of %d members run on node %s", jobOf(g), running, of, at)
		}
	}
	return fmt.Sprintf("gang attempt %.60q, which has no pods any more", attempt)
}

// jobOf is the name under which a gang is explained, see ofJob.
func jobOf(g *snapshot.Gang) string {
	name := g.Name
	if at := len(name) - 37; at > 0 && name[at] == '-' && strings.Count(name[at+1:], "-") == 4 {
		name = name[:at]
	}
	return g.Namespace + "/" + name
}

// explainData tells where what the gang reads is, and what it takes to have it elsewhere.
func explainData(w io.Writer, s *snapshot.Snapshot, g *snapshot.Gang, now time.Time) {
	for i := range g.Data {
		d := &g.Data[i]
		if d.Unknown {
			say(w, "  reads dataset %s, which does not exist\n", d.Name)
			continue
		}
		var on []string
		for _, n := range s.Nodes {
			if _, there := d.On(n.Labels); there && len(on) < 10 {
				on = append(on, n.Name)
			}
		}
		where := "on no node"
		if len(on) > 0 {
			where = "on " + strings.Join(on, ", ")
		}
		how := "it starts %s later, for the copy"
		if d.Staged {
			how = "a copy of about %s is made first"
		}
		say(w, "  reads dataset %s of %s: %s; elsewhere "+how+"\n",
			d.Name, plan.Amount("memory", d.Size), where, time.Duration(d.Transfer())*time.Second)
		for k := range d.Targets {
			t := &d.Targets[k]
			say(w, "    may be copied to cluster %s, %s\n", t.Cluster, plan.CopyWords(snapshot.Copy{Data: d, Target: t}, now))
		}
	}
}

// mostNear is how many queues are named in place of one that does not exist.
const mostNear = 5

// noQueue says that a queue does not exist, and which are named nearly so.
func noQueue(ses *framework.Session, name string) error {
	names := &cobra.Command{SuggestionsMinimumDistance: 2} // it knows what was meant, as for its commands
	for _, q := range ses.Ledger.Queues() {
		if !q.Own {
			names.AddCommand(&cobra.Command{Use: q.Name, Run: func(*cobra.Command, []string) {}})
		}
	}
	near := ""
	if of := names.SuggestionsFor(name); len(of) > 0 {
		slices.Sort(of)
		near = "; there is " + strings.Join(of[:min(len(of), mostNear)], ", ")
	}
	return fmt.Errorf("queue %s: %w%s (`isthmus top` lists all, with --rows=0 however many)", name, errNone, near)
}

func explainQueue(w io.Writer, s *snapshot.Snapshot, p plan.Plan, ses *framework.Session, _, name string) error {
	q := ses.Ledger.Queue(name)
	if q == nil {
		return noQueue(ses, name)
	}
	say(w, "queue %s, %sweight %d, priority %d\n", q.Name, declared(q), q.Weight, q.Priority)
	explainAmounts(w, s, q)
	above := ses.Ledger.Above(name)
	for _, up := range above {
		if up != q && !up.Own {
			say(w, "  below queue %s\n", up.Name)
			explainLimits(w, s, up)
		}
	}
	if u := s.Usage; u != nil {
		recent := framework.NewRecent(s, ses.Ledger, ses.Now)
		say(w, "  has held %s of the cluster on average of late (half-life %s)\n", plan.Percent(recent.Queue(q)), time.Duration(u.HalfLife)*time.Second)
		for _, ns := range recent.Namespaces(name) {
			say(w, "    namespace %s: %s\n", ns, plan.Percent(recent.Namespace(name, ns)))
		}
	}
	if f := ses.Ledger.Stopped(name); f != nil {
		say(w, "  nothing is placed: %s\n", f.Message)
	}
	for _, f := range ses.Ledger.Faults {
		if !f.Stops && (f.Queue == entitlement.Root || slices.ContainsFunc(above, func(up *entitlement.Queue) bool { return up.Name == f.Queue })) {
			say(w, "  declared wrongly (%s): %s\n", f.Reason, f.Message)
		}
	}
	for _, u := range p.Unschedulable {
		if g := gangOf(s, u.Gang); g != nil && g.Queue == name {
			say(w, "  %s/%s waits (%s): %s\n", u.Namespace, u.Name, u.Code, u.Message)
		}
	}
	return nil
}

// declared says what the queue's object does, beside amounts.
func declared(q *entitlement.Queue) string {
	if q.Spec == nil {
		return ""
	}
	out := cmp.Or(q.Spec.State, snapshot.QueueOpen) + ", "
	if !q.Reclaimable() {
		out += "not reclaimable, "
	}
	if q.Spec.Dequeue != "" {
		out += "dequeue strategy " + q.Spec.Dequeue + ", "
	}
	return out
}

// explainAmounts says what the queue has of each resource that it holds, waits for,
// limits or is guaranteed.
func explainAmounts(w io.Writer, s *snapshot.Snapshot, q *entitlement.Queue) {
	for d, name := range s.Dims.Names() {
		if q.Held[d] == 0 && q.Wanted[d] == 0 && !q.Limits(d) && q.Guarantee[d] == 0 {
			continue
		}
		kept := ""
		if q.Guarantee[d] != 0 {
			kept = ", is guaranteed " + plan.Amount(name, q.Guarantee[d])
		}
		say(w, "  %s: holds %s, deserves %s, may hold %s, waits for %s%s\n", name, plan.Amount(name, q.Held[d]),
			plan.Amount(name, q.Deserved[d]), plan.Amount(name, q.Capability[d]), plan.Amount(name, q.Wanted[d]), kept)
	}
}

// explainLimits says what a queue above leaves.
func explainLimits(w io.Writer, s *snapshot.Snapshot, q *entitlement.Queue) {
	for d, name := range s.Dims.Names() {
		if q.Limits(d) {
			say(w, "    %s: holds %s, may hold %s\n", name, plan.Amount(name, q.Held[d]), plan.Amount(name, q.Capability[d]))
		}
	}
}

func gangOf(s *snapshot.Snapshot, key string) *snapshot.Gang {
	for _, g := range s.Gangs {
		if g.Key == key {
			return g
		}
	}
	return nil
}

func explainNode(w io.Writer, s *snapshot.Snapshot, _ plan.Plan, ses *framework.Session, _, name string) error {
	i, ok := s.Node(name)
	if !ok {
		return fmt.Errorf("node %s: %w", name, errNone)
	}
	n := s.Nodes[i]
	state := "ready"
	switch {
	case n.Broken != "":
		state = n.Broken
	case !n.Ready:
		state = "not ready"
	case n.Unschedulable:
		state = "cordoned"
	}
	say(w, "node %s: %s\n", n.Name, state)
	if n.Wait > 0 {
		say(w, "  a job that is submitted now is expected to wait for %s\n", time.Duration(n.Wait)*time.Second)
	}
	free := ses.Txn.Free(i)
	for d, name := range s.Dims.Names() {
		if n.Total[d] != 0 || free[d] != 0 { // devices that a node lost may be held still
			say(w, "  %s: %s of %s free\n", name, plan.Amount(name, free[d]), plan.Amount(name, n.Total[d]))
		}
	}
	for _, words := range ses.ReservedOn(i) {
		say(w, "  %s\n", words)
	}
	others := len(n.Residents)
	for _, g := range s.Gangs {
		here := 0
		for _, p := range g.Pods {
			if p.Node == name && !p.Terminal() {
				here++
			}
		}
		others -= here
		if here > 0 {
			say(w, "  %d pods of %s/%s (queue %s, priority %d)\n", here, g.Namespace, g.Name, g.Queue, g.Priority)
		}
		if g.Nominated.Keeps(ses.Now.UnixNano()) && ses.KeepsOn(g, i) {
			say(w, "  room is kept for %s/%s\n", g.Namespace, g.Name)
		}
	}
	if others > 0 {
		say(w, "  %d pods that are not this scheduler's\n", others)
	}
	return nil
}
