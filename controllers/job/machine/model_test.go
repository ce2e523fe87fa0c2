package machine

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// world is a cluster in which the controller may die between any two writes.
type world struct {
	s      *scene
	serial int
}

func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{s: newScene("", rapid.Int32Range(1, 3).Draw(t, "replicas"))}
		w.s.pg = nil
		job := w.s.job
		job.Spec.Tasks = append(job.Spec.Tasks, task("x", rapid.Int32Range(0, 2).Draw(t, "more")))
		job.Spec.MaxRetry = rapid.Int32Range(1, 3).Draw(t, "maxRetry")
		if rapid.Bool().Draw(t, "low") {
			job.Spec.MinAvailable = 1
		}
		if rapid.Bool().Draw(t, "minSuccess") {
			job.Spec.MinSuccess = ptr.To[int32](1)
		}
		if rapid.Bool().Draw(t, "dependsOn") {
			job.Spec.Tasks[1].DependsOn = &batch.DependsOn{Name: []string{"w"}}
		}
		job.Spec.Policies = drawPolicies(t)
		job.Spec.Tasks[0].Policies = drawPolicies(t)
		if errs := Validate(Default(job), nil); len(errs) > 0 {
			t.Fatalf("the model's job is invalid: %v", errs)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.disturb(t)
			w.reconcile(t)
		}
		w.settle(t)
	})
}

// drawPolicies draws policies about any events: all of them, each with a policy or
// without, or one for all; and one about an exit code.
func drawPolicies(t *rapid.T) (out []batch.LifecyclePolicy) {
	events := supportedEvents()[1:]
	if rapid.IntRange(0, 3).Draw(t, "any") == 0 {
		events = []bus.Event{bus.AnyEvent}
	}
	action := rapid.SampledFrom(supportedActions())
	for _, e := range events {
		if rapid.IntRange(0, 2).Draw(t, "policy") > 0 {
			continue
		}
		p := batch.LifecyclePolicy{Action: action.Draw(t, "action"), Event: e}
		if e == bus.PodPendingEvent || e != bus.JobUpdatedEvent && rapid.Bool().Draw(t, "timeout") {
			p.Timeout = &metav1.Duration{Duration: 5 * time.Second}
		}
		out = append(out, p)
	}
	if rapid.IntRange(0, 2).Draw(t, "exit code") == 0 {
		out = append(out, batch.LifecyclePolicy{Action: action.Draw(t, "action"), ExitCode: ptr.To[int32](1)})
	}
	return out
}

func (w *world) disturb(t *rapid.T) {
	w.s.now = w.s.now.Add(time.Second)
	if w.s.pg != nil && rapid.Bool().Draw(t, "podgroup") {
		w.s.pg.Status.Phase = rapid.SampledFrom([]scheduling.PodGroupPhase{
			scheduling.PodGroupInqueue, scheduling.PodGroupInqueue, scheduling.PodGroupRunning, scheduling.PodGroupUnknown, scheduling.PodGroupPending}).Draw(t, "phase")
	}
	if len(w.s.pods) > 0 {
		i := rapid.IntRange(0, len(w.s.pods)-1).Draw(t, "pod")
		pod := w.s.pods[i]
		switch rapid.SampledFrom([]string{"run", "run", "succeed", "fail", "evict", "vanish", "unknown", "containers restart"}).Draw(t, "what") {
		case "run":
			if pod.Status.Phase == corev1.PodPending {
				setPhase(pod, corev1.PodRunning, 0, w.s.now)
			}
		case "succeed":
			if pod.Status.Phase == corev1.PodRunning {
				setPhase(pod, corev1.PodSucceeded, 0, w.s.now)
			}
		case "fail":
			if pod.Status.Phase == corev1.PodRunning {
				setPhase(pod, corev1.PodFailed, 1, w.s.now)
			}
		case "evict":
			terminating(pod)
		case "vanish":
			w.s.pods = append(w.s.pods[:i:i], w.s.pods[i+1:]...)
		case "containers restart":
			if pod.Status.Phase == corev1.PodRunning {
				pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: 4}}
			}
		case "unknown":
			if pod.Status.Phase == corev1.PodRunning {
				pod.Status.Phase = corev1.PodUnknown
			}
		}
	}
	if len(w.s.commands) < 2 && rapid.IntRange(0, 19).Draw(t, "command") == 0 {
		w.serial++
		w.s.commands = append(w.s.commands, command(rapid.SampledFrom(supportedActions()).Draw(t, "action"), types.UID(fmt.Sprint("c-", w.serial))))
	}
	if rapid.IntRange(0, 9).Draw(t, "scale") == 0 {
		w.s.job.Spec.Tasks[1].Replicas = rapid.Int32Range(0, 2).Draw(t, "to")
		w.s.job.Spec.Tasks[1].MinAvailable = nil
		w.s.job.Generation++
	}
}

