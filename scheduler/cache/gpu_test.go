package cache

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestGPUsThatAPodWants reads Volcano's annotations about models and devices.
func TestGPUsThatAPodWants(t *testing.T) {
	for _, c := range []struct {
		annotations map[string]string
		want        *snapshot.GPUSpec
	}{
		{nil, nil},
		{map[string]string{"nvidia.com/use-gputype": " , "}, nil},
		{map[string]string{"nvidia.com/use-gputype": "A100, H100"}, &snapshot.GPUSpec{Models: []string{"a100", "h100"}}},
		{map[string]string{"nvidia.com/nouse-gputype": "T4"}, &snapshot.GPUSpec{NotModels: []string{"t4"}}},
		{map[string]string{"volcano.sh/vgpu-use-gpuuuid": "GPU-1,GPU-2"}, &snapshot.GPUSpec{UUIDs: []string{"GPU-1", "GPU-2"}}},
		{map[string]string{"volcano.sh/vgpu-nouse-gpuuuid": "GPU-3"}, &snapshot.GPUSpec{NotUUIDs: []string{"GPU-3"}}},
		{map[string]string{"volcano.sh/vgpu-mode": "hami-core"}, &snapshot.GPUSpec{Modes: []string{"timeslice"}}},
		{map[string]string{"volcano.sh/vgpu-mode": "mig"}, &snapshot.GPUSpec{Modes: []string{"mig"}}},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", Annotations: c.annotations}}
		if got := gpuSpec(pod, resource.List{}); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %+v, want %+v", c.annotations, got, c.want)
		}
	}
}
