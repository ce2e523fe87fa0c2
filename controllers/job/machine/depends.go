package machine

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

// release is which tasks may have pods: those that depend on no other, or whose
// other tasks are there.
type release struct {
	tasks map[string]bool
	// wait says for every task that may not what it waits for.
	wait map[string]string
	// lost says that what a task waits for can not come any more.
	lost map[string]bool
}

// released looks at spec.tasks[].dependsOn. A task that has pods stays released
// when what it depended on ends or is replaced.
func released(job *batch.Job, members []member) release {
	r := release{tasks: map[string]bool{}, wait: map[string]string{}, lost: map[string]bool{}}
	ready, open, has := map[string]int32{}, map[string]int32{}, map[string]bool{}
	for i := range members {
		m := &members[i]
		if !m.wanted || m.version != job.Status.Version || m.terminating() {
			continue
		}
		has[m.task] = true
		if isReady(m.pod) {
			ready[m.task]++
		} else if !m.finished() {
			open[m.task]++
		}
	}
	least := map[string]int32{}
	replicas := map[string]int32{}
	for i := range job.Spec.Tasks {
		t := &job.Spec.Tasks[i]
		replicas[t.Name] = t.Replicas
		// A task without a minimum is there when its first pod is.
		if least[t.Name] = *t.MinAvailable; least[t.Name] == 0 && t.Replicas > 0 {
			least[t.Name] = 1
		}
	}
	for i := range job.Spec.Tasks {
		t := &job.Spec.Tasks[i]
		if t.DependsOn == nil || len(t.DependsOn.Name) == 0 || has[t.Name] {
			r.tasks[t.Name] = true
			continue
		}
		var missing []string
		lost := 0
		for _, name := range t.DependsOn.Name {
			if ready[name] >= least[name] {
				continue
			}
			missing = append(missing, fmt.Sprintf("task %s, of which %d of %d pods are ready", name, ready[name], least[name]))
			made := int32(0)
			for j := range members {
				if m := &members[j]; m.task == name && m.wanted && m.version == job.Status.Version {
					made++
				}
			}
			if made == replicas[name] && ready[name]+open[name] < least[name] {
				lost++
			}
		}
		any := t.DependsOn.Iteration == batch.IterationAny
		if len(missing) == 0 || any && len(missing) < len(t.DependsOn.Name) {
			r.tasks[t.Name] = true
			continue
		}
		r.wait[t.Name] = fmt.Sprintf("task %s waits for %s", t.Name, strings.Join(missing, " and "))
		r.lost[t.Name] = lost > 0 && (!any || lost == len(missing))
	}
	// What waits for a task that never comes, never comes either.
	for range job.Spec.Tasks {
		for i := range job.Spec.Tasks {
			t := &job.Spec.Tasks[i]
			if r.tasks[t.Name] || r.lost[t.Name] {
				continue
			}
			n := 0
			for _, name := range t.DependsOn.Name {
				if r.lost[name] {
					n++
				}
			}
			any := t.DependsOn.Iteration == batch.IterationAny
			r.lost[t.Name] = n > 0 && (!any || n == len(t.DependsOn.Name))
		}
	}
	return r
}

// isReady says that a pod runs with all its containers ready, or has succeeded.
func isReady(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded:
		return true
	case corev1.PodRunning:
		return !slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return !s.Ready })
	}
	return false
}

// first says what the first task in the order of the spec waits for.
func (r release) first(job *batch.Job) string {
	for i := range job.Spec.Tasks {
		if text, ok := r.wait[job.Spec.Tasks[i].Name]; ok {
			return text
		}
	}
	return ""
}

// validateDepends checks that the tasks form no circle.
func validateDepends(job *batch.Job, tasks *field.Path) field.ErrorList {
	var errs field.ErrorList
	known := map[string]int{}
	for i := range job.Spec.Tasks {
		known[job.Spec.Tasks[i].Name] = i
	}
	for i := range job.Spec.Tasks {
		d := job.Spec.Tasks[i].DependsOn
		if d == nil {
			continue
		}
		path := tasks.Index(i).Child("dependsOn")
		if d.Iteration != "" && d.Iteration != batch.IterationAny && d.Iteration != batch.IterationAll {
			errs = append(errs, field.NotSupported(path.Child("iteration"), d.Iteration, []batch.Iteration{batch.IterationAny, batch.IterationAll}))
		}
		for j, name := range d.Name {
			if _, ok := known[name]; !ok {
				errs = append(errs, field.NotFound(path.Child("name").Index(j), name))
			}
		}
	}
	// A task is in a circle when it can be reached from itself.
	for i := range job.Spec.Tasks {
		seen := map[int]bool{}
		todo := []int{i}
		for len(todo) > 0 {
			at := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			d := job.Spec.Tasks[at].DependsOn
			if d == nil {
				continue
			}
			for _, name := range d.Name {
				next, ok := known[name]
				if ok && !seen[next] {
					seen[next] = true
					todo = append(todo, next)
				}
			}
		}
		if seen[i] {
			errs = append(errs, field.Invalid(tasks.Index(i).Child("dependsOn"), job.Spec.Tasks[i].Name, "the task depends on itself, directly or through others"))
			break // one circle, one error
		}
	}
	return errs
}
