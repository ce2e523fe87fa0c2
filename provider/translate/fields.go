package translate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// nodeField reports whether only the compute host knows the field.
func nodeField(path string) bool {
	switch path {
	case "status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs":
		return true
	}
	return false
}

// field resolves a downward API field path as a kubelet does.
func (p *pod) field(path string) (string, error) {
	if base, key, ok := subscript(path); ok {
		switch base {
		case "metadata.labels":
			if msgs := validation.IsQualifiedName(key); len(msgs) > 0 {
				return "", fmt.Errorf("%q is not a label key", short(key))
			}
			return p.Pod.Labels[key], nil
		case "metadata.annotations":
			if msgs := validation.IsQualifiedName(strings.ToLower(key)); len(msgs) > 0 {
				return "", fmt.Errorf("%q is not an annotation key", short(key))
			}
			return p.Pod.Annotations[key], nil
		}
		return "", errors.New("this field has no keys; use metadata.labels['key'] or metadata.annotations['key']")
	}
	switch path {
	case "metadata.name":
		return p.Pod.Name, nil
	case "metadata.namespace":
		return p.Pod.Namespace, nil
	case "metadata.uid":
		return string(p.Pod.UID), nil
	case "metadata.labels":
		return formatMap(p.Pod.Labels), nil
	case "metadata.annotations":
		return formatMap(p.Pod.Annotations), nil
	case "spec.nodeName":
		return p.Pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Pod.Spec.ServiceAccountName, nil
	}
	return "", errors.New("is not a field of the downward API")
}

// subscript splits metadata.labels['key'].
func subscript(path string) (base, key string, ok bool) {
	if !strings.HasSuffix(path, "']") {
		return path, "", false
	}
	base, key, ok = strings.Cut(strings.TrimSuffix(path, "']"), "['")
	return base, key, ok && key != ""
}

// formatMap writes labels or annotations as a kubelet does: one key="value" a
// line, sorted, with Go quoting.
func formatMap(m map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s=%q", k, m[k])
	}
	return b.String()
}

// resourceField resolves requests and limits. A container without a limit may
// use all that its task has, so that is its limit.
func (p *pod) resourceField(ref *corev1.ResourceFieldSelector, own *corev1.Container, s shape) (string, error) {
	c := own
	if ref.ContainerName != "" {
		if c = p.container(ref.ContainerName); c == nil {
			return "", fmt.Errorf("the pod has no container %q", short(ref.ContainerName))
		}
	}
	if c == nil {
		return "", errors.New("containerName is required in a volume")
	}
	side, name, ok := strings.Cut(ref.Resource, ".")
	if !ok || (side != "limits" && side != "requests") {
		return "", errors.New("must be limits.NAME or requests.NAME")
	}
	list := c.Resources.Limits
	if side == "requests" {
		list = c.Resources.Requests
	}
	q, has := list[corev1.ResourceName(name)]
	switch {
	case name != "cpu" && name != "memory" && name != "ephemeral-storage":
		return "", errors.New("only cpu, memory and ephemeral-storage can be referred to on HPC nodes")
	case has && !q.IsZero(), side == "requests":
	case name == "cpu":
		q = *resource.NewQuantity(s.cpus, resource.DecimalSI)
	case name == "memory" && s.memoryMiB > 0:
		q = *resource.NewQuantity(s.memoryMiB*mib, resource.BinarySI)
	default:
		return "", errors.New("the container has no such limit, and the batch system decides; set the limit")
	}
	return divide(q, ref.Divisor, name == "cpu")
}

// divide gives the quantity in units of the divisor, rounded up. CPU is
// computed in thousandths.
func divide(q, divisor resource.Quantity, milli bool) (string, error) {
	if divisor.Sign() < 0 || q.Sign() < 0 {
		return "", errors.New("a negative amount or divisor")
	}
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	most := resource.NewQuantity(1<<52, resource.DecimalSI)
	if q.Cmp(*most) > 0 || divisor.Cmp(*most) > 0 {
		return "", errors.New("the amount or divisor is too large")
	}
	n, d := q.Value(), divisor.Value()
	if milli {
		n, d = q.MilliValue(), divisor.MilliValue()
	}
	if d < 1 {
		return "", errors.New("the divisor is too small")
	}
	return strconv.FormatInt((n+d-1)/d, 10), nil
}

func (p *pod) container(name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Pod.Spec.Containers, p.Pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
