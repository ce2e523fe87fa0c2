package binder

import (
	"context"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
)

// doubt asks the API server what became of a binding that it accepted and that the watch
// has not shown for long. The watch may be far behind while writes are answered: a pod that
// is taken to be unbound then would have its room given to another. Without an answer it
// goes on to count and is asked about again.
func (b *Binder) doubt(ctx context.Context, d cache.Doubt) bool {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p, err := b.live(call, d.Namespace, d.Name)
	log := logr.FromContextOrDiscard(ctx).WithValues("pod", d.Namespace+"/"+d.Name, "podUID", d.UID, "node", d.Node)
	switch {
	case apierrors.IsNotFound(err), err == nil && string(p.UID) != d.UID:
		b.Cache.Dismiss(d)
	case err != nil:
		log.V(1).Info("what became of a binding is not known; it goes on to count", "reason", err.Error())
		b.Cache.Trust(d, b.Now().Add(lastRetry))
	case p.Spec.NodeName == "":
		log.Info("a binding was accepted and is not there; it no longer counts")
		b.Cache.Dismiss(d)
	case p.Spec.NodeName == d.Node:
		b.Cache.Trust(d, b.Now().Add(confirmWithin))
	default:
		b.Cache.Correct(p) // what a live read says is no older than what we assume
	}
	return true
}
