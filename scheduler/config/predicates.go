package config

import (
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/predicates"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// makePredicates looks at everything but what is said not to be looked at.
func makePredicates(p Plugin) framework.Plugin {
	off := func(name string) bool { return !p.Arguments.Bool("predicate."+name+"Enable", true) }
	out := predicates.Plugin{AnyLabels: off("NodeAffinity"), AnyTaints: off("TaintToleration"), Overlooked: snapshot.Overlooked{
		Ports: off("NodePorts"), Affinity: off("PodAffinity"), Spread: off("PodTopologySpread"),
		Claims: claims.Overlooked{Volumes: off("VolumeBinding"), Zones: off("VolumeZone"), Limits: off("NodeVolumeLimits"), Devices: off("DynamicResourceAllocation")},
	}}
	if !p.On("enablePredicate") {
		out.Overlooked = snapshot.Overlooked{Ports: true, Affinity: true, Spread: true, Claims: claims.Overlooked{Volumes: true, Zones: true, Limits: true, Devices: true}}
	}
	return out
}

// ClaimsWithin is how long a gang whose place is found waits for its volumes before the
// place is given up; 0 is as without a configuration.
func (c Config) ClaimsWithin() time.Duration {
	for _, tier := range c.Tiers {
		for _, p := range tier {
			if p.Name == "predicates" {
				return time.Duration(min(p.Arguments.Int(claimsWithin.name, 0), maxSeconds)) * time.Second
			}
		}
	}
	return 0
}

// maxSeconds bounds times that are written as seconds: a year.
const maxSeconds = 365 * 24 * 3600
