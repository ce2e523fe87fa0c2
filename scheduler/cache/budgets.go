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
	uid, namespace string
	selector       labels.Selector
	text           string // of the selector
	allowed        int64
}

// SetBudget takes in a disruption budget.
func (c *Cache) SetBudget(p *policyv1.PodDisruptionBudget) {
	selector, err := metav1.LabelSelectorAsSelector(p.Spec.Selector)
	if err != nil {
		selector = labels.Nothing() // the API server admits none such
	}
	b := &budget{uid: string(p.UID), namespace: p.Namespace, selector: selector, text: selector.String(), allowed: int64(p.Status.DisruptionsAllowed)}
	key := p.Namespace + "/" + p.Name
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.budgets[key]
	if old != nil && old.text == b.text && old.allowed == b.allowed && old.uid == b.uid {
		return
	}
	c.budgets[key] = b
	if old == nil || old.text != b.text {
		c.touchNamespace(p.Namespace)
	}
	c.signal()
}

// DeleteBudget forgets a disruption budget.
func (c *Cache) DeleteBudget(p *policyv1.PodDisruptionBudget) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := p.Namespace + "/" + p.Name
	if b := c.budgets[key]; b != nil && b.uid == string(p.UID) {
		delete(c.budgets, key)
		c.touchNamespace(p.Namespace)
		c.signal()
	}
}

func (c *Cache) touchNamespace(namespace string) {
	for _, e := range c.pods {
		if e.pod.Namespace == namespace {
			c.touch(e)
		}
	}
}

// budgetsOf names the budgets that cover a pod, in order.
func (c *Cache) budgetsOf(e *podEntry) []string {
	var out []string
	for key, b := range c.budgets {
		if b.namespace == e.pod.Namespace && b.selector.Matches(labels.Set(e.labels)) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

func (c *Cache) allBudgets() []snapshot.Budget {
	out := make([]snapshot.Budget, 0, len(c.budgets))
	for key, b := range c.budgets {
		out = append(out, snapshot.Budget{Name: key, Allowed: b.allowed})
	}
	return out
}