// resumes says that the pass may count a retry beyond the last: a resumed job
// uses one up, and fails when there was none left.
func resumes(out Output) bool {
	return out.DeleteCommand != nil && out.DeleteCommand.Action == string(bus.ResumeJobAction)
}

// reconcile does what the reconciler does, and stops after a random write.
func (w *world) reconcile(t *rapid.T) {
	job := w.s.job
	before := *job.Status.DeepCopy()
	out := w.s.next()
	st := out.Status

	if n := int(st.Pending + st.Running + st.Succeeded + st.Failed + st.Terminating + st.Unknown); n != len(w.s.pods) {
		t.Fatalf("counts add up to %d, there are %d pods", n, len(w.s.pods))
	}
	if st.Version < before.Version || st.RetryCount < before.RetryCount || st.RetryCount > max(before.RetryCount, Default(job).Spec.MaxRetry) && !resumes(out) {
		t.Fatalf("version %d -> %d, retries %d -> %d", before.Version, st.Version, before.RetryCount, st.RetryCount)
	}
	if st.RetryCount > before.RetryCount+1 {
		t.Fatalf("one pass counts %d retries", st.RetryCount-before.RetryCount)
	}
	resumed := resumes(out) && before.State.Phase == batch.Aborted
	if (Finished(before.State.Phase) || before.State.Phase == batch.Aborted) && !resumed &&
		(st.State.Phase != before.State.Phase || len(out.CreatePods) > 0 || out.CreatePodGroup != nil) {
		t.Fatalf("a finished job went on: %s -> %s", before.State.Phase, st.State.Phase)
	}
	w.checkPodGroup(t, &out)
	names := map[string]bool{}
	for _, pod := range w.s.pods {
		names[pod.Name] = true
	}
	for _, c := range out.CreatePods {
		if names[c.Pod.Name] || !admitted(w.s.pg) || !active(st.State.Phase) {
			t.Fatalf("pod %s created: name held %v, PodGroup %s, job %s", c.Pod.Name, names[c.Pod.Name], w.s.pg.Status.Phase, st.State.Phase)
		}
		names[c.Pod.Name] = true
	}
	if !active(st.State.Phase) && st.State.Phase != batch.Restarting {
		for _, pod := range out.DeletePods {
			if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
				t.Fatalf("the ended pod %s is deleted in phase %s", pod.Name, st.State.Phase)
			}
		}
	}

	crash := rapid.IntRange(0, 8).Draw(t, "writes")
	write := func(do func()) {
		if crash > 0 {
			crash--
			do()
		}
	}
	if pg := out.CreatePodGroup; pg != nil {
		write(func() { w.s.pg = pg })
	}
	if spec := out.UpdatePodGroup; spec != nil {
		write(func() { w.s.pg.Spec = *spec })
	}
	for _, c := range out.CreatePods {
		write(func() {
			w.serial++
			c.Pod.UID = types.UID(fmt.Sprint("pod-", w.serial))
			c.Pod.CreationTimestamp = metav1.NewTime(w.s.now)
			c.Pod.Status.Phase = corev1.PodPending
			w.s.pods = append(w.s.pods, c.Pod)
		})
	}
	if len(out.DeletePods)+len(out.CreatePods) == 0 || crash > 0 {
		job.Status = st
	} else {
		return // died before the status was written: nothing may be deleted
	}
	for _, pod := range out.DeletePods {
		write(func() { terminating(pod) })
	}
	if out.DeleteCommand != nil {
		write(func() { w.s.commands = w.s.commands[1:] })
	}
	if out.DeletePodGroup {
		write(func() { w.s.pg = nil })
	}
}

