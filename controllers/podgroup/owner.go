package podgroup

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Owner is what matters of an object that controls pods.
type Owner struct {
	Kind        string
	UID         types.UID
	Annotations map[string]string
	// Most is how many of its pods there can be at a time, -1 when nobody knows.
	Most int32
	// OneByOne says that it makes a pod only when the one before is ready.
	OneByOne bool
	// Keeps says that it stays when it has no pods any more, with nothing to run.
	Keeps bool
}

// kinds are the owners that are read; the pods of others speak for them.
func kinds() []client.Object {
	return []client.Object{&appsv1.ReplicaSet{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &batchv1.Job{}}
}

// blank is an object of the owner's kind to read it into, nil for a kind that is
// not read.
func blank(ref *metav1.OwnerReference) client.Object {
	switch ref.APIVersion + " " + ref.Kind {
	case "apps/v1 ReplicaSet":
		return &appsv1.ReplicaSet{}
	case "apps/v1 StatefulSet":
		return &appsv1.StatefulSet{}
	case "apps/v1 DaemonSet":
		return &appsv1.DaemonSet{}
	case "batch/v1 Job":
		return &batchv1.Job{}
	}
	return nil
}

func ownerOf(o client.Object) *Owner {
	out := &Owner{UID: o.GetUID(), Annotations: o.GetAnnotations(), Most: -1}
	replicas := func(n *int32) {
		out.Most = 1
		if n != nil {
			out.Most = *n
		}
		out.Keeps = true
	}
	switch o := o.(type) {
	case *appsv1.ReplicaSet:
		out.Kind = "ReplicaSet"
		replicas(o.Spec.Replicas)
	case *appsv1.StatefulSet:
		out.Kind = "StatefulSet"
		replicas(o.Spec.Replicas)
		out.OneByOne = o.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	case *appsv1.DaemonSet:
		out.Kind = "DaemonSet"
		if o.Status.ObservedGeneration > 0 {
			out.Most = o.Status.DesiredNumberScheduled
		}
	case *batchv1.Job:
		out.Kind = "Job"
		out.Most = 1
		if o.Spec.Parallelism != nil {
			out.Most = *o.Spec.Parallelism
		}
		if o.Spec.Completions != nil {
			out.Most = min(out.Most, *o.Spec.Completions)
		}
	}
	return out
}

// Caching is how a manager's cache is to hold the owners: those of the whole
// cluster are in it, for what few of their fields are read.
func Caching() map[client.Object]cache.ByObject {
	out := map[client.Object]cache.ByObject{}
	for _, kind := range kinds() {
		out[kind] = cache.ByObject{Transform: slim}
	}
	return out
}

// slim drops from an owner what this controller does not read.
func slim(o any) (any, error) {
	switch o := o.(type) {
	case *appsv1.ReplicaSet:
		o.ManagedFields, o.Spec.Template, o.Status = nil, corev1.PodTemplateSpec{}, appsv1.ReplicaSetStatus{}
	case *appsv1.StatefulSet:
		o.ManagedFields, o.Spec.Template, o.Spec.VolumeClaimTemplates, o.Status = nil, corev1.PodTemplateSpec{}, nil, appsv1.StatefulSetStatus{}
	case *appsv1.DaemonSet:
		o.ManagedFields, o.Spec.Template = nil, corev1.PodTemplateSpec{}
	case *batchv1.Job:
		o.ManagedFields, o.Spec.Template, o.Status = nil, corev1.PodTemplateSpec{}, batchv1.JobStatus{}
	default:
		return nil, fmt.Errorf("slim: %T is no owner that is read", o)
	}
	return o, nil
}
