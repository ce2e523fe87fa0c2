package driver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/volcanogpu"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// sharedNode is a node as kubelet and Volcano's vgpu device plugin tell of it: so many
// GPUs of 1000 MiB, each for 10 pods at most.
func sharedNode(t *testing.T, name string, gpus int) {
	t.Helper()
	var text strings.Builder
	for i := range gpus {
		fmt.Fprintf(&text, "GPU-%s-%d,10,1000,NVIDIA-T4,true,hami-core:", name, i)
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{volcanogpu.Register: text.String()}}}
	create(t, n)
	n.Status = corev1.NodeStatus{
		Allocatable: corev1.ResourceList{
			"cpu": kresource.MustParse("64"), "pods": kresource.MustParse("110"), "volcano.sh/vgpu-cores": *kresource.NewQuantity(int64(100*gpus), kresource.DecimalSI),
			"volcano.sh/vgpu-number": *kresource.NewQuantity(int64(10*gpus), kresource.DecimalSI), "volcano.sh/vgpu-memory": *kresource.NewQuantity(int64(1000*gpus), kresource.DecimalSI),
		},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}
	n.Status.Capacity = n.Status.Allocatable
	if err := plane.Client.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	n.Spec.Taints = nil
	if err := plane.Client.Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

// sharer makes a pod whose second container asks for one GPU with some memory.
func sharer(ns, name, group string, memory int64) *corev1.Pod {
	asks := corev1.ResourceList{"volcano.sh/vgpu-number": kresource.MustParse("1"), "volcano.sh/vgpu-memory": *kresource.NewQuantity(memory, kresource.DecimalSI)}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: map[string]string{
			// As an author would write who wants to be served first, and elsewhere.
			volcanogpu.Time: "0", volcanogpu.ToAllocate: "GPU-other,NVIDIA,1,1:", volcanogpu.IDs: "GPU-other,NVIDIA,1,1:",
		}},
		Spec: corev1.PodSpec{SchedulerName: wellknown.SchedulerVolcano, Containers: []corev1.Container{
			{Name: "side", Image: "none"}, {Name: "main", Image: "none", Resources: corev1.ResourceRequirements{Requests: asks, Limits: asks}},
		}},
	}
	if group != "" {
		p.Annotations[wellknown.PodGroupName], p.Annotations["volcano.sh/task-spec"] = group, "w"
	}
	return p
}

// standIn is a kubelet of one node with a stand-in for the device plugin. Kubelet asks
// for a pod that was bound; the plugin is told a number only, and finds the pod by the
// annotations: of those that are to go to its node, the one with the earliest time.
type standIn struct {
	node string
	// phases says that the plugin looks at pending pods in phase allocating, as older
	// versions do; newer ones look at those that have as many devices to come.
	phases bool

	mu     sync.Mutex
	wrong  []string
	served map[string]string // what each pod was given, by name
}

func (s *standIn) fault(text string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(text, args...))
}

// run admits pods until ctx ends.
func (s *standIn) run(ctx context.Context, ns string) {
	r := rand.New(rand.NewPCG(1, 1))
	tick := time.NewTicker(100 * time.Millisecond) // slower than bindings are: several would wait at once
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var list corev1.PodList
		if err := plane.Client.List(ctx, &list, client.InNamespace(ns)); err != nil {
			continue // the next look shows it
		}
		var waiting []corev1.Pod
		for _, p := range list.Items {
			if p.Spec.NodeName == s.node && p.Status.Phase == corev1.PodPending {
				waiting = append(waiting, p)
			}
		}
		if len(waiting) > 1 {
			s.fault("%d pods wait for the plugin at once", len(waiting))
		}
		if len(waiting) > 0 {
			s.admit(ctx, waiting[r.IntN(len(waiting))], list.Items)
		}
	}
}

func (s *standIn) admit(ctx context.Context, p corev1.Pod, all []corev1.Pod) {
	var chosen *corev1.Pod
	earliest := uint64(math.MaxUint64)
	for i := range all {
		a := all[i].Annotations
		devices := strings.Count(a[volcanogpu.ToAllocate], ",NVIDIA,")
		at, err := strconv.ParseUint(a[volcanogpu.Time], 10, 64)
		fits := devices == 1
		if s.phases {
			fits = all[i].Status.Phase == corev1.PodPending && a[volcanogpu.Phase] == volcanogpu.Allocating && a[volcanogpu.BindTime] != ""
		}
		if a[volcanogpu.Node] == s.node && fits && err == nil && at < earliest {
			chosen, earliest = &all[i], at
		}
	}
	if chosen == nil {
		s.fault("no pod is found for %s", p.Name)
		return
	}
	if chosen.Name != p.Name {
		s.fault("pod %s is given what pod %s was to get", p.Name, chosen.Name)
	}
	// The container is the one at the position of the devices.
	parts := strings.Split(chosen.Annotations[volcanogpu.ToAllocate], ";")
	at := slices.IndexFunc(parts, func(part string) bool { return strings.Contains(part, ",") })
	if at < 0 || chosen.Spec.Containers[at].Name != "main" {
		s.fault("pod %s: the devices %q are not for the container that asks", p.Name, parts)
		return
	}
	s.mu.Lock()
	s.served[p.Name] = parts[at]
	s.mu.Unlock()
	s.patch(ctx, chosen, "", map[string]any{"metadata": map[string]any{"annotations": map[string]any{
		volcanogpu.ToAllocate: ";", volcanogpu.Phase: "success", volcanogpu.Time: strconv.FormatUint(math.MaxUint64, 10),
	}}})
	s.patch(ctx, &p, "status", map[string]any{"status": map[string]any{"phase": "Running"}})
}

