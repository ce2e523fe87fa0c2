// Package extender filters and scores nodes by what a program of the
// administrator's said of them over HTTP: Volcano's extender, with its verbs
// predicate and prioritize. A cycle asks nobody: the answers are part of the
// snapshot, and pods that nobody has been asked about wait and say so.
package extender

import (
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin filters and scores nodes. It is configuration alone.
type Plugin struct {
	// URL is what the verbs are appended to. A verb that is "" is not asked.
	URL, Predicate, Prioritize string
	// Timeout bounds each request.
	Timeout time.Duration
	// Ignorable has pods placed as if there were no extender when it does not answer.
	Ignorable bool
	// Managed are the resources that it is asked about: pods that ask for none of
	// them do not concern it. None is all pods.
	Managed []string
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "extender" }

// Manages reports whether the extender is asked about a class.
func (p Plugin) Manages(c *snapshot.Class) bool {
	if p.Predicate == "" && p.Prioritize == "" {
		return false
	}
	return len(p.Managed) == 0 || slices.ContainsFunc(p.Managed, func(name string) bool { return c.Requests.Get(name) > 0 })
}

// Open gives the plugin what was said.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	c := cycle{Plugin: p, said: make(map[string]*snapshot.Opinion, len(s.Snapshot.Opinions))}
	for i := range s.Snapshot.Opinions {
		c.said[s.Snapshot.Opinions[i].Class] = &s.Snapshot.Opinions[i]
	}
	return c
}

// cycle is the plugin in one cycle.
type cycle struct {
	Plugin
	said map[string]*snapshot.Opinion
}

// Unasked is why pods wait that the extender was not asked about yet.
const Unasked = "the extender has not said anything of it yet"

// Filter rules out what the extender does.
func (c cycle) Filter(class *snapshot.Class, n *snapshot.Node) string {
	if !c.Manages(class) {
		return ""
	}
	o := c.said[class.Key]
	switch {
	case o == nil:
		return Unasked
	case o.Failed != "" && c.Ignorable:
		return ""
	case o.Failed != "":
		return "the extender did not answer: " + o.Failed
	}
	said, ok := o.On(n.Name)
	if !ok {
		return Unasked
	}
	return said.Why
}

// Score is the extender's.
func (c cycle) Score(class *snapshot.Class, n *snapshot.Node) int64 {
	if o := c.said[class.Key]; o != nil && c.Manages(class) {
		said, _ := o.On(n.Name)
		return said.Score
	}
	return 0
}
