package config

import (
	"errors"
	"fmt"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// ProfileSpec is what a queue's profile asks for, as it is written.
type ProfileSpec struct {
	Name string
	// Actions that make room for the queue's gangs; nil is all.
	Actions []string
	Plugins []ProfilePlugin
}

// ProfilePlugin is a plugin of a profile, with its arguments as text.
type ProfilePlugin struct {
	Name      string
	Arguments map[string]string
}

// Profile makes a profile of what is asked for, as strictly as Parse. Plugins
// that are always asked are part of it even when it does not name them.
func Profile(spec ProfileSpec) (framework.Profile, []string, error) {
	r := &reader{}
	out := framework.Profile{Name: spec.Name}
	if spec.Actions != nil {
		out.Actions = []string{"enqueue", "allocate"}
	}
	for i, name := range spec.Actions {
		switch e := actionOf(name); {
		case e == nil:
			r.wrong(fmt.Sprintf("spec.actions[%d]", i), "no action is named %q", name)
		case e.make == nil:
			r.unused(fmt.Sprintf("spec.actions[%d]", i), fmt.Sprintf("action %q", name), "")
		default:
			// The scheduler's configuration may name its twin.
			if e.twin != "" {
				out.Actions = append(out.Actions, e.twin)
			}
			out.Actions = append(out.Actions, name)
		}
	}
	var tier []Plugin
	for i, p := range spec.Plugins {
		path := fmt.Sprintf("spec.plugins[%d]", i)
		e := pluginOf(p.Name)
		if e == nil {
			r.wrong(path+".name", "no plugin is named %q", p.Name)
			continue
		}
		if p.Name == "proportion" || p.Name == "capacity" {
			r.wrong(path+".name", "%s says how queues share the cluster, which is no matter of one queue", p.Name)
			continue
		}
		if p.Name == "extender" {
			r.wrong(path+".name", "an extender is asked about the pods of all queues: name it in the scheduler's configuration")
			continue
		}
		if _, given := p.Arguments[halfLife.name]; given {
			r.wrong(path+".arguments", "%s is for all queues: the scheduler's configuration says it", halfLife.name)
			continue
		}
		if e.make == nil && !e.implied {
			r.unused(path, fmt.Sprintf("plugin %q", p.Name), e.why)
		}
		given := map[string]any{}
		for k, v := range p.Arguments {
			given[k] = v
		}
		tier = append(tier, Plugin{Name: p.Name, Switches: map[string]bool{}, Arguments: r.arguments(path+".arguments", p.Name, given, e.arguments, e.make != nil)})
	}
	if len(tier) > 0 {
		out.Plugins = Config{Tiers: [][]Plugin{tier}}.Pipeline().Plugins
	}
	return out, r.warnings, errors.Join(r.errs...)
}
