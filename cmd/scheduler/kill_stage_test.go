package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batchv1 "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// party is a gang on a stage.
type party struct {
	name  string
	size  int
	least int // members that it needs; 0 is all
	gpus  int64
	queue string
	class string // of priority
	// on are the nodes that its pods are made on, by index; the rest is placed.
	on []string
	// moves says that it is of a Job and may be sent elsewhere.
	moves bool
	job   types.UID
	// device is the class of devices of which each pod claims one.
	device string
	// volumes are the classes of the volumes that its pods claim, by index.
	volumes []string
	// ran is how long its pods say that they have run when they start.
	ran time.Duration
	// lost are members that nobody makes anew while others of the gang are there.
	lost map[int]bool
	// never says that nobody makes them anew at all.
	never bool
	// parted says that it may be there in part, for want of room for the rest.
	parted bool
}

// stage is a cluster in which schedulers are killed. It plays kubelets and the owners
// of gangs: what is bound runs, what is to go goes, and is made anew.
type stage struct {
	plane     *controllertest.Plane
	namespace string
	conf      string // path of a configuration
	nodes     map[string]int64
	queues    []string
	partials  partials

	mu      sync.Mutex
	parties map[string]*party
	order   []string
	gone    map[types.UID]bool
	sent    map[string]int // pods that were sent away, by gang
	wrong   error
	pods    []corev1.Pod // as last seen
	claims  []resourcev1.ResourceClaim
	rounds  int
	shop    *shop
}

func newStage(t *testing.T, plane *controllertest.Plane, conf string) *stage {
	t.Helper()
	s := &stage{
		plane: plane, namespace: plane.Namespace(t), conf: filepath.Join(t.TempDir(), "scheduler.conf"), nodes: map[string]int64{},
		queues: []string{"default"}, parties: map[string]*party{}, gone: map[types.UID]bool{}, sent: map[string]int{},
	}
	if err := os.WriteFile(s.conf, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { clear(t, plane, s.namespace) })
	return s
}

// make makes an object that the test's end takes away.
func (s *stage) make(t *testing.T, o client.Object) {
	t.Helper()
	if err := s.plane.Client.Create(t.Context(), o); err != nil {
		t.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := s.plane.Client.Delete(ctx, o); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
		if err := s.plane.Client.Get(ctx, client.ObjectKeyFromObject(o), o); err == nil && len(o.GetFinalizers()) > 0 {
			o.SetFinalizers(nil)
			if err := s.plane.Client.Update(ctx, o); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
	})
}

// node makes a node: an ordinary one, or a virtual one of so many equal hosts.
func (s *stage) node(t *testing.T, name string, gpus int64, hosts int) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	if hosts > 0 {
		n.Labels[wellknown.VirtualNode] = "true"
		n.Annotations = map[string]string{wellknown.HostShapes: fmt.Sprintf(`{"shapes":[{"count":%d,"resources":{"cpu":64000,"nvidia.com/gpu":%d}}]}`, hosts, gpus/int64(hosts))}
	}
	s.make(t, n)
	offers := corev1.ResourceList{"cpu": kresource.MustParse("64"), "pods": kresource.MustParse("110"), "nvidia.com/gpu": *kresource.NewQuantity(gpus, kresource.DecimalSI)}
	n.Status = corev1.NodeStatus{Allocatable: offers, Capacity: offers, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
	if err := s.plane.Client.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	n.Spec.Taints = nil // that of a new node, which a node controller would take off
	if err := s.plane.Client.Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[name] = gpus
}

