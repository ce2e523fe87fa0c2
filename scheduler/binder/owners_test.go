package binder_test

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

const gpu = "nvidia.com/gpu"

// job is a gang as its owner wants it.
type job struct {
	name  string
	size  int
	min   int
	gpus  int
	over  bool // it has ended, or was deleted
	queue string
	prio  int32
	// ranked says that its pods have priorities of their own, each a higher one than the last.
	ranked bool
	made   int
	// hurt says that it lost members since the first of them was bound.
	hurt bool
}

func (w *world) node(name string, gpus, hosts int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: w.uid()}}
	if hosts > 0 {
		n.Labels = map[string]string{wellknown.VirtualNode: "true"}
		n.Annotations = map[string]string{wellknown.HostShapes: fmt.Sprintf(`{"shapes":[{"count":%d,"resources":{"cpu":64000,"nvidia.com/gpu":%d}}]}`, hosts, gpus)}
	}
	n.Status = corev1.NodeStatus{
		Allocatable: corev1.ResourceList{"cpu": kresource.MustParse("64"), "pods": kresource.MustParse("110"), gpu: *kresource.NewQuantity(int64(gpus*max(hosts, 1)), kresource.DecimalSI)},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}
	return n
}

func (w *world) queue(name string, weight int32) *volcanov1.Queue {
	q := &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}, Spec: volcanov1.QueueSpec{Weight: weight}}
	q.Status.State = volcanov1.QueueStateOpen
	return q
}

// submit makes a gang, whose pods make adds.
func (w *world) submit(j *job) {
	w.jobs = append(w.jobs, j)
	w.api.put(groups, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: j.name, UID: w.uid(), CreationTimestamp: metav1.NewTime(w.now)},
		Spec:       volcanov1.PodGroupSpec{MinMember: int32(j.min), Queue: j.queue},
		Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupPending},
	})
}

// make has owners make the pods that their gangs lack.
func (w *world) make() {
	for _, j := range w.jobs {
		for i := 0; i < j.size && !j.over; i++ {
			name := fmt.Sprintf("%s-%d", j.name, i)
			if w.api.pod(name) != nil {
				continue
			}
			ask := corev1.ResourceList{"cpu": kresource.MustParse("1")}
			if j.gpus > 0 {
				ask[gpu] = *kresource.NewQuantity(int64(j.gpus), kresource.DecimalSI)
			}
			annotations := map[string]string{wellknown.PodGroupName: j.name, "volcano.sh/task-spec": "w", "volcano.sh/task-index": fmt.Sprint(i)}
			if j.ranked {
				annotations[wellknown.TaskPriority] = fmt.Sprint(i)
			}
			w.api.put(pods, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: w.uid(), CreationTimestamp: metav1.NewTime(w.now), Annotations: annotations},
				Spec: corev1.PodSpec{
					SchedulerName: wellknown.SchedulerIsthmus, Priority: &j.prio,
					Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: ask}}},
				},
				Status: corev1.PodStatus{Phase: corev1.PodPending},
			})
		}
	}
}

// of lists the pods of a gang.
func (w *world) of(j *job) (out []*corev1.Pod) {
	for i := range j.size {
		if p := w.api.pod(fmt.Sprintf("%s-%d", j.name, i)); p != nil {
			out = append(out, p)
		}
	}
	return out
}

// have counts the members that are placed or done.
func (w *world) have(j *job) (n int) {
	for _, p := range w.of(j) {
		if p.Spec.NodeName != "" && p.DeletionTimestamp == nil {
			n++
		}
	}
	return n
}

// hurts notes that a gang is losing a member.
func (w *world) hurts(p *corev1.Pod) {
	for _, j := range w.jobs {
		j.hurt = j.hurt || j.name == p.Annotations[wellknown.PodGroupName]
	}
}

// binding reports whether a member's binding is under way, or the scheduler has not heard yet
// of all that were lost: one more may still be bound beside these.
func (w *world) binding(j *job) bool {
	return slices.ContainsFunc(w.of(j), func(p *corev1.Pod) bool { _, ok := w.assumed[string(p.UID)]; return ok }) || w.seesBound(j)
}

// seesBound reports whether the scheduler sees a member that has a place.
func (w *world) seesBound(j *job) bool {
	for i := range j.size {
		if p, ok := w.store[pods][fmt.Sprintf("%s-%d", j.name, i)].(*corev1.Pod); ok && p.Spec.NodeName != "" {
			return true
		}
	}
	return false
}

// run has kubelets start what is bound, and end what is to go or has no node.
func (w *world) run() {
	for _, j := range w.jobs {
		for _, p := range w.of(j) {
			switch {
			case p.Spec.NodeName == "" || p.Status.Phase == corev1.PodSucceeded:
			case p.DeletionTimestamp != nil || w.api.objects[nodes][p.Spec.NodeName] == nil:
				w.hurts(p)
				w.api.drop(pods, p.Name)
			case p.Status.Phase == corev1.PodPending:
				p = p.DeepCopy()
				p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &metav1.Time{Time: w.now}
				w.api.put(pods, p)
			}
		}
		if w.have(j) == 0 && !w.binding(j) {
			j.hurt = false
		}
	}
}

// finish ends a gang well that runs.
func (w *world) finish(j *job) {
	if w.have(j) < j.min {
		return
	}
	j.over = true
	for _, p := range w.of(j) {
		if p.Spec.NodeName == "" {
			w.api.drop(pods, p.Name)
			continue
		}
		p = p.DeepCopy()
		p.Status.Phase = corev1.PodSucceeded
		w.api.put(pods, p)
	}
}

// cancel deletes a gang.
func (w *world) cancel(j *job) {
	j.over = true
	for _, p := range w.of(j) {
		w.api.remove(p)
	}
	w.api.drop(groups, j.name)
}

func (w *world) job(i int) *job {
	if open := slices.DeleteFunc(slices.Clone(w.jobs), func(j *job) bool { return j.over }); len(open) > 0 {
		return open[i%len(open)]
	}
	return nil
}
