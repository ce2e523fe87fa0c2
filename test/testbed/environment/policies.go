package environment

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// waitPolicies waits until the admission policies know the kinds that they change: the
// API server learns the fields of new definitions some seconds after it serves them,
// and refuses to create objects meanwhile.
func (e *Environment) waitPolicies(ctx context.Context) error {
	return await(ctx, time.Minute, func(ctx context.Context) error {
		for _, kind := range []schema.GroupVersionKind{
			{Group: "batch.volcano.sh", Version: "v1alpha1", Kind: "Job"},
			{Group: "scheduling.volcano.sh", Version: "v1beta1", Kind: "PodGroup"},
		} {
			object := &unstructured.Unstructured{}
			object.SetGroupVersionKind(kind)
			object.SetNamespace("default")
			object.SetName("policies")
			if err := e.client.Create(ctx, object, client.DryRunAll); apierrors.IsServiceUnavailable(err) {
				return err // any other answer comes after the policies
			}
		}
		return nil
	})
}
