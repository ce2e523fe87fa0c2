package cache

import (
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// served is a pod of a gang as an API server tells of it: with all that it fills in.
func served(group string, i int) *corev1.Pod {
	name := fmt.Sprintf("%s-%d", group, i)
	amounts := corev1.ResourceList{"cpu": kresource.MustParse("4"), "memory": kresource.MustParse("16Gi"), "nvidia.com/gpu": kresource.MustParse("1")}
	const token = "kube-api-access-x7k2p"
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1", Generation: 1,
			CreationTimestamp: metav1.NewTime(start), Annotations: map[string]string{wellknown.PodGroupName: group},
		},
		Spec: corev1.PodSpec{
			SchedulerName: wellknown.SchedulerIsthmus, RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst,
			TerminationGracePeriodSeconds: ptr.To(int64(30)), Priority: ptr.To(int32(0)), PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority),
			ServiceAccountName: "default", EnableServiceLinks: ptr.To(true), SecurityContext: &corev1.PodSecurityContext{},
			Containers: []corev1.Container{{
				Name: "main", Image: "registry.example/app:1", ImagePullPolicy: corev1.PullIfNotPresent,
				TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
				Resources:    corev1.ResourceRequirements{Requests: amounts, Limits: corev1.ResourceList{"nvidia.com/gpu": amounts["nvidia.com/gpu"]}},
				VolumeMounts: []corev1.VolumeMount{{Name: token, ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
			}},
			Volumes: []corev1.Volume{{Name: token, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}}},
			Tolerations: []corev1.Toleration{
				{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(300))},
				{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(300))},
			},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable},
	}
}

// BenchmarkIntake is what the watch tells of a pod, once the bytes are read: that it is
// there, that it is bound to where it is assumed to be, and that it runs. Told are
// processor time and memory for one pod, a twentieth of its gang.
func BenchmarkIntake(b *testing.B) {
	const size, node = 20, "n00000"
	c := loaded()
	c.SetGroup(podGroup("gang", size))
	var made, placed, running []*corev1.Pod
	for i := range size {
		p := served("gang", i)
		made = append(made, p)
		p = p.DeepCopy()
		p.Spec.NodeName, p.ResourceVersion = node, "2"
		p.Annotations[wellknown.GangAttempt], p.Annotations[wellknown.GangSize], p.Annotations[wellknown.GangRank] = "attempt", fmt.Sprint(size), fmt.Sprint(i)
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(start)}}
		placed = append(placed, p)
		p = p.DeepCopy()
		p.ResourceVersion, p.Status.Phase, p.Status.StartTime = "3", corev1.PodRunning, &metav1.Time{Time: start}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(start)}}}}
		running = append(running, p)
	}
	var used time.Duration
	b.ReportAllocs()
	for b.Loop() {
		from := processor(b)
		for _, p := range made {
			c.SetPod(p)
		}
		for i, p := range made {
			c.Assume(string(p.UID), Assumption{Node: node, Attempt: "attempt", Size: size, Rank: int64(i)})
		}
		for _, p := range made {
			c.Confirm(string(p.UID), start.Add(time.Minute))
		}
		for _, p := range placed {
			c.SetPod(p)
		}
		for _, p := range running {
			c.SetPod(p)
		}
		for _, p := range made {
			c.DeletePod(string(p.UID))
		}
		used += processor(b) - from
	}
	b.ReportMetric(float64(used.Nanoseconds())/1000/float64(b.N)/size, "cpu-us/pod")
}

// leaves calls f with each field of v that is no struct, the fields of these included, and
// how it is called.
func leaves(v reflect.Value, name string, f func(name string, v reflect.Value)) {
	if v.Kind() != reflect.Struct {
		f(name, reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()) //nolint:gosec // fields of this package
		return
	}
	for i := range v.NumField() {
		leaves(v.Field(i), name+"."+v.Type().Field(i).Name, f)
	}
}

// other gives a field another value.
func other(t *testing.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint64:
		v.SetUint(v.Uint() + 1)
	case reflect.Slice:
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		m.SetMapIndex(reflect.ValueOf("x").Convert(v.Type().Key()), reflect.Zero(v.Type().Elem()))
		v.Set(m)
	default:
		t.Fatalf("an entry has a %s", v.Kind())
	}
}

// TestEntriesDifferInEachField: an entry with another value in any field, one that is added
// to them one day included, is another one; and no placement depends on these alone.
func TestEntriesDifferInEachField(t *testing.T) {
	little := map[string]bool{".pod.Phase": true, ".pod.StartedAt": true, ".pod.Assumed": true, ".bound": true, ".waitReason": true, ".waitMessage": true}
	c := New()
	entry := func() *podEntry {
		e := newPodEntry(served("g", 0), true)
		c.visible(e)
		return e
	}
	leaves(reflect.ValueOf(&podEntry{}).Elem(), "", func(name string, _ reflect.Value) {
		was, is := entry(), entry()
		if !was.equal(is) || !c.little(was, is) {
			t.Fatal("the same pod twice is not the same")
		}
		changed := false
		leaves(reflect.ValueOf(is).Elem(), "", func(n string, v reflect.Value) {
			if changed = changed || n == name; n == name && v.Kind() != reflect.Pointer {
				other(t, v)
			}
		})
		switch {
		case name == ".on" || name == ".known" || name == ".pod.Class" || len(name) > 5 && name[:6] == ".spec.": // the class stands for the spec
		case was.equal(is):
			t.Errorf("entries that differ in %s are equal", name)
		case c.little(was, is) != little[name]:
			t.Errorf("another %s is little: %t", name, !little[name])
		}
	})
	// What a pod holds tells by its class.
	p := served("g", 0)
	p.Spec.Containers[0].Resources.Requests["cpu"] = kresource.MustParse("5")
	e := newPodEntry(p, true)
	if c.visible(e); e.equal(entry()) || c.little(entry(), e) {
		t.Error("entries that ask for other amounts are equal")
	}
}

