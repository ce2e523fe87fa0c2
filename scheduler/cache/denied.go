package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kcache "k8s.io/client-go/tools/cache"
)

// vital are the kinds without which nothing may be decided: what is free, what waits
// for it, and who comes first. Every other that may not be read is taken as not served.
var vital = []string{
	"nodes", "namespaces", "pods", "priorityclasses.scheduling.k8s.io", "podgroups.scheduling.volcano.sh", "queues.scheduling.volcano.sh",
}

// Rights says what the cache may read. A kind is named with its group after a dot.
type Rights interface {
	// Denied reports whether a kind may not be listed and watched, by the last answer.
	Denied(kind string) bool
	// Refresh asks again for all that was denied and blocks until it is answered.
	Refresh(ctx context.Context)
}

// followed is a kind that is watched.
type followed struct {
	resource string
	synced   kcache.InformerSynced
}

// follow has the cache told of a kind, from when its informer is started on.
func (k kind) follow() (followed, error) {
	if err := k.informer.SetWatchErrorHandlerWithContext(Quietly); err != nil {
		return followed{}, fmt.Errorf("set error handler: %w", err)
	}
	reg, err := k.informer.AddEventHandler(handler(k.set, k.del))
	if err != nil {
		return followed{}, fmt.Errorf("add handler: %w", err)
	}
	return followed{k.resource, reg.HasSynced}, nil
}

// Quietly is an informer's handler of errors. It leaves what is denied to whoever looks after rights: it is asked for again
// from time to time (Rights.Refresh).
func Quietly(ctx context.Context, r *kcache.Reflector, err error) {
	if !apierrors.IsForbidden(err) {
		kcache.DefaultWatchErrorHandler(ctx, r, err)
	}
}

func (c *Cache) denied(kind string) bool { return c.Rights != nil && c.Rights.Denied(kind) }

// handedOver returns once all kinds were handed over, but for those that may not be read
// and can be done without. Those that may not be read are asked for again when the others
// are there: a server that denies the one for a moment denies all.
func (c *Cache) handedOver(sync context.Context, all []followed) error {
	wait := func(without bool) error {
		var waits []kcache.InformerSynced
		for _, f := range all {
			optional := !slices.Contains(vital, f.resource)
			if optional && without {
				waits = append(waits, func() bool { return f.synced() || c.denied(f.resource) })
			} else if !optional {
				waits = append(waits, f.synced)
			}
		}
		if kcache.WaitForCacheSync(sync.Done(), waits...) {
			return nil
		}
		var lacks []string
		for _, f := range all {
			if f.synced() {
				continue
			}
			lack := f.resource
			if c.denied(f.resource) {
				lack += " (no right to list and watch them)"
			}
			lacks = append(lacks, lack)
		}
		return fmt.Errorf("list the cluster: not listed are %s: %w", strings.Join(lacks, ", "), context.Cause(sync))
	}
	if err := wait(false); err != nil {
		return err
	}
	if c.Rights != nil && len(all) > 0 {
		c.Rights.Refresh(sync)
	}
	return wait(true)
}

// Blind says which of the kinds that nothing may be decided without can no longer be
// followed, "" for none: what is known of them is out of date.
func (c *Cache) Blind() string {
	var out []string
	for _, kind := range vital {
		if c.denied(kind) {
			out = append(out, kind)
		}
	}
	return strings.Join(out, ", ")
}

// Guard has pods that a disruption budget covers left alone for a reason, "" for none.
func (c *Cache) Guard(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.guarded != why {
		c.guarded = why
		c.touchGangs()
	}
}
