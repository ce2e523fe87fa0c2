// Package resourcequota keeps PodGroups pending whose minimum their namespace's
// ResourceQuotas have no room for: the API server would refuse their pods. It reserves
// nothing.
package resourcequota

import (
	"fmt"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin keeps to quotas. It holds no state.
type Plugin struct{}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "resourcequota" }

// Open looks at the quotas, and at the gangs that were let in and have no pods yet, of
// which the API server knows nothing.
func (Plugin) Open(s *framework.Session) framework.Plugin {
	c := &cycle{quotas: map[string][]snapshot.Quota{}, coming: map[string]map[string]int64{}}
	for _, q := range s.Snapshot.Quotas {
		c.quotas[q.Namespace] = append(c.quotas[q.Namespace], q)
	}
	for _, g := range s.Snapshot.Gangs {
		if g.Status.Phase == snapshot.GroupInqueue && len(g.Pods) == 0 {
			c.comes(g)
		}
	}
	return c
}

// cycle is the plugin in one cycle.
type cycle struct {
	Plugin
	quotas map[string][]snapshot.Quota // by namespace
	// coming is what gangs without pods will ask for, by namespace and name in a quota.
	coming map[string]map[string]int64
}

// Refuse keeps a gang out whose minimum is more than a quota has left. Whom it lets in
// counts.
func (c *cycle) Refuse(g *snapshot.Gang) *plan.Unschedulable {
	for _, q := range c.quotas[g.Namespace] {
		for _, hard := range q.Hard {
			need := needs(g, hard.Name)
			coming := c.coming[g.Namespace][hard.Name]
			used := q.Used.Get(hard.Name)
			if need <= 0 || resource.Add(resource.Add(used, coming), need) <= hard.Amount {
				continue
			}
			amount := func(v int64) string { return plan.Amount(snapshot.QuotaBase(hard.Name), v) }
			return &plan.Unschedulable{Code: plan.NamespaceQuota, Message: fmt.Sprintf("ResourceQuota %q allows namespace %s %s %s, of which %s are used and %s will be by gangs that were let in; the gang's minimum is %s",
				q.Name, g.Namespace, amount(hard.Amount), hard.Name, amount(used), amount(coming), amount(need))}
		}
	}
	c.comes(g)
	return nil
}

func (c *cycle) comes(g *snapshot.Gang) {
	for _, q := range c.quotas[g.Namespace] {
		if c.coming[g.Namespace] == nil {
			c.coming[g.Namespace] = map[string]int64{}
		}
		for _, hard := range q.Hard {
			of := c.coming[g.Namespace]
			if q.Name == c.first(g.Namespace, hard.Name) { // several quotas may count one name
				of[hard.Name] = resource.Add(of[hard.Name], needs(g, hard.Name))
			}
		}
	}
}

// first names the first quota of a namespace that counts something.
func (c *cycle) first(namespace, name string) string {
	for _, q := range c.quotas[namespace] {
		for _, hard := range q.Hard {
			if hard.Name == name {
				return q.Name
			}
		}
	}
	return ""
}

// needs is what a gang's minimum comes to under a name of a quota. What it does not
// declare is not guessed, but for the number of its pods.
func needs(g *snapshot.Gang, name string) int64 {
	get := g.MinResources.Get
	switch {
	case name == "pods" || name == "count/pods":
		return max(get("pods"), get("count/pods"), g.Minimum())
	case strings.HasPrefix(name, "limits."):
		return get(name)
	}
	base := snapshot.QuotaBase(name)
	return max(get(base), get("requests."+base))
}
