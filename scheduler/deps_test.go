package scheduler_test

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/test/importrules"
)

// pure are the packages that decide: rings 0 and 1.
var pure = []string{
	"./scheduler/resource", "./scheduler/snapshot", "./scheduler/plan", "./scheduler/gputopology", "./scheduler/gpushare", "./scheduler/entitlement", "./scheduler/estimate", "./scheduler/fairshare", "./scheduler/fill",
	"./scheduler/framework", "./scheduler/whatif", "./scheduler/actions", "./scheduler/plugins",
}

// edges are the packages with I/O.
var edges = []string{"./scheduler/cache", "./scheduler/binder", "./scheduler/driver", "./scheduler/memory", "./scheduler/measure", "./scheduler/extend", "./scheduler/grants"}

func TestImports(t *testing.T) {
	rules := []importrules.Rule{
		{
			From: []string{"./scheduler", "./cmd/scheduler"},
			Ban:  []string{"./provider", "./backends"},
			Why:  "the scheduler and the provider meet only in API objects and in controllers/api",
		},
		{
			From: []string{"./scheduler"}, Except: edges,
			Ban: append([]string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime", "volcano.sh/apis/pkg/client"}, edges...),
			Why: "decisions are pure: no client and no way to one",
		},
		{
			From: []string{"./scheduler"}, Except: edges, Direct: true, Ban: []string{"github.com/prometheus"},
			Why: "decisions count nothing; Kubernetes' library for expressions, which the allocator of devices needs, has counters of its own",
		},
		{
			From: []string{"./scheduler/claims"}, Direct: true, Ban: []string{"os", "os/exec", "net", "log", "sync", "math/rand", "github.com/go-logr/logr", "./scheduler"},
			Why: "what pods can claim depends on the objects alone; the allocator of devices wants a context, which nothing is read from",
		},
		{
			From: pure, Direct: true,
			Ban: []string{"os", "os/exec", "net", "log", "context", "sync", "math/rand", "github.com/go-logr/logr"},
			Why: "a decision depends on its input alone: no environment, no log, no goroutine, no randomness",
		},
		{
			From: pure[:4],
			Ban:  []string{"./scheduler/framework", "./scheduler/actions", "./scheduler/plugins"},
			Why:  "leaves know nothing of what decides over them",
		},
		{
			From: []string{"./scheduler/config"}, Direct: true, Ban: []string{"os", "os/exec", "net", "log", "context", "sync", "math/rand"},
			Why: "a configuration is text in and data out",
		},
		{
			From: []string{"./scheduler/framework", "./scheduler/whatif"}, Ban: []string{"./scheduler/actions", "./scheduler/plugins"},
			Why: "the framework knows extension points, not extensions",
		},
		{
			From: append([]string{"./cmd/scheduler"}, edges...), Ban: []string{"./scheduler/schedtest"},
			Why: "test support is never linked into a program",
		},
	}
	for folder, names := range map[string][]string{
		"./scheduler/actions/": {"enqueue", "allocate", "backfill", "elastic", "preempt", "reclaim", "repair", "consolidate", "shuffle"},
		"./scheduler/plugins/": {"priority", "gang", "sla", "proportion", "capacity", "drf", "nodegroup", "overcommit", "predicates", "locality", "binpack", "nodeorder", "strategyfit", "deviceshare", "fairshare", "resourcequota", "tdm", "networktopology", "usage", "tasktopology", "extender", "numaaware", "rescheduling"},
	} {
		for _, name := range names {
			var siblings []string
			for _, other := range names {
				if other != name {
					siblings = append(siblings, folder+other)
				}
			}
			rules = append(rules, importrules.Rule{From: []string{folder + name}, Ban: siblings, Why: "an action or plugin is one folder: siblings never import each other"})
		}
	}
	importrules.Check(t, []string{importrules.Module + "/scheduler/...", importrules.Module + "/cmd/scheduler"}, rules)
}
