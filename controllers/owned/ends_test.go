package owned_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-hpc/isthmus/controllers/owned"
)

// ending is how an API server refuses to make something in a namespace that is being deleted.
func ending() error {
	err := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "p", errors.New("because it is being terminated"))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	return err
}

// TestNamespaceEnds: it is no error that a namespace is being deleted, and said once for each;
// what else fails, alone or beside that, is one.
func TestNamespaceEnds(t *testing.T) {
	var err error
	said, errs := 0, 0
	log := funcr.New(func(string, string) { said++ }, funcr.Options{})
	r := owned.WhileNamespaceLasts(reconcile.Func(func(context.Context, reconcile.Request) (reconcile.Result, error) {
		return reconcile.Result{RequeueAfter: 1}, err
	}))
	call := func(namespace string) reconcile.Result {
		result, err := r.Reconcile(logr.NewContext(t.Context(), log), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: "x"}})
		if err != nil {
			errs++
		}
		return result
	}
	if got := call("a"); got.RequeueAfter != 1 || said+errs > 0 {
		t.Errorf("a success becomes %v, said %d, %d errors", got, said, errs)
	}
	for _, err = range []error{ending(), fmt.Errorf("create pod p: %w", ending()), errors.Join(nil, ending(), fmt.Errorf("create: %w", ending()))} {
		for _, namespace := range []string{"a", "b"} {
			if got := call(namespace); got.RequeueAfter < 1e9 {
				t.Errorf("%v: comes again after %v", err, got)
			}
		}
	}
	if said != 2 || errs != 0 {
		t.Errorf("said %d times of two namespaces, %d errors", said, errs)
	}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "p", errors.New("a policy says no"))
	for _, err = range []error{forbidden, errors.Join(ending(), forbidden), fmt.Errorf("all: %w", errors.Join(forbidden, ending()))} {
		call("c")
	}
	if said != 2 || errs != 3 {
		t.Errorf("of others: said %d times more, %d errors", said-2, errs)
	}
}
