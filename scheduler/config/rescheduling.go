package config

import (
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/rescheduling"
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

// unservedStrategies says why nobody is moved by the strategies, "" when some may be.
func unservedStrategies(v any) string {
	said, err := rescheduling.ParseStrategies(v)
	if err != nil {
		return ""
	}
	return said.Unserved
}

func makeRescheduling(p Plugin) framework.Plugin {
	a := p.Arguments
	how := rescheduling.LowUse()
	if v, ok := a[strategies]; ok {
		if said, err := rescheduling.ParseStrategies(v); err == nil { // read checked it
			how = said
		}
	}
	return rescheduling.Plugin{
		Interval: a.Duration("interval", 5*time.Minute), Fresh: a.Duration("metricsPeriod", 5*time.Minute),
		Under: how.Under, Over: how.Over, LowPriorityFirst: how.LowPriorityFirst,
		Queues: get(a, "queueSelector", []string(nil)), Nobody: len(a.Names(moveLabels)) > 0 || how.Unserved != "",
	}
}
