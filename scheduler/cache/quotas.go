package cache

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// quota is a ResourceQuota.
type quota struct {
	uid string
	snapshot.Quota
}

// SetQuota takes in a ResourceQuota. One with scopes counts only some pods, and who
// that will be is not known before they exist: it is the API server's business alone.
func (c *Cache) SetQuota(q *corev1.ResourceQuota) {
	key := q.Namespace + "/" + q.Name
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil {
		if c.quotas[key] != nil {
			delete(c.quotas, key)
			c.signal()
		}
		return
	}
	now := &quota{uid: string(q.UID), Quota: snapshot.Quota{Namespace: q.Namespace, Name: q.Name}}
	for name, a := range q.Spec.Hard {
		now.Hard = append(now.Hard, resource.Quantity{Name: string(name), Amount: resource.Offered(snapshot.QuotaBase(string(name)), a)})
	}
	for name, a := range q.Status.Used {
		now.Used = append(now.Used, resource.Quantity{Name: string(name), Amount: resource.Requested(snapshot.QuotaBase(string(name)), a)})
	}
	now.Hard, now.Used = resource.MakeList(now.Hard...), resource.MakeList(now.Used...)
	if old := c.quotas[key]; old != nil && reflect.DeepEqual(old, now) {
		return
	}
	c.quotas[key] = now
	c.signalLater() // it is about gangs that are not let in yet
}

// DeleteQuota forgets a ResourceQuota.
func (c *Cache) DeleteQuota(q *corev1.ResourceQuota) {
	key := q.Namespace + "/" + q.Name
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.quotas[key]; old != nil && old.uid == string(q.UID) {
		delete(c.quotas, key)
		c.signal()
	}
}

func (c *Cache) allQuotas() []snapshot.Quota {
	out := make([]snapshot.Quota, 0, len(c.quotas))
	for _, q := range c.quotas {
		out = append(out, q.Quota)
	}
	return out
}
