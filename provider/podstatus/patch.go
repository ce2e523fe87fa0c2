package podstatus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// Patch gives the strategic merge patch for the status subresource that turns
// old's status into status. It holds what differs and nothing else, so fields
// and conditions that another wrote meanwhile survive, and the pod's UID, so
// that a new pod of the same name is never written. changed is false, and the
// patch nil, when nothing differs.
func Patch(old *corev1.Pod, status corev1.PodStatus) (patch []byte, changed bool, err error) {
	if sameBytes(&old.Status, &status) {
		return nil, false, nil
	}
	from, to, none := different(old.Status, status)
	if none {
		return nil, false, nil
	}
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&statusOnly{Status: from})
	if err != nil {
		return nil, false, fmt.Errorf("encode status of pod %s/%s: %w", old.Namespace, old.Name, err)
	}
	after, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&statusOnly{Status: to})
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

// sameBytes tells whether two statuses are written alike: by far the cheapest way
// to see that nothing has changed, which is the usual case.
func sameBytes(a, b *corev1.PodStatus) bool {
	x, err := a.Marshal()
	if err != nil {
		return false
	}
	y, err := b.Marshal()
	return err == nil && bytes.Equal(x, y)
}

// different leaves of two statuses the fields that mean something else in each,
// so that only these have to be encoded and compared; none when there are none.
func different(a, b corev1.PodStatus) (from, to corev1.PodStatus, none bool) {
	none = true
	x, y := reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem()
	for i := range x.NumField() {
		if equality.Semantic.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			x.Field(i).SetZero()
			y.Field(i).SetZero()
		} else {
			none = false
		}
	}
	a.Conditions, b.Conditions = differentConditions(a.Conditions, b.Conditions)
	return a, b, none
}

// differentConditions leaves of two lists the conditions that are not in both: a
// patch merges them by type.
func differentConditions(a, b []corev1.PodCondition) (from, to []corev1.PodCondition) {
	in := func(c corev1.PodCondition, list []corev1.PodCondition) bool {
		return slices.ContainsFunc(list, func(o corev1.PodCondition) bool {
			return c.Type == o.Type && equality.Semantic.DeepEqual(c, o)
		})
	}
	for _, c := range a {
		if !in(c, b) {
			from = append(from, c)
		}
	}
	for _, c := range b {
		if !in(c, a) {
			to = append(to, c)
		}
	}
	return from, to
}
