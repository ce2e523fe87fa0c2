package cache

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// countingFilter counts how often it is asked about a node. It lets all in.
type countingFilter struct{ calls *int }

func (countingFilter) Name() string { return "counting" }
func (countingFilter) JudgesKin()   {}
func (f countingFilter) Lasts() any { return f }
func (f countingFilter) Filter(*snapshot.Class, *snapshot.Node) string {
	*f.calls++
	return ""
}

// drawn is a cluster that changes at random.
type drawn struct {
	*rand.Rand
	c     *Cache
	pods  map[string]*corev1.Pod // those that have not ended, by UID
	made  int
	nodes int
}

// node draws a node, as it is or as it becomes.
func (d *drawn) node(i int) {
	size := i
	if d.IntN(4) == 0 {
		size = d.IntN(4)
	}
	n := node(fmt.Sprintf("n%03d", i), []string{"8", "8", "8", "16"}[size%4])
	if (i%16 == 3) != (d.IntN(40) == 0) {
		n = virtualNode(n.Name, `{"shapes":[{"count":2,"resources":{"cpu":8000,"nvidia.com/gpu":2}}]}`)
	} else {
		n.Labels = map[string]string{"zone": fmt.Sprint(i % 3), "kubernetes.io/hostname": n.Name}
	}
	n.Status.Allocatable["nvidia.com/gpu"] = kresource.MustParse([]string{"4", "4", "4", "2"}[size/4%4])
	n.Spec.Unschedulable = d.IntN(12) == 0
	if d.IntN(8) == 0 {
		n.Labels["volcano.sh/nodegroup-name"] = "a"
	}
	if d.IntN(10) == 0 {
		n.Spec.Taints = []corev1.Taint{{Key: "own", Effect: []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule}[d.IntN(2)]}}
	}
	if d.IntN(20) == 0 {
		n.Status.Conditions[0].Status = corev1.ConditionFalse
	}
	d.c.SetNode(n)
}

// gang has one come.
func (d *drawn) gang(odd bool) {
	name, size := fmt.Sprintf("g%04d", d.made), 1+d.IntN(4)
	d.made++
	pg := podGroup(name, int32(1+d.IntN(size)))
	pg.Spec.Queue = fmt.Sprintf("q%d", d.IntN(3))
	pg.Spec.PriorityClassName = []string{"", "", "high"}[d.IntN(3)]
	d.c.SetGroup(pg)
	kind := d.IntN(7)
	for i := range size {
		p := pod(fmt.Sprintf("%s-%d", name, i), name, "1")
		ask := p.Spec.Containers[0].Resources.Requests
		switch kind {
		case 0, 1:
			ask["nvidia.com/gpu"] = kresource.MustParse("1")
		case 2:
			ask["nvidia.com/gpu"], ask["cpu"] = kresource.MustParse("2"), kresource.MustParse("2")
		case 3:
			p.Spec.NodeSelector = map[string]string{"zone": "1"}
		case 4:
			p.Spec.Tolerations = []corev1.Toleration{{Key: "own", Operator: corev1.TolerationOpExists}}
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80}}
		case 5:
			ask["cpu"] = kresource.MustParse("3")
		case 6:
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
				Weight: 5, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"2"}}}}}}}}
		}
		if odd && i == 0 {
			p.Labels = map[string]string{"app": "odd"}
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				TopologyKey: "kubernetes.io/hostname", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "odd"}}}}}}
		}
		d.set(p)
	}
}

func (d *drawn) set(p *corev1.Pod) {
	d.pods[string(p.UID)] = p
	d.c.SetPod(p)
}

// end has a pod, or all of a gang, go.
func (d *drawn) end() {
	uids := slices.Sorted(maps.Keys(d.pods))
	if len(uids) == 0 {
		return
	}
	of := uids[d.IntN(len(uids))]
	of = of[:strings.LastIndex(of, "-")]
	for _, uid := range uids {
		if strings.HasPrefix(uid, of+"-") {
			d.c.DeletePod(uid)
			delete(d.pods, uid)
		}
	}
	name := strings.TrimPrefix(of, "uid-")
	d.c.DeleteGroup("ns", name, "uid-"+name)
}

// change changes something.
func (d *drawn) change(odd bool, now time.Time) {
	switch d.IntN(10) {
	case 0:
		d.node(d.IntN(d.nodes))
	case 1:
		if d.IntN(4) == 0 {
			name := fmt.Sprintf("n%03d", d.IntN(d.nodes))
			d.c.DeleteNode(name, "uid-"+name)
		}
	case 2:
		if d.queue(d.IntN(3)); odd {
			d.reservation(now)
		}
	case 3, 4, 5:
		d.end()
	default:
		d.gang(odd && d.IntN(6) == 0)
	}
}