func (s *standIn) patch(ctx context.Context, p *corev1.Pod, sub string, body map[string]any) {
	data, err := json.Marshal(body)
	if err == nil {
		if sub != "" {
			err = plane.Client.SubResource(sub).Patch(ctx, p.DeepCopy(), client.RawPatch(types.MergePatchType, data))
		} else {
			err = plane.Client.Patch(ctx, p.DeepCopy(), client.RawPatch(types.MergePatchType, data))
		}
	}
	if err != nil && ctx.Err() == nil {
		s.fault("patch pod %s: %v", p.Name, err)
	}
}

// TestVolcanosDevicePlugin has a gang share the GPUs of one node whose device plugin is
// Volcano's, beside a pod that Volcano's scheduler had bound and one that failed before it
// was served, with a restart of the scheduler in between: each pod is given the GPU that
// was meant for it, and no GPU more than it has.
func TestVolcanosDevicePlugin(t *testing.T) {
	for version, phases := range map[string]bool{"older": true, "newer": false} {
		t.Run(version, func(t *testing.T) { devicePlugin(t, "shared-"+version, phases) })
	}
}

func devicePlugin(t *testing.T, node string, phases bool) {
	ns := plane.Namespace(t)
	sharedNode(t, node, 2)
	before := func(name, phase string, status corev1.PodPhase, due string) {
		p := sharer(ns, name, "", 600)
		p.Spec.SchedulerName, p.Spec.NodeName = "another", node
		ids := fmt.Sprintf("GPU-%s-0,NVIDIA,600,0:", node)
		p.Annotations = map[string]string{volcanogpu.Node: node, volcanogpu.Time: "1700000000", volcanogpu.BindTime: "1700000000", volcanogpu.IDs: ids, volcanogpu.Phase: phase, volcanogpu.ToAllocate: strings.Repeat(ids, len(due))}
		create(t, p)
		p.Status.Phase = status
		if err := plane.Client.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	before("resident", "success", corev1.PodRunning, "")
	before("failed", volcanogpu.Allocating, corev1.PodFailed, "x")

	kubelet := &standIn{node: node, phases: phases, served: map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { kubelet.run(ctx, ns) })
	t.Cleanup(func() { cancel(); running.Wait() })

	stop := startScheduler(t, &wire{})
	create(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "g"}, Spec: volcanov1.PodGroupSpec{MinMember: 7, Queue: "default"},
		Status: volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
	})
	for i := range 7 { // 2 beside the resident and 5 on the other GPU
		create(t, sharer(ns, fmt.Sprintf("g-%d", i), "g", 200))
	}
	served := func(n int) {
		t.Helper()
		controllertest.Eventually(t, within, func(context.Context) string {
			kubelet.mu.Lock()
			defer kubelet.mu.Unlock()
			if len(kubelet.wrong) > 0 {
				return strings.Join(kubelet.wrong, "; ")
			}
			if len(kubelet.served) < n {
				return fmt.Sprintf("served are %v, want %d", kubelet.served, n)
			}
			return ""
		})
	}
	served(2)
	stop()
	startScheduler(t, &wire{})
	served(7)
	held := map[string]int{}
	for _, p := range eventuallyBound(t, ns, "g", 7) {
		given := strings.Split(kubelet.served[p.Name], ",")
		if len(given) != 4 || given[0] != p.Annotations[wellknown.GPUIDs] || given[2] != "200" || p.Annotations[volcanogpu.IDs] != ";"+strings.Join(given, ",") {
			t.Errorf("pod %s was given %q, and has the annotations %v", p.Name, given, p.Annotations)
		}
		held[given[0]]++
	}
	if held["GPU-"+node+"-0"] != 2 || held["GPU-"+node+"-1"] != 5 {
		t.Errorf("pods by GPU: %v", held)
	}
}
