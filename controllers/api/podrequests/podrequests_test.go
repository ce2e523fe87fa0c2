package podrequests

import (
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// asTheLibrary is what Kubernetes' own scheduler counts.
func asTheLibrary(pod *corev1.Pod) corev1.ResourceList {
	return podresource.PodRequests(pod, podresource.PodResourcesOptions{UseStatusResources: true})
}

// TestHeldIsTheLibrarys: whatever a status says or lacks, a pod holds what the library
// counts that is asked for all statuses.
func TestHeldIsTheLibrarys(t *testing.T) {
	t.Parallel()
	mattered := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		pod := drawn(t)
		was := pod.DeepCopy()
		mattered[statusesMatter(pod)]++
		got := Held(pod)
		if want := asTheLibrary(pod); !equality.Semantic.DeepEqual(got, want) {
			t.Fatalf("holds %v, want %v: spec %+v, status %+v", got, want, pod.Spec, pod.Status)
		}
		if read := HeldToRead(pod); len(read)+len(got) > 0 && !equality.Semantic.DeepEqual(read, got) {
			t.Fatalf("to be read: %v, want %v: spec %+v, status %+v", read, got, pod.Spec, pod.Status)
		}
		for name := range got {
			got[name] = resource.MustParse("99")
		}
		if !equality.Semantic.DeepEqual(pod, was) {
			t.Fatal("the list is the pod's own")
		}
	})
	if mattered[true] < 10 || mattered[false] < 10 {
		t.Errorf("statuses mattered how often: %v", mattered)
	}
}

// drawn is a pod of up to three containers of each kind, with statuses that say what the
// spec says, or less, more or nothing.
func drawn(t *rapid.T) *corev1.Pod {
	pod := &corev1.Pod{}
	list := func(what string) corev1.ResourceList {
		if rapid.IntRange(0, 4).Draw(t, what+" says nothing") == 0 {
			return nil
		}
		out := corev1.ResourceList{}
		for _, name := range []corev1.ResourceName{"cpu", "memory", "nvidia.com/gpu"} {
			if n := rapid.IntRange(0, 3).Draw(t, what+" "+string(name)); n > 0 {
				out[name] = *resource.NewQuantity(int64(n-1), resource.DecimalSI)
			}
		}
		return out
	}
	// As the spec says is what is usual, and the only way to have all agree at times.
	usual := rapid.Bool().Draw(t, "all is as asked for")
	said := func(what string, asked corev1.ResourceList) corev1.ResourceList {
		if usual || rapid.Bool().Draw(t, what+" is as asked for") {
			return asked.DeepCopy()
		}
		return list(what)
	}
	add := func(name string, statuses *[]corev1.ContainerStatus) corev1.Container {
		c := corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list(name)}}
		if rapid.IntRange(0, 4).Draw(t, name+" has no status") > 0 {
			s := corev1.ContainerStatus{Name: name, AllocatedResources: said(name+" was given", c.Resources.Requests)}
			if rapid.Bool().Draw(t, name+" has") {
				s.Resources = &corev1.ResourceRequirements{Requests: said(name+" has", c.Resources.Requests)}
			}
			*statuses = append(*statuses, s)
		}
		return c
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "containers") {
		pod.Spec.Containers = append(pod.Spec.Containers, add("c"+strconv.Itoa(i), &pod.Status.ContainerStatuses))
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "containers at the start") {
		c := add("i"+strconv.Itoa(i), &pod.Status.InitContainerStatuses)
		if rapid.Bool().Draw(t, c.Name+" goes on") {
			c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	if rapid.Bool().Draw(t, "a status of another container") {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: "other", AllocatedResources: list("another")})
	}
	if rapid.Bool().Draw(t, "an overhead") {
		pod.Spec.Overhead = list("overhead")
	}
	if rapid.Bool().Draw(t, "requests of the pod") {
		pod.Spec.Resources = &corev1.ResourceRequirements{Requests: list("pod")}
	}
	if reason := rapid.SampledFrom([]string{"", "", corev1.PodReasonDeferred, corev1.PodReasonInfeasible}).Draw(t, "resize"); reason != "" {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: reason}}
	}
	return pod
}

// usual is a pod that runs as it was asked to.
func usual() *corev1.Pod {
	asked := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("16Gi"), "nvidia.com/gpu": resource.MustParse("1")}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: asked}}}}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "c", AllocatedResources: asked.DeepCopy(), Resources: &corev1.ResourceRequirements{Requests: asked.DeepCopy()},
	}}
	return pod
}

// TestUsualPodsAreCheap: a pod that has what it asks for costs as little as its spec
// alone: books of all pods are added up every second.
func TestUsualPodsAreCheap(t *testing.T) {
	pod := usual()
	got := testing.AllocsPerRun(100, func() { Held(pod) })
	want := testing.AllocsPerRun(100, func() { podresource.PodRequests(pod, podresource.PodResourcesOptions{}) })
	if got > want {
		t.Errorf("%v allocations, of the spec alone %v", got, want)
	}
}

// BenchmarkHeld: what the books cost for each pod, and what the library asks for it.
func BenchmarkHeld(b *testing.B) {
	pod := usual()
	for name, f := range map[string]func(*corev1.Pod) corev1.ResourceList{"held": Held, "library": asTheLibrary} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f(pod)
			}
		})
	}
}
