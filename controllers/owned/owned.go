// Package owned is for controllers whose objects own others: it finds these by their
// owner, and makes and deletes Jobs that something owns.
package owned

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// By is the owner that controls an object, nil unless it is of that kind and version.
func By(o metav1.Object, kind schema.GroupVersionKind) *metav1.OwnerReference {
	owner := metav1.GetControllerOfNoCopy(o)
	if owner == nil || owner.Kind != kind.Kind || owner.APIVersion != kind.GroupVersion().String() {
		return nil
	}
	return owner
}

// Name is the name of an owner, for Index.
func Name(owner *metav1.OwnerReference) string { return owner.Name }

// UID is the UID of an owner, for Index.
func UID(owner *metav1.OwnerReference) string { return string(owner.UID) }

// Index has the manager's cache find objects of a type under a key of the owner of that
// kind which controls them; index names it in client.MatchingFields.
func Index(ctx context.Context, mgr ctrl.Manager, objects client.Object, index string, kind schema.GroupVersionKind, key func(*metav1.OwnerReference) string) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, objects, index, func(o client.Object) []string {
		owner := By(o, kind)
		if owner == nil {
			return nil
		}
		return []string{key(owner)}
	})
	if err != nil {
		return fmt.Errorf("index %T by %s: %w", objects, kind.Kind, err)
	}
	return nil
}
