package framework

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// FindStaged is FindDomain among the virtual nodes, too, that lack what the gang reads
// while it is copied to them. Where those are the best, the Fit has Copies: the gang cannot
// be placed yet, nothing has changed, and it waits for them. One that room is kept for goes
// where that is.
func (s *Session) FindStaged(g *snapshot.Gang, job string, pods []*snapshot.Pod) (*Fit, []plan.DomainReason) {
	s.copying = !s.Nominated(g)
	defer func() { s.copying = false }()
	mark := s.Txn.Checkpoint()
	fit, reasons := s.FindDomain(g, job, pods, nil)
	if fit != nil && len(fit.Copies) > 0 {
		s.Txn.Rollback(mark)
	}
	return fit, reasons
}

// stage sees to what is copied before a gang goes to a virtual node: the fit begins when
// all of that is there. It returns why the gang cannot go there, "" when it can. Only
// FindStaged and planned starts look at nodes to which something has to be copied: so
// nothing is kept and nobody evicted for a gang before what it reads is there.
func (s *Session) stage(g *snapshot.Gang, fit *Fit) string {
	if !fit.Domain.Virtual() || !g.Stages() || begun(g) {
		return ""
	}
	copies, lacks := g.Copies(s.Snapshot.Nodes[fit.Domain.Node].Labels)
	if lacks != nil {
		return fmt.Sprintf("dataset %s is not there, nor is it copied there: spec.staging.targets does not name its cluster", lacks.Name)
	}
	if len(copies) == 0 {
		return ""
	}
	var longest int64 // they are made side by side
	for _, c := range copies {
		if c.Target.Failed {
			return fmt.Sprintf("dataset %s could not be copied to cluster %s: %s", c.Data.Name, c.Target.Cluster, c.Target.Why)
		}
		longest = max(longest, c.Ready(s.Now))
	}
	first := copies[0]
	switch {
	case g.Plain || g.Native:
		return fmt.Sprintf("dataset %s is not there, and copies are made for gangs with a PodGroup of Volcano's kind only", first.Data.Name)
	case !s.copying:
		return fmt.Sprintf("dataset %s is not there yet", first.Data.Name)
	}
	fit.Copies = copies
	fit.Start = resource.Add(fit.Start, longest)
	return ""
}

// begun reports whether members of the gang are somewhere: others go there, whatever is
// there by now.
func begun(g *snapshot.Gang) bool {
	if g.Loose {
		return false
	}
	for _, p := range g.Pods {
		if p.Node != "" && !p.Terminal() {
			return true
		}
	}
	return false
}

// stagingKey is the part of the key of failed that depends on what a gang reads.
func (s *Session) stagingKey(g *snapshot.Gang) string {
	if !g.Stages() {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "data %t %t %t %s", s.copying, g.Plain || g.Native, begun(g), g.Namespace)
	for i := range g.Data {
		b.WriteString("/" + g.Data[i].Name)
	}
	b.WriteByte(' ')
	return b.String()
}

// AwaitCopies is why a gang waits that goes where copies have to be made first.
func (s *Session) AwaitCopies(fit *Fit) plan.Unschedulable {
	return plan.Unschedulable{Code: plan.DataStaging, Staging: stagingText(fit.Copies), Message: "waits for " + s.copyWords(fit.Copies) + "; it then goes to " + fit.Domain.Name}
}

// SoonerThan reports whether a gang that fits where copies have to be made first can have a
// start planned where its data is that comes before they are ready, and is no guess.
func (s *Session) SoonerThan(fit *Fit, b Blocked) bool {
	if !s.plansFor(b.Gang) {
		return false
	}
	guards := s.Txn.Guards()
	s.Txn.Guard()
	defer s.Txn.Guard(guards...)
	h, _, guessed := s.start(b)
	return h != nil && !guessed && resource.Add((h.at-s.Now.UnixNano())/int64(time.Second), h.fit.Start) < fit.Start
}

// copyAhead asks for the copies that a gang needs where it has room once others have ended,
// if it never has room where nothing has to be copied.
func (s *Session) copyAhead(b Blocked, u *plan.Unschedulable) {
	if !b.Gang.Stages() || s.Nominated(b.Gang) {
		return
	}
	s.copying = true
	defer func() { s.copying = false }()
	h, _, _ := s.start(b)
	if h == nil || len(h.fit.Copies) == 0 {
		return
	}
	u.Staging = stagingText(h.fit.Copies)
	u.Message += fmt.Sprintf("; %s is to have room, and meanwhile it waits for %s", h.fit.Domain.Name, s.copyWords(h.fit.Copies))
}

func (s *Session) copyWords(copies []snapshot.Copy) string {
	words := make([]string, 0, len(copies))
	for _, c := range copies {
		words = append(words, fmt.Sprintf("a copy of dataset %s at cluster %s, %s", c.Data.Name, c.Target.Cluster, plan.CopyWords(c, s.Now)))
	}
	return strings.Join(words, ", and for ")
}

// stagingText is what is written on a PodGroup: the cluster by the name of the dataset.
func stagingText(copies []snapshot.Copy) string {
	to := make(map[string]string, len(copies))
	for _, c := range copies {
		to[c.Data.Name] = c.Target.Cluster
	}
	text, err := json.Marshal(to)
	if err != nil {
		return "" // a map of strings is always encoded
	}
	return string(text)
}

// Staging is what is to be written on a gang's PodGroup of the copies that it waits for, and
// whether that is not there yet. Nothing changes while the gang is held back for a moment.
func (s *Session) Staging(g *snapshot.Gang) (text string, changed bool) {
	if g.Staging == "" && len(g.Data) == 0 || g.Plain || g.Native || g.Absent || g.Hold != "" {
		return "", false
	}
	if u := s.Waits(g); u != nil {
		text = u.Staging
	}
	return text, text != g.Staging
}