// TestLikenessStays: what is remembered under a pod's likeness is found by later versions.
func TestLikenessStays(t *testing.T) {
	was := func(p *corev1.Pod) uint64 {
		h := fnv.New64a()
		add := func(parts ...string) {
			for _, s := range parts {
				_, _ = io.WriteString(h, s+"\x00")
			}
		}
		if ref := metav1.GetControllerOf(p); ref != nil {
			add(ref.Kind)
		}
		for _, c := range p.Spec.Containers {
			add(c.Name, c.Image)
			add(c.Command...)
			add("args")
			add(c.Args...)
			for _, name := range slices.Sorted(maps.Keys(c.Resources.Requests)) {
				q := c.Resources.Requests[name]
				add(string(name), q.String())
			}
		}
		return h.Sum64()
	}
	p := served("g", 0)
	for _, amount := range []string{"0", "1", "100m", "1.5", "16Gi", "1e3", "12e6", "1000Mi", "0.5Gi", "123456789012345678901234567890", "-1", "1n"} {
		p.Spec.Containers[0].Resources.Requests["memory"] = kresource.MustParse(amount)
		if got := likeness(p); got != was(p) {
			t.Errorf("%s: %x, want %x", amount, got, was(p))
		}
	}
	p.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Controller: ptr.To(true)}}
	p.Spec.Containers[0].Command, p.Spec.Containers[0].Args = []string{"run", ""}, []string{"a", "b"}
	p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0])
	for i := range 2000 { // longer than what there is room for without taking memory
		p.Spec.Containers[1].Args = append(p.Spec.Containers[1].Args, fmt.Sprint(i))
	}
	if got := likeness(p); got != was(p) {
		t.Errorf("of a job: %x, want %x", got, was(p))
	}
}

// TestKnownSpecs: a spec that was seen before is the one that was, has its key, and few are
// remembered that nobody has any more.
func TestKnownSpecs(t *testing.T) {
	s := newSpecs()
	for i := range 10 * fewSpecs {
		e := newPodEntry(served("g", 0), true)
		e.spec.Unsupported = fmt.Sprint(i)
		want := e.spec.Key()
		for range 2 {
			if k := s.intern(&e.spec, 0); k.key != want || !reflect.DeepEqual(k.spec, e.spec) {
				t.Fatalf("spec %d is %s with the key %s", i, k.spec.Key(), k.key)
			}
		}
	}
	if len(s.known) > fewSpecs+1 {
		t.Errorf("%d specs are remembered for no pods", len(s.known))
	}
}

// TestOneSpecInTwoQueues: pods that ask for the same are of other classes in queues whose
// pods go to other nodes, and follow what their PodGroup and their queue say.
func TestOneSpecInTwoQueues(t *testing.T) {
	c := New()
	queue := func(name string, groups ...string) {
		q := &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: volcanov1.QueueSpec{Weight: 1}}
		if len(groups) > 0 {
			q.Spec.Affinity = &volcanov1.Affinity{NodeGroupAffinity: &volcanov1.NodeGroupAffinity{RequiredDuringSchedulingIgnoredDuringExecution: groups}}
		}
		c.SetQueue(q)
	}
	gang := func(name, queue string) {
		pg := podGroup(name, 1)
		pg.Spec.Queue = queue
		c.SetGroup(pg)
	}
	want := func(when string, groups ...string) {
		t.Helper()
		for i, name := range []string{"a", "b", "c"} {
			var got []string
			if g := gangOf(t, c, "podgroup/ns/"+name).Pods[0].Class.Groups; g != nil {
				got = g.Required
			}
			if fmt.Sprint(got) != groups[i] {
				t.Errorf("%s: %s goes to %v, want %s", when, name, got, groups[i])
			}
		}
	}
	queue("fast", "gpu")
	queue("slow", "cpu")
	queue("any")
	for name, queue := range map[string]string{"a": "fast", "b": "slow", "c": "any"} {
		gang(name, queue)
		c.SetPod(served(name, 0))
	}
	want("at first", "[gpu]", "[cpu]", "[]")
	gang("a", "any")
	gang("c", "slow")
	want("in other queues", "[]", "[cpu]", "[cpu]")
	queue("slow", "old")
	want("of other groups", "[]", "[old]", "[old]")
}

// TestIntakeTakesLittleMemory: what a watch tells of a pod is told often, and what is read
// of it is little.
func TestIntakeTakesLittleMemory(t *testing.T) {
	c := New()
	p := served("g", 0)
	c.SetPod(p)
	if n := testing.AllocsPerRun(100, func() { c.SetPod(p) }); n > 12 {
		t.Errorf("a pod that is told of again takes %.0f pieces of memory", n)
	}
}