// cordon lets no further pod come to a node.
func (s *stage) cordon(t *testing.T, name string) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := s.plane.Client.Patch(t.Context(), n, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`))); err != nil {
		t.Fatal(err)
	}
}

// join submits a gang.
func (s *stage) join(t *testing.T, p *party) {
	t.Helper()
	if p.queue == "" {
		p.queue = "default"
	}
	s.make(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: p.name},
		Spec:       volcanov1.PodGroupSpec{MinMember: int32(p.needs()), Queue: p.queue, PriorityClassName: p.class},
		Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
	})
	if p.moves {
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: p.name}, Spec: batchv1.JobSpec{Tasks: []batchv1.TaskSpec{{
			Name: "w", Replicas: int32(p.size), Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none"}}}},
		}}}}
		s.make(t, j)
		p.job = j.UID
	}
	for i := range p.size {
		if p.device != "" {
			s.make(t, &resourcev1.ResourceClaim{
				ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: fmt.Sprintf("%s-%d", p.name, i)},
				Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
					Name: "device", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: p.device, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
				}}}},
			})
		}
		if i < len(p.volumes) {
			s.make(t, s.claim(fmt.Sprintf("%s-%d", p.name, i), p.volumes[i]))
		}
		if err := s.plane.Client.Create(t.Context(), s.member(p, i, true)); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parties[p.name] = p
	s.order = append(s.order, p.name)
}

// needs is how many members it has at least.
func (p *party) needs() int {
	if p.least > 0 {
		return p.least
	}
	return p.size
}

func (s *stage) member(p *party, i int, first bool) *corev1.Pod {
	asks := corev1.ResourceList{"cpu": kresource.MustParse("1")}
	if p.gpus > 0 {
		asks["nvidia.com/gpu"] = *kresource.NewQuantity(p.gpus, kresource.DecimalSI)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: fmt.Sprintf("%s-%d", p.name, i), Annotations: map[string]string{
			wellknown.PodGroupName: p.name, "volcano.sh/task-spec": "w", "volcano.sh/task-index": strconv.Itoa(i),
		}},
		Spec: corev1.PodSpec{
			SchedulerName: wellknown.SchedulerVolcano,
			Tolerations:   []corev1.Toleration{{Key: wellknown.TaintVirtualNode, Operator: corev1.TolerationOpExists}},
			Containers:    []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{Requests: asks, Limits: asks}}},
		},
	}
	if p.moves {
		pod.Annotations[volcanov1.PodPreemptable] = "true"
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Name: p.name, UID: p.job, Controller: ptr.To(true)}}
	}
	if first && i < len(p.on) {
		pod.Spec.NodeName = p.on[i]
	}
	if p.device != "" {
		pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "device", ResourceClaimName: ptr.To(pod.Name)}}
	}
	if i < len(p.volumes) {
		pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: pod.Name}}}}
	}
	return pod
}

// turn looks at everything once, plays the part of everybody else, and notes what is
// wrong for good.
func (s *stage) turn(ctx context.Context) {
	var list corev1.PodList
	if err := s.plane.Client.List(ctx, &list, client.InNamespace(s.namespace)); err != nil {
		return // it is looked at again
	}
	var claims resourcev1.ResourceClaimList
	if err := s.plane.Client.List(ctx, &claims, client.InNamespace(s.namespace)); err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rounds++
	if !s.visit(ctx) {
		return
	}
	s.pods, s.claims = list.Items, claims.Items
	var partial []string
	err := errors.Join(s.crowded(), devicesApart(claims.Items), s.volumesApart())
	for _, name := range s.order {
		short, broken := s.asked(s.parties[name])
		if short {
			partial = append(partial, name)
		}
		err = errors.Join(err, broken)
	}
	if err = errors.Join(err, s.partials.look(partial)); s.wrong == nil {
		s.wrong = err
	}
	s.serve(ctx)
	s.play(ctx)
}

// crowded says which node holds more than it has.
func (s *stage) crowded() error {
	used := map[string]int64{}
	for i := range s.pods {
		if p := s.parties[s.pods[i].Annotations[wellknown.PodGroupName]]; p != nil {
			used[s.pods[i].Spec.NodeName] += p.gpus
		}
	}
	for name, has := range s.nodes {
		if used[name] > has {
			return fmt.Errorf("node %s has %d GPUs, and %d are used", name, has, used[name])
		}
	}
	return nil
}

// devicesApart says which device two claims have.
func devicesApart(claims []resourcev1.ResourceClaim) error {
	has := map[string]string{}
	for _, c := range claims {
		if c.Status.Allocation == nil {
			continue
		}
		for _, r := range c.Status.Allocation.Devices.Results {
			id := r.Pool + "/" + r.Device
			if has[id] != "" {
				return fmt.Errorf("claims %s and %s both have device %s", has[id], c.Name, id)
			}
			has[id] = c.Name
		}
	}
	return nil
}

// live are the members of a gang that have a place and keep it.
func (s *stage) live(name string) (out []*corev1.Pod) {
	for i := range s.pods {
		if p := &s.pods[i]; p.Annotations[wellknown.PodGroupName] == name && p.Spec.NodeName != "" && p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// asked says whether a gang is placed in part, and what is wrong with its places.
func (s *stage) asked(p *party) (partial bool, wrong error) {
	live := s.live(p.name)
	ranks, domains := map[string]bool{}, map[string]bool{}
	for _, m := range live {
		attempt := m.Annotations[wellknown.GangAttempt]
		rank := attempt + "/" + m.Annotations[wellknown.GangRank]
		if attempt != "" && ranks[rank] {
			wrong = fmt.Errorf("gang %s has two members of rank %s", p.name, rank)
		}
		ranks[rank] = true
		if strings.HasPrefix(m.Spec.NodeName, "v") {
			domains[m.Spec.NodeName] = true
		} else {
			domains["nodes"] = true
		}
	}
	if len(domains) > 1 {
		wrong = fmt.Errorf("gang %s is in %v", p.name, slices.Sorted(maps.Keys(domains)))
	}
	return len(live) > 0 && len(live) < p.needs() && len(p.lost) == 0 && !p.parted, wrong
}

// play is what kubelets and owners do. What fails is done in another turn.
func (s *stage) play(ctx context.Context) {
	there := map[string]bool{}
	for i := range s.pods {
		p := &s.pods[i]
		there[p.Name] = true
		switch {
		case p.DeletionTimestamp != nil:
			if !s.gone[p.UID] {
				s.gone[p.UID] = true
				s.sent[p.Annotations[wellknown.PodGroupName]]++
			}
			_ = s.plane.Client.Delete(ctx, p, client.GracePeriodSeconds(0), client.Preconditions{UID: &p.UID})
		case p.Spec.NodeName != "" && p.Status.Phase != corev1.PodRunning:
			p.Status.Phase, p.Status.StartTime = corev1.PodRunning, ptr.To(metav1.NewTime(time.Now().Add(-s.ranFor(p))))
			_ = s.plane.Client.Status().Update(ctx, p)
		}
	}
	for _, p := range s.parties {
		left := len(s.live(p.name))
		for i := range p.size {
			if !there[fmt.Sprintf("%s-%d", p.name, i)] && (!p.lost[i] || left == 0 && !p.never) {
				_ = s.plane.Client.Create(ctx, s.member(p, i, false))
			}
		}
	}
}

// ranFor is how long a pod says that it has run.
func (s *stage) ranFor(p *corev1.Pod) time.Duration {
	if of := s.parties[p.Annotations[wellknown.PodGroupName]]; of != nil {
		return of.ran
	}
	return 0
}

// begin takes turns until the returned function is called.
func (s *stage) begin(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			s.turn(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() { cancel(); <-done }
}

// state is what a function says of the stage as it was last seen; wrong is what went
// wrong for good at any time.
func (s *stage) state(of func(*stage) string) (open string, wrong error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rounds == 0 {
		return "nothing was looked at yet", s.wrong
	}
	return of(s), s.wrong
}

// whole waits until a function has nothing more to say.
func (s *stage) whole(t *testing.T, r *runner, of func(*stage) string) {
	t.Helper()
	controllertest.Eventually(t, patience, func(context.Context) string {
		open, wrong := s.state(of)
		if wrong != nil {
			t.Fatal(wrong)
		}
		if open == "" {
			return ""
		}
		return fmt.Sprintf("%s\n%s", open, r.Tail())
	})
}

// rests waits until the scheduler has looked at its ledger some more times, found it to
// be what the pods say, and changed nothing.
func (s *stage) rests(t *testing.T, r *runner, of func(*stage) string) {
	t.Helper()
	const differences, audits = "isthmus_scheduler_ledger_differences", "isthmus_scheduler_ledger_audits_total"
	from, held, poked := -1.0, map[string]int64{}, 0
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		poked++
		s.poke(ctx, poked)
		open, wrong := s.state(func(s *stage) string {
			held = map[string]int64{}
			for i := range s.pods {
				if p := s.parties[s.pods[i].Annotations[wellknown.PodGroupName]]; p != nil && s.pods[i].Spec.NodeName != "" {
					held[p.queue] += p.gpus
				}
			}
			return of(s)
		})
		if wrong != nil || open != "" {
			t.Fatalf("it had ended well, and then: %v %s\n%s", wrong, open, r.Tail())
		}
		m, err := r.metrics(ctx)
		if err != nil {
			return err.Error()
		}
		if m[differences] != 0 {
			t.Fatalf("the ledger differs from the pods in %v ways:\n%s", m[differences], r.Tail())
		}
		for _, q := range s.queues {
			if got := m[fmt.Sprintf("volcano_queue_allocated_scalar_resources{queue_name=%q,resource=\"nvidia.com/gpu\"}", q)]; got != float64(held[q]) {
				from = -1
				return fmt.Sprintf("queue %s holds %v GPUs by the scheduler, and %d by its pods", q, got, held[q])
			}
		}
		if from < 0 {
			from = m[audits]
		}
		if m[audits] < from+3 {
			return fmt.Sprintf("%v recounts were made since", m[audits]-from)
		}
		return ""
	})
}

// poke changes something that makes the scheduler look.
func (s *stage) poke(ctx context.Context, n int) {
	for name := range s.nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		patch := fmt.Sprintf(`{"metadata":{"labels":{"test/poked":"%d"}}}`, n)
		_ = s.plane.Client.Patch(ctx, node, client.RawPatch(types.MergePatchType, []byte(patch)))
		return
	}
}

// drop deletes a member at once. That is nobody's sending it away, and it may be seen
// going all the same: the API server marks a pod for deletion before it takes it away.
func (s *stage) drop(t *testing.T, name string) {
	t.Helper()
	pod := &corev1.Pod{}
	err := s.plane.Client.Get(t.Context(), client.ObjectKey{Namespace: s.namespace, Name: name}, pod)
	if err == nil {
		s.mu.Lock()
		s.gone[pod.UID] = true
		s.mu.Unlock()
		err = s.plane.Client.Delete(t.Context(), pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID})
	}
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
}
