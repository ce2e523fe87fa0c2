package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// kubePods is PodAPI on a real API server. Each virtual node has an informer of
// its own, restricted to its pods by a field selector.
type kubePods struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	nodes    func() []string
	list     func() []*corev1.Pod
}

var _ PodAPI = (*kubePods)(nil)

func (k *kubePods) List() []*corev1.Pod { return k.list() }

func (k *kubePods) ListLive(ctx context.Context) ([]*corev1.Pod, error) {
	var out []*corev1.Pod
	for _, node := range k.nodes() {
		list, err := k.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(),
		})
		if err != nil {
			return nil, fmt.Errorf("list pods of node %s: %w", node, err)
		}
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
	}
	return out, nil
}

func (k *kubePods) WriteIntent(ctx context.Context, pod *corev1.Pod, key backends.Key) (*corev1.Pod, error) {
	finalizers := slices.Clone(pod.Finalizers)
	if !slices.Contains(finalizers, wellknown.FinalizerBatchJob) {
		finalizers = append(finalizers, wellknown.FinalizerBatchJob)
	}
	patch := map[string]any{}
	if lasting, changed := outlasting(pod.Spec.Tolerations); changed {
		patch["spec"] = map[string]any{"tolerations": lasting}
	}
	return k.patch(ctx, pod, map[string]any{
		"annotations": map[string]any{wellknown.SubmitIntent: string(key)},
		"finalizers":  finalizers,
	}, patch)
}

// outlasting gives a pod's tolerations such that it outlasts its node's absence,
// however long that is. The API server adds 300 s to every pod; a node is absent
// when its daemon is, which says nothing of the batch job: that goes on, and its
// pod would be deleted, and the job with it, once the daemon is back. Of a
// toleration that is there Kubernetes lets only the seconds change. One without a key
// is for every taint, these two among them.
func outlasting(tolerations []corev1.Toleration) (out []corev1.Toleration, changed bool) {
	out = slices.Clone(tolerations)
	for i := range out {
		t := &out[i]
		absent := t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable || t.Key == ""
		if absent && t.Effect == corev1.TaintEffectNoExecute && t.TolerationSeconds != nil {
			t.TolerationSeconds, changed = nil, true
		}
	}
	return out, changed
}

func (k *kubePods) Record(ctx context.Context, pod *corev1.Pod, id backends.JobID, user string) (*corev1.Pod, error) {
	return k.patchMeta(ctx, pod, map[string]any{
		"annotations": map[string]any{wellknown.BatchJobID: string(id), wellknown.BatchUser: user},
	})
}

// patchMeta writes metadata if the pod is still the version that was read.
func (k *kubePods) patchMeta(ctx context.Context, pod *corev1.Pod, meta map[string]any) (*corev1.Pod, error) {
	return k.patch(ctx, pod, meta, map[string]any{})
}

// patch writes metadata and what rest has beside it, only if the pod is still the
// version that was read.
func (k *kubePods) patch(ctx context.Context, pod *corev1.Pod, meta, rest map[string]any) (*corev1.Pod, error) {
	meta["uid"] = pod.UID
	meta["resourceVersion"] = pod.ResourceVersion
	rest["metadata"] = meta
	body, err := json.Marshal(rest)
	if err != nil {
		return nil, fmt.Errorf("encode patch of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	out, err := k.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, body, metav1.PatchOptions{})
	return written("patch", pod, out, err)
}

// patchFinalizers writes the finalizers of the very pod. A pod that is being
// deleted takes no new ones, so nothing can be lost; for another pod the version
// must match.
func (k *kubePods) patchFinalizers(ctx context.Context, pod *corev1.Pod, kept []string) (*corev1.Pod, error) {
	meta := map[string]any{"finalizers": kept}
	if pod.DeletionTimestamp == nil {
		return k.patchMeta(ctx, pod, meta)
	}
	meta["uid"] = pod.UID
	body, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return nil, fmt.Errorf("encode patch of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	out, err := k.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, body, metav1.PatchOptions{})
	return written("patch", pod, out, err)
}

func (k *kubePods) PatchStatus(ctx context.Context, pod *corev1.Pod, patch []byte) (*corev1.Pod, error) {
	out, err := k.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{}, "status")
	return written("patch status of", pod, out, err)
}

func (k *kubePods) Forget(ctx context.Context, pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil {
		// Before the finalizer goes: a crash between the two is then seen by it.
		err := k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{UID: &pod.UID},
		})
		if err = podError("delete", pod, err); isGone(err) || isConflict(err) {
			return nil // another pod has the name by now
		} else if err != nil {
			return err
		}
	}
	kept := slices.DeleteFunc(slices.Clone(pod.Finalizers), func(f string) bool { return f == wellknown.FinalizerBatchJob })
	if len(kept) == len(pod.Finalizers) {
		return nil
	}
	if kept == nil {
		kept = []string{}
	}
	// The finalizers may have changed with the deletion, so only the UID counts.
	_, err := k.patchFinalizers(ctx, pod, kept)
	if isGone(err) {
		return nil
	}
	return err
}

func (k *kubePods) Event(pod *corev1.Pod, eventType, reason, message string) {
	k.recorder.Event(pod, eventType, reason, message)
}

// written gives nothing with an error: the client gives an empty pod then.
func written(verb string, pod, out *corev1.Pod, err error) (*corev1.Pod, error) {
	if err != nil {
		return nil, podError(verb, pod, err)
	}
	return out, nil
}

// podError sorts API errors into the two kinds the loop tells apart.
func podError(verb string, pod *corev1.Pod, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err), replaced(err):
		return fmt.Errorf("%s pod %s/%s: %w", verb, pod.Namespace, pod.Name, ErrGone)
	case apierrors.IsConflict(err):
		return fmt.Errorf("%s pod %s/%s: %w", verb, pod.Namespace, pod.Name, ErrConflict)
	default:
		return fmt.Errorf("%s pod %s/%s: %w", verb, pod.Namespace, pod.Name, err)
	}
}

// replaced reports whether another pod has the name by now: to the API server a
// patch with the old UID is an attempt to change it.
func replaced(err error) bool {
	cause, ok := apierrors.StatusCause(err, metav1.CauseTypeFieldValueInvalid)
	return ok && cause.Field == "metadata.uid"
}
