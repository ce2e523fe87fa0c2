package main

import (
	"github.com/isthmus-hpc/isthmus/scheduler/actions/allocate"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/elastic"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/enqueue"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/preempt"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/reclaim"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/binpack"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/drf"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/gang"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/locality"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/nodegroup"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/predicates"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/priority"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/proportion"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/sla"
)

// pipeline lists the actions in the order they run and the plugins in the order
// they are asked. A new one is a line here.
func pipeline() framework.Pipeline {
	return framework.Pipeline{
		Actions: []framework.Action{
			enqueue.Action{},
			allocate.Action{},
			elastic.Action{},
			preempt.Action{},
			reclaim.Action{},
		},
		Plugins: []framework.Plugin{
			priority.Plugin{},
			gang.Plugin{},
			sla.Plugin{},
			proportion.Plugin{},
			drf.Plugin{},
			predicates.Plugin{},
			nodegroup.Plugin{},
			locality.Plugin{},
			binpack.Plugin{},
		},
	}
}
