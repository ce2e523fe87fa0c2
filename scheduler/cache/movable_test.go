package cache

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batchv1 "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	busv1 "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// TestMovable: a pod may be ended to run elsewhere if its owner says so and its Job makes
// it anew, and does nothing else about it. What the PodGroup says may change, and the Job may
// be seen after its pods.
func TestMovable(t *testing.T) {
	job := *metav1.NewControllerRef(&metav1.ObjectMeta{Name: "j", UID: "uid-j"}, batchv1.SchemeGroupVersion.WithKind("Job"))
	policy := func(event busv1.Event, action busv1.Action) []batchv1.LifecyclePolicy {
		return []batchv1.LifecyclePolicy{{Event: busv1.PodFailedEvent, Action: busv1.RestartJobAction}, {Events: []busv1.Event{event}, Action: action}}
	}
	spec := func(policies []batchv1.LifecyclePolicy) *batchv1.JobSpec { return &batchv1.JobSpec{Policies: policies} }
	ofTask := &batchv1.JobSpec{Tasks: []batchv1.TaskSpec{{Policies: policy(busv1.PodEvictedEvent, busv1.RestartTaskAction)}}}
	simple := spec(policy(busv1.TaskCompletedEvent, busv1.CompleteJobAction))
	yes := map[string]string{volcanov1.PodPreemptable: "true"}
	for name, tc := range map[string]struct {
		job        *batchv1.JobSpec // nil for one that is not known
		alone      bool
		pod, group map[string]string
		want, acts bool
	}{
		"by the pod":             {job: simple, pod: yes, want: true},
		"by the PodGroup":        {job: simple, group: yes, want: true},
		"of nobody":              {job: simple, alone: true, pod: yes},
		"nobody says so":         {job: simple},
		"of a Job nobody knows":  {pod: yes, acts: true},
		"by the pod, a policy":   {job: spec(policy(busv1.PodEvictedEvent, busv1.RestartJobAction)), pod: yes, acts: true},
		"by the group, a policy": {job: spec(policy(busv1.AnyEvent, busv1.TerminateJobAction)), group: yes, acts: true},
		"a task's policy":        {job: ofTask, pod: yes, acts: true},
		"resumed":                {job: spec(policy(busv1.PodEvictedEvent, busv1.ResumeJobAction)), pod: yes, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := New()
			c.SetNode(node("n", "8"))
			p := bound(pod("a", "g", "1"), "n", "x", 1, 0)
			for k, v := range tc.pod {
				p.Annotations[k] = v
			}
			if !tc.alone {
				p.OwnerReferences = []metav1.OwnerReference{job}
			}
			c.SetPod(p)
			pg := podGroup("g", 1)
			c.SetGroup(pg)
			pg = pg.DeepCopy()
			pg.ResourceVersion, pg.Annotations = "11", tc.group
			c.Snapshot(start)
			c.SetGroup(pg)
			if tc.job != nil {
				small, err := onlyPolicies(&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: pg.Namespace, Name: "g", UID: "uid-j"}, Spec: *tc.job})
				if err != nil {
					t.Fatal(err)
				}
				c.SetJob(small.(*batchv1.Job)) //nolint:forcetypeassert // it is what a Job is made
			}
			s := c.Snapshot(start)
			if got := s.Gangs[0].ActsOnEviction; got != tc.acts {
				t.Errorf("its Job acts on evictions: %t, want %t", got, tc.acts)
			}
			if len(s.Gangs) != 1 || len(s.Gangs[0].Pods) != 1 {
				t.Fatalf("one gang of one pod is to be there: %v", s.Gangs)
			}
			if got := s.Gangs[0].Pods[0].Movable; got != tc.want {
				t.Errorf("it is movable: %t, want %t", got, tc.want)
			}
		})
	}
}
