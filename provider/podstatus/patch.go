package podstatus

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// Patch gives the strategic merge patch for the status subresource that turns
// old's status into status. It holds what differs and nothing else, so fields
// and conditions that another wrote meanwhile survive, and the pod's UID, so
// that a new pod of the same name is never written. changed is false, and the
// patch nil, when nothing differs.
func Patch(old *corev1.Pod, status corev1.PodStatus) (patch []byte, changed bool, err error) {
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&statusOnly{Status: old.Status})
	if err != nil {
		return nil, false, fmt.Errorf("encode status of pod %s/%s: %w", old.Namespace, old.Name, err)
	}
	after, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&statusOnly{Status: status})
	if err != nil {
		return nil, false, fmt.Errorf("encode status of pod %s/%s: %w", old.Namespace, old.Name, err)
	}
	diff, err := strategicpatch.CreateTwoWayMergeMapPatch(before, after, corev1.Pod{})
	if err != nil {
		return nil, false, fmt.Errorf("compare status of pod %s/%s: %w", old.Namespace, old.Name, err)
	}
	if diff["status"] == nil {
		return nil, false, nil
	}
	patch, err = json.Marshal(map[string]any{"metadata": map[string]any{"uid": old.UID}, "status": diff["status"]})
	if err != nil {
		return nil, false, fmt.Errorf("encode patch of pod %s/%s: %w", old.Namespace, old.Name, err)
	}
	return patch, true, nil
}

type statusOnly struct {
	Status corev1.PodStatus `json:"status"`
}