// checkPodGroup holds the order of a PodGroup's life: it is made once the last one is
// gone, in phase Pending and of the job's version, and goes only when that was raised.
func (w *world) checkPodGroup(t *rapid.T, out *Output) {
	version := out.Status.Version
	if pg := out.CreatePodGroup; pg != nil && (w.s.pg != nil || pg.Status.Phase != scheduling.PodGroupPending || versionOf(pg.Annotations) != version ||
		len(out.CreatePods) > 0 || !active(out.Status.State.Phase)) {
		t.Fatalf("a PodGroup in phase %q of version %d is created for version %d of a job that is %s, with %d pods; there is %v",
			pg.Status.Phase, versionOf(pg.Annotations), version, out.Status.State.Phase, len(out.CreatePods), w.s.pg)
	}
	if out.StampPodGroup != nil {
		t.Fatalf("a PodGroup of our own is stamped %d", *out.StampPodGroup)
	}
	if w.s.pg == nil {
		return
	}
	if old := versionOf(w.s.pg.Annotations) < version; out.DeletePodGroup != old || old && (out.UpdatePodGroup != nil || len(out.CreatePods) > 0) {
		t.Fatalf("the PodGroup of version %d is deleted: %v, changed: %v, given %d pods; the job's version is %d",
			versionOf(w.s.pg.Annotations), out.DeletePodGroup, out.UpdatePodGroup != nil, len(out.CreatePods), version)
	}
}

// settle lets the cluster do its work undisturbed: every job comes to rest.
func (w *world) settle(t *rapid.T) {
	for range 200 {
		w.s.now = w.s.now.Add(time.Second)
		var kept []*corev1.Pod
		for _, pod := range w.s.pods {
			if pod.DeletionTimestamp == nil {
				setPhase(pod, map[corev1.PodPhase]corev1.PodPhase{corev1.PodPending: corev1.PodRunning, corev1.PodRunning: corev1.PodSucceeded,
					corev1.PodUnknown: corev1.PodRunning, corev1.PodSucceeded: corev1.PodSucceeded, corev1.PodFailed: corev1.PodFailed}[pod.Status.Phase], 1, w.s.now)
				kept = append(kept, pod)
			}
		}
		w.s.pods = kept
		if w.s.pg != nil {
			w.s.pg.Status.Phase = scheduling.PodGroupRunning
		}
		out := w.s.next()
		if out.CreatePodGroup != nil {
			w.s.pg = out.CreatePodGroup
		}
		for _, c := range out.CreatePods {
			c.Pod.Status.Phase = corev1.PodPending
			w.s.pods = append(w.s.pods, c.Pod)
		}
		w.s.job.Status = out.Status
		for _, pod := range out.DeletePods {
			terminating(pod)
		}
		if out.DeletePodGroup {
			w.s.pg = nil
		}
		if out.DeleteCommand != nil {
			w.s.commands = w.s.commands[1:]
			continue
		}
		if phase := out.Status.State.Phase; Finished(phase) || phase == batch.Aborted {
			return
		}
	}
	t.Fatalf("the job never came to rest: %+v", w.s.job.Status)
}
