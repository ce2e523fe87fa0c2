package config

import (
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/rescheduling"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Names of arguments of plugin rescheduling; moveLabels is before a label's.
const (
	strategies = "strategies"
	moveLabels = "labelSelector."
)

func isStrategies(v any) error {
	_, err := rescheduling.ParseStrategies(v)
	return err //nolint:wrapcheck // the package says what is wrong with the list
}

func makeRescheduling(p Plugin) framework.Plugin {
	a := p.Arguments
	how := rescheduling.LowUse()
	if v, ok := a[strategies]; ok {
		if said, err := rescheduling.ParseStrategies(v); err == nil { // read checked it
			how = said
		}
	}
	out := rescheduling.Plugin{
		Interval: a.Duration("interval", 5*time.Minute), Fresh: a.Duration("metricsPeriod", 5*time.Minute),
		Under: how.Under, Over: how.Over, LowPriorityFirst: how.LowPriorityFirst,
		Queues: get(a, "queueSelector", []string(nil)),
	}
	if names := a.Names(moveLabels); len(names) > 0 || how.Below != "" {
		out.Only = &snapshot.Picks{Below: how.Below}
		for _, name := range names {
			if out.Only.Labels == nil {
				out.Only.Labels = map[string]string{}
			}
			out.Only.Labels[strings.TrimPrefix(name, moveLabels)] = a.Text(name, "")
		}
	}
	return out
}
