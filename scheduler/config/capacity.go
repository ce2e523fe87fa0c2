package config

import (
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/capacity"
)

// makeCapacity has queues below their parents unless something says that they are not,
// be it the switch, as in Volcano, or the argument.
func makeCapacity(p Plugin) framework.Plugin {
	out := capacity.Plugin{Flat: !p.On("enableHierarchy") || !p.Arguments.Bool("enableHierarchy", true)}
	if n := p.Arguments.Int("ancestorReclaimLevel", -1); n >= 0 {
		out.Levels = &n
	}
	return out
}
