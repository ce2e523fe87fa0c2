package cache

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batchv1 "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	busv1 "volcano.sh/apis/pkg/apis/bus/v1alpha1"
)

// SetJob takes in what a Job does when one of its pods is evicted.
func (c *Cache) SetJob(j *batchv1.Job) {
	uid, acts := string(j.UID), actsOnEviction(j)
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, known := c.jobs[uid]; known && old == acts {
		return
	}
	c.jobs[uid] = acts
	c.touchJob(j)
}

// DeleteJob forgets a Job.
func (c *Cache) DeleteJob(j *batchv1.Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.jobs, string(j.UID))
	c.touchJob(j)
}

// touchJob marks the gang of a Job, whose PodGroup has a name of its own, or the Job's
// in old releases of Volcano. It wakes nobody: what may be evicted places nothing.
func (c *Cache) touchJob(j *batchv1.Job) {
	for _, name := range []string{j.Name + "-" + string(j.UID), j.Name} {
		if g := c.gangs[groupKey(j.Namespace, name)]; g != nil {
			g.snap = nil
		}
	}
}

// actsOnEviction reports whether the Job of a gang restarts or ends something when one
// of its pods is evicted. One that is not known, or may not be read, might.
func (c *Cache) actsOnEviction(e *gangEntry) bool {
	for _, p := range e.pods {
		if p.job == "" {
			continue
		}
		if acts, known := c.jobs[p.job]; acts || !known {
			return true
		}
	}
	return false
}

// jobOf returns the UID of the Job that makes the pod anew under its name when it is
// ended, "" for none.
func jobOf(p *corev1.Pod) string {
	ref := metav1.GetControllerOfNoCopy(p)
	if ref == nil || ref.Kind != "Job" || !strings.HasPrefix(ref.APIVersion, batchv1.SchemeGroupVersion.Group+"/") {
		return ""
	}
	return string(ref.UID)
}

// actsOnEviction reports whether some policy, of the job or of a task, is about the
// eviction of a pod. One that resumes the job does nothing to it then.
func actsOnEviction(j *batchv1.Job) bool {
	acts := func(p batchv1.LifecyclePolicy) bool {
		about := func(e busv1.Event) bool { return e == busv1.PodEvictedEvent || e == busv1.AnyEvent }
		return p.ExitCode == nil && p.Action != busv1.ResumeJobAction && (about(p.Event) || slices.ContainsFunc(p.Events, about))
	}
	return slices.ContainsFunc(j.Spec.Policies, acts) ||
		slices.ContainsFunc(j.Spec.Tasks, func(t batchv1.TaskSpec) bool { return slices.ContainsFunc(t.Policies, acts) })
}

// onlyPolicies drops all of a Job but its name and policies: templates are large.
func onlyPolicies(o any) (any, error) {
	j, ok := o.(*batchv1.Job)
	if !ok {
		return o, nil
	}
	small := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: j.Namespace, Name: j.Name, UID: j.UID, ResourceVersion: j.ResourceVersion},
		Spec:       batchv1.JobSpec{Policies: j.Spec.Policies},
	}
	for _, t := range j.Spec.Tasks {
		if len(t.Policies) > 0 {
			small.Spec.Tasks = append(small.Spec.Tasks, batchv1.TaskSpec{Policies: t.Policies})
		}
	}
	return small, nil
}
