package config

import (
	"fmt"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// actionEntry is an action that is known; without make it is not used.
type actionEntry struct {
	name      string
	arguments []argument
	// twin is another name for the same, of which a configuration has one at the most.
	twin string
	// unnamed runs before all others when a configuration does not name the action.
	unnamed framework.Action
	// last says that it runs, after all others, when a configuration does not name it.
	last bool
	make func(Arguments) framework.Action
}

// pluginEntry is a plugin that is known; without make it is not used.
type pluginEntry struct {
	name      string
	arguments []argument
	// always says that it is asked when a configuration does not name it: what
	// it does is no matter of taste.
	always bool
	// implied says that something else does what the plugin does in Volcano.
	implied bool
	// measures says that the plugin needs measured loads of nodes.
	measures bool
	make     func(Plugin) framework.Plugin
	// why it is not used, without make.
	why string
}

// switchEntry is a switch that is known. Off, it turns off what a plugin does at its
// point. It is obeyed but for the plugins in kept, where what it would turn off is always
// done, for the reason in why; plugins that do nothing at its point have nothing that
// could be turned off.
type switchEntry struct {
	name string
	// used says that something can be turned off by it.
	used bool
	kept []string
	why  string
}

func actionOf(name string) *actionEntry {
	if i := slices.IndexFunc(actions, func(e actionEntry) bool { return e.name == name }); i >= 0 {
		return &actions[i]
	}
	return nil
}

func actionNames() []string {
	var out []string
	for _, e := range actions {
		out = append(out, e.name)
	}
	return out
}

func pluginOf(name string) *pluginEntry {
	if i := slices.IndexFunc(plugins, func(e pluginEntry) bool { return e.name == name }); i >= 0 {
		return &plugins[i]
	}
	return nil
}

func switchOf(name string) *switchEntry {
	if i := slices.IndexFunc(switches, func(e switchEntry) bool { return e.name == name }); i >= 0 {
		return &switches[i]
	}
	return nil
}

// named reports whether a configuration names the plugin.
func (p Plugin) named() bool { return p.Switches != nil }

// Pipeline makes what the configuration asks for, and what always runs.
func (c Config) Pipeline() framework.Pipeline {
	var out framework.Pipeline
	has := func(name string) bool {
		return slices.ContainsFunc(c.Actions, func(a Action) bool { return a.Name == name })
	}
	for _, e := range actions {
		if e.unnamed != nil && !has(e.name) {
			out.Actions = append(out.Actions, e.unnamed)
		}
	}
	for _, a := range c.Actions {
		if e := actionOf(a.Name); e != nil && e.make != nil {
			out.Actions = append(out.Actions, e.make(a.Arguments))
		}
	}
	named := map[string]bool{}
	for _, tier := range c.Tiers {
		for _, p := range tier {
			named[p.Name] = true
			if e := pluginOf(p.Name); e != nil && e.make != nil {
				out.Plugins = append(out.Plugins, muted(e.make(p), p))
			}
		}
	}
	for _, e := range plugins {
		if e.always && e.make != nil && !named[e.name] {
			out.Plugins = append(out.Plugins, e.make(Plugin{Name: e.name}))
		}
	}
	return out
}

// muted turns the extension points off that switches say.
func muted(pl framework.Plugin, p Plugin) framework.Plugin {
	m := framework.Muted{
		Plugin:      pl,
		GangOrder:   !p.On("enableJobOrder"),
		QueueOrder:  !p.On("enableQueueOrder"),
		Filter:      !p.On("enablePredicate"),
		DomainOrder: !p.On("enableNodeOrder") || !p.On("enableBestNode"),
		Domains:     !p.On("enabledHyperNodeOrder"),
		Admission:   !p.On("enableJobEnqueued"),
		Revoking:    !p.On("enabledVictim"),
		MemberOrder: !p.On("enableTaskOrder"),
	}
	off := m
	if off.Plugin = nil; off == (framework.Muted{}) {
		return pl
	}
	return m
}

// standard is built once: it cannot fail but by a mistake in this package.
var standard = func() framework.Pipeline {
	c, _, err := Parse([]byte(Standard))
	if err != nil {
		panic(fmt.Sprintf("the standard configuration: %v", err))
	}
	return c.Pipeline()
}()

// Default is the pipeline that runs without a configuration. The caller may
// append to its lists.
func Default() framework.Pipeline {
	return framework.Pipeline{Actions: slices.Clip(standard.Actions), Plugins: slices.Clip(standard.Plugins)}
}
