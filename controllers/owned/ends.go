package owned

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// endsRetry is how long an object is left alone whose namespace is being deleted. It goes
	// with it, as a rule sooner; it is looked at again since what the API server goes by may
	// be of a namespace of that name that is gone.
	endsRetry = 15 * time.Second
	// endsTold is how long it is remembered that a namespace was told of.
	endsTold = time.Hour
)

// NamespaceEnds reports whether an error is that nothing can be made in a namespace, since
// it is being deleted: nobody has to be told, for its objects go with it. Of several errors
// joined each has to say so.
func NamespaceEnds(err error) bool {
	for one := err; one != nil; one = errors.Unwrap(one) {
		if all, ok := one.(interface{ Unwrap() []error }); ok {
			for _, each := range all.Unwrap() {
				if !NamespaceEnds(each) {
					return false
				}
			}
			return true
		}
	}
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// WhileNamespaceLasts is a reconciler for which it is no error that the namespace of an
// object is being deleted: the log says so once for the namespace.
func WhileNamespaceLasts(r reconcile.Reconciler) reconcile.Reconciler {
	told := map[string]time.Time{}
	var mu sync.Mutex
	first := func(namespace string) bool {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		for name, at := range told {
			if now.Sub(at) > endsTold {
				delete(told, name)
			}
		}
		_, known := told[namespace]
		told[namespace] = now
		return !known
	}
	return reconcile.Func(func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
		result, err := r.Reconcile(ctx, req)
		if err == nil || !NamespaceEnds(err) {
			return result, err
		}
		log := logr.FromContextOrDiscard(ctx)
		if !first(req.Namespace) {
			log = log.V(1)
		}
		log.Info("the namespace is being deleted: nothing more is made in it", "reason", err.Error())
		return reconcile.Result{RequeueAfter: endsRetry}, nil
	})
}
