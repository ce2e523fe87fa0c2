package cache

import (
	"slices"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// budget is a PodDisruptionBudget.
type budget struct {
	uid      string
	selector labels.Selector
	text     string // of the selector
	allowed  int64
}

// SetBudget takes in a disruption budget.
func (c *Cache) SetBudget(p *policyv1.PodDisruptionBudget) {
	selector, err := metav1.LabelSelectorAsSelector(p.Spec.Selector)
	if err != nil {
		selector = labels.Nothing() // the API server admits none such
	}
	b := &budget{uid: string(p.UID), selector: selector, text: selector.String(), allowed: int64(p.Status.DisruptionsAllowed)}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.budgets[p.Namespace][p.Name]
	if old != nil && old.text == b.text && old.allowed == b.allowed && old.uid == b.uid {
		return
	}
	if c.budgets[p.Namespace] == nil {
		c.budgets[p.Namespace] = map[string]*budget{}
	}
	c.budgets[p.Namespace][p.Name] = b
	if old == nil || old.text != b.text {
		c.anew.namespace(p.Namespace)
	}
	c.signal()
}

// DeleteBudget forgets a disruption budget.
func (c *Cache) DeleteBudget(p *policyv1.PodDisruptionBudget) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.budgets[p.Namespace][p.Name]; b != nil && b.uid == string(p.UID) {
		if delete(c.budgets[p.Namespace], p.Name); len(c.budgets[p.Namespace]) == 0 {
			delete(c.budgets, p.Namespace)
		}
		c.anew.namespace(p.Namespace)
		c.signal()
	}
}

// budgetsOf names the budgets that cover a pod, in order.
func (c *Cache) budgetsOf(e *podEntry) []string {
	var out []string
	for name, b := range c.budgets[e.pod.Namespace] {
		if b.selector.Matches(labels.Set(e.labels)) {
			out = append(out, e.pod.Namespace+"/"+name)
		}
	}
	slices.Sort(out)
	return out
}

func (c *Cache) allBudgets() []snapshot.Budget {
	var out []snapshot.Budget
	for namespace, budgets := range c.budgets {
		for name, b := range budgets {
			out = append(out, snapshot.Budget{Name: namespace + "/" + name, Allowed: b.allowed})
		}
	}
	return out
}