// reservation has two nodes kept for a queue for a while, or for no more.
func (d *drawn) reservation(now time.Time) {
	if d.IntN(3) == 0 {
		d.c.DeleteReservation("r", "uid-r")
		return
	}
	r := &hpcv1alpha1.Reservation{ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "uid-r", CreationTimestamp: metav1.NewTime(now)}}
	r.Spec.Duration, r.Spec.Owners.Queues = &metav1.Duration{Duration: time.Hour}, []string{"q1"}
	r.Spec.Nodes = &hpcv1alpha1.ReservedNodes{Names: []string{fmt.Sprintf("n%03d", d.IntN(d.nodes)), fmt.Sprintf("n%03d", d.IntN(d.nodes))}}
	d.c.SetReservation(r)
}

func (d *drawn) queue(i int) {
	q := &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("q%d", i)}, Spec: volcanov1.QueueSpec{Weight: int32(1 + d.IntN(3))}}
	if d.IntN(3) == 0 {
		q.Spec.Affinity = &volcanov1.Affinity{NodeGroupAffinity: &volcanov1.NodeGroupAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []string{"a"}}}
	}
	d.c.SetQueue(q)
}

// carryOut has what a plan says come about.
func (d *drawn) carryOut(p plan.Plan, now time.Time) {
	for _, pl := range p.Placements {
		for i, b := range pl.Binds {
			q := bound(d.pods[b.UID], b.Node, "attempt-"+pl.Name, len(pl.Binds), i)
			q.Status.Phase, q.Status.StartTime = corev1.PodRunning, &metav1.Time{Time: now}
			d.set(q)
		}
	}
	for _, claim := range p.Claims {
		d.c.Nominate(claim.Gang, claim.GangUID, claim.Nomination)
		for _, e := range claim.Evictions {
			d.c.Evict(e.UID, now)
		}
	}
	for _, st := range p.Statuses {
		d.c.mu.Lock()
		if e := d.c.gangs[st.Gang]; e != nil {
			e.written, e.writtenRV, e.snap = &st.Want, "11", nil
		}
		d.c.mu.Unlock()
	}
}

// TestCyclesThatRemember changes clusters at random, with a cycle after every few changes, by
// several configurations in turn: each cycle plans to the byte what one does that remembers
// nothing of those before it, and looks at far fewer nodes.
func TestCyclesThatRemember(t *testing.T) {
	pipes := []framework.Pipeline{schedtest.Pipeline()}
	for _, text := range []string{
		fmt.Sprintf(everything, "capacity"),
		strings.Replace(config.Standard, "- name: predicates", "- {name: predicates, arguments: {predicate.TaintTolerationEnable: false, predicate.NodePortsEnable: false}}", 1),
		strings.Replace(config.Standard, "- name: locality", "- name: locality\n  - {name: binpack, arguments: {binpack.weight: 5}}", 1),
	} {
		c, _, err := config.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		pipes = append(pipes, c.Pipeline())
	}
	var calls, remembering, fromNothing, placed, gone int
	for i := range pipes {
		pipes[i].Plugins = append(pipes[i].Plugins, countingFilter{&calls})
	}
	for seed := range seeds(t, 100) {
		d := &drawn{Rand: rand.New(rand.NewPCG(seed, 3)), c: New(), pods: map[string]*corev1.Pod{}}
		odd, several := seed%4 == 0, seed%3 == 0
		d.nodes = 4 + d.IntN(140)
		for i := range d.nodes {
			d.node(i)
		}
		for i := range 3 {
			d.queue(i)
		}
		d.c.SetPriorityClass(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 10})
		for range d.IntN(2 * d.nodes) {
			d.gang(false)
		}
		pipe, now := pipes[0], start
		for step := range 16 {
			now = now.Add(time.Duration(d.IntN(90)) * time.Second)
			if several {
				pipe = pipes[d.IntN(len(pipes))]
			}
			s := d.c.Snapshot(now)
			calls = 0
			fresh := schedtest.FromNothing(pipe, s, now)
			without := calls
			p := scheduler.Cycle(pipe, s, now)
			if !several && !odd {
				remembering, fromNothing = remembering+calls-without, fromNothing+without
			}
			if a, b := asJSON(t, p), asJSON(t, fresh); a != b {
				t.Fatalf("seed %d, cycle %d plans\n%s\nand one that remembers nothing\n%s\n%s\n%s", seed, step, p, fresh, a, b)
			}
			placed += len(p.Placements)
			for _, claim := range p.Claims {
				gone += len(claim.Evictions)
			}
			if d.IntN(6) > 0 { // else nothing of it comes about
				d.carryOut(p, now)
			}
			for range d.IntN(6) {
				d.change(odd, now)
			}
		}
	}
	if placed < 1000 || gone == 0 || remembering > fromNothing/2 {
		t.Errorf("%d gangs were placed and %d pods sent away; nodes were looked at %d times, and %d times from nothing", placed, gone, remembering, fromNothing)
	}
	t.Logf("%d gangs placed, %d pods sent away, nodes looked at %d times, from nothing %d", placed, gone, remembering, fromNothing)
}

func asJSON(t *testing.T, p plan.Plan) string {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
