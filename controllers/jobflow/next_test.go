package jobflow

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
)

// scene is the flow a -> b, c -> d: b and c need a, d needs both.
func scene() Input {
	in := Input{Flow: &flow.JobFlow{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "f", UID: "u"}},
		Jobs: map[string]*batch.Job{}, Templates: map[string]*flow.JobTemplate{}, Answers: map[Question]string{}, Now: time.Unix(1e9, 0)}
	for name, targets := range map[string][]string{"a": nil, "b": {"a"}, "c": {"a"}, "d": {"b", "c"}} {
		in.Templates[name] = &flow.JobTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: batch.JobSpec{Queue: "q", Tasks: []batch.TaskSpec{
			{Name: "w", Replicas: 2, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "one"}, {Name: "side", Image: "two"}}}}}}}}
		step := flow.Flow{Name: name}
		if targets != nil {
			step.DependsOn = &flow.DependsOn{Targets: targets}
		}
		in.Flow.Spec.Flows = append(in.Flow.Spec.Flows, step)
	}
	sortSteps(in.Flow)
	return in
}

func sortSteps(f *flow.JobFlow) {
	s := f.Spec.Flows
	for i := range s {
		for j := i + 1; j < len(s); j++ {
			if s[j].Name < s[i].Name {
				s[i], s[j] = s[j], s[i]
			}
		}
	}
}

func (in Input) step(name string) *flow.Flow {
	for i := range in.Flow.Spec.Flows {
		if in.Flow.Spec.Flows[i].Name == name {
			return &in.Flow.Spec.Flows[i]
		}
	}
	return nil
}

func (in Input) with(name string, phase batch.JobPhase) Input {
	job := &batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: JobName("f", name), UID: "u-" + "x"}, Spec: in.Templates[name].Spec}
	job.Status.State.Phase = phase
	in.Jobs[job.Name] = job
	return in
}

func created(o Output) string {
	var names []string
	for _, j := range o.Create {
		names = append(names, j.Name)
	}
	return strings.Join(names, " ")
}

func TestOrder(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in     Input
		create string
		phase  flow.Phase
	}{
		"the start":            {scene(), "f-a", flow.Pending},
		"a runs":               {scene().with("a", batch.Running), "", flow.Running},
		"a is done":            {scene().with("a", batch.Completed), "f-b f-c", flow.Running},
		"one of two":           {scene().with("a", batch.Completed).with("b", batch.Completed).with("c", batch.Running), "", flow.Running},
		"both":                 {scene().with("a", batch.Completed).with("b", batch.Completed).with("c", batch.Completed), "f-d", flow.Running},
		"all":                  {scene().with("a", batch.Completed).with("b", batch.Completed).with("c", batch.Completed).with("d", batch.Completed), "", flow.Succeed},
		"one failed":           {scene().with("a", batch.Completed).with("b", batch.Failed), "", flow.Failed},
		"one was terminated":   {scene().with("a", batch.Terminated), "", flow.Failed},
		"one is suspended":     {scene().with("a", batch.Completed).with("b", batch.Aborted), "f-c", flow.Running},
		"restarting is no end": {scene().with("a", batch.Restarting), "", flow.Running},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := Next(tt.in)
			if created(out) != tt.create || out.Status.State.Phase != tt.phase {
				t.Errorf("creates %q, %s; want %q, %s", created(out), out.Status.State.Phase, tt.create, tt.phase)
			}
			for _, j := range out.Create {
				if !metav1.IsControlledBy(j, tt.in.Flow) || j.Labels[byFlow] != "ns.f" || j.Annotations[byTemplate] != "ns."+strings.TrimPrefix(j.Name, "f-") || j.Spec.Queue != "q" {
					t.Errorf("%+v", j.ObjectMeta)
				}
			}
		})
	}
}

func TestRetain(t *testing.T) {
	t.Parallel()
	in := scene().with("a", batch.Completed).with("b", batch.Completed).with("c", batch.Completed).with("d", batch.Completed)
	in.Flow.Spec.JobRetainPolicy = flow.Delete
	out := Next(in)
	if len(out.Delete) != 0 {
		t.Fatal("deleted before the success is on record")
	}
	in.Flow.Status = out.Status
	if out = Next(in); len(out.Delete) != 4 {
		t.Fatalf("deletes %d", len(out.Delete))
	}
	in.Jobs = map[string]*batch.Job{}
	if out = Next(in); len(out.Create) != 0 || out.Status.State.Phase != flow.Succeed || len(out.Status.CompletedJobs) != 4 {
		t.Errorf("after the deletion: creates %q, %+v", created(out), out.Status)
	}
}

// A Job that its time to live removed while the flow goes on is not run again, and
// what depends on it is.
func TestGoneJobs(t *testing.T) {
	t.Parallel()
	in := scene().with("a", batch.Completed)
	in.Flow.Status = Next(in).Status
	delete(in.Jobs, "f-a")
	out := Next(in)
	if created(out) != "f-b f-c" || strings.Join(out.Status.CompletedJobs, " ") != "f-a" || out.Status.State.Phase != flow.Running || len(out.Status.JobStatusList) != 1 || len(out.Status.Conditions) != 1 {
		t.Fatalf("creates %q, %+v", created(out), out.Status)
	}
	in.Flow.Status = out.Status
	in = in.with("b", batch.Completed).with("c", batch.Completed).with("d", batch.Completed)
	if out := Next(in); created(out) != "" || out.Status.State.Phase != flow.Succeed || len(out.Status.CompletedJobs) != 4 {
		t.Errorf("creates %q, %+v", created(out), out.Status)
	}

	// A failed one that a user deletes is tried again.
	in = scene().with("a", batch.Failed)
	in.Flow.Status = Next(in).Status
	delete(in.Jobs, "f-a")
	if out := Next(in); created(out) != "f-a" || out.Status.State.Phase != flow.Pending {
		t.Errorf("creates %q, %+v", created(out), out.Status)
	}
	// One that was to go by itself is not.
	in.Templates["a"].Spec.TTLSecondsAfterFinished = ptr.To[int32](0)
	out = Next(in)
	if created(out) != "" || out.Status.State.Phase != flow.Failed || strings.Join(out.Status.FailedJobs, " ") != "f-a" {
		t.Errorf("creates %q, %+v", created(out), out.Status)
	}
	in.Flow.Status = flow.JobFlowStatus{}
	if out := Next(in); created(out) != "f-a" || *out.Create[0].Spec.TTLSecondsAfterFinished != leastTTL {
		t.Errorf("the Job is gone before the flow can see its end: %+v", out.Create)
	}
}

// A flow that is being deleted says so and starts nothing.
func TestTerminating(t *testing.T) {
	t.Parallel()
	in := scene()
	in.Flow.DeletionTimestamp = ptr.To(metav1.Unix(1e9, 0))
	if out := Next(in); created(out) != "" || out.Status.State.Phase != flow.Terminating {
		t.Errorf("creates %q, phase %s", created(out), out.Status.State.Phase)
	}
}

func TestProbes(t *testing.T) {
	t.Parallel()
	in := scene().with("a", batch.Running)
	in.step("b").DependsOn.Probe = &flow.Probe{
		HttpGetList:    []flow.HttpGet{{TaskName: "w", Path: "/ready", Port: 80, HTTPHeader: corev1.HTTPHeader{Name: "k", Value: "v"}}},
		TcpSocketList:  []flow.TcpSocket{{TaskName: "w", Port: 81}},
		TaskStatusList: []flow.TaskStatus{{TaskName: "w", Phase: "Running"}},
	}
	out := Next(in)
	if created(out) != "" || len(out.Ask) != 2 || out.Ask[0] != (Question{Job: "f-a", Task: "w", Port: 80, Path: "/ready", Header: "k", Value: "v"}) || !out.Ask[1].TCP {
		t.Fatalf("creates %q, asks %+v", created(out), out.Ask)
	}
	in.Answers[out.Ask[0]], in.Answers[out.Ask[1]] = "", ""
	if out := Next(in); created(out) != "" || len(out.Ask) != 0 {
		t.Errorf("too few of the task run: creates %q", created(out))
	}
	in.Jobs["f-a"].Status.TaskStatusCount = map[string]batch.TaskState{"w": {Phase: map[corev1.PodPhase]int32{corev1.PodRunning: 2}}}
	if out := Next(in); created(out) != "f-b" {
		t.Errorf("creates %q", created(out))
	}
	for q := range in.Answers {
		in.Answers[q] = "refused"
	}
	if out := Next(in); created(out) != "" || len(out.Notices) != 1 || !strings.Contains(out.Notices[0].Message, "job f-b waits for job f-a: refused; refused") {
		t.Errorf("creates %q though no probe is answered, says %+v", created(out), out.Notices)
	}
	in = in.with("a", batch.Completed)
	if out := Next(in); created(out) != "f-b f-c" || len(out.Ask) != 0 {
		t.Errorf("creates %q, asks %+v of a Job that has completed", created(out), out.Ask)
	}
}

func TestPatch(t *testing.T) {
	t.Parallel()
	in := scene()
	in.step("a").Patch = &flow.Patch{JobSpec: batch.JobSpec{Queue: "other", MaxRetry: 7, Tasks: []batch.TaskSpec{
		{Name: "w", Replicas: 5, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "three",
			Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("2")}}}}}}},
		{Name: "new", Replicas: 1},
	}}}
	spec := Next(in).Create[0].Spec
	if spec.Queue != "other" || spec.MaxRetry != 7 || len(spec.Tasks) != 2 || spec.Tasks[0].Replicas != 5 || spec.Tasks[1].Name != "new" {
		t.Fatalf("%+v", spec)
	}
	containers := spec.Tasks[0].Template.Spec.Containers
	if len(containers) != 2 || containers[0].Image != "three" || containers[0].Resources.Limits.Cpu().Value() != 2 || containers[1].Image != "two" {
		t.Errorf("%+v", containers)
	}
	if in.Templates["a"].Spec.Queue != "q" {
		t.Error("the template was changed")
	}
	in.step("a").Patch = &flow.Patch{JobSpec: batch.JobSpec{Tasks: []batch.TaskSpec{{Name: "w", MinAvailable: ptr.To[int32](1)}}}}
	if spec := Next(in).Create[0].Spec; len(spec.Tasks[0].Template.Spec.Containers) != 2 || *spec.Tasks[0].MinAvailable != 1 {
		t.Errorf("a patch without containers: %+v", spec.Tasks[0])
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for want, edit := range map[string]func(Input){
		`spec.flows[1].dependsOn.targets[0]: Not found: "z"`:                     func(in Input) { in.step("b").DependsOn.Targets = []string{"z"} },
		`spec.flows[0].dependsOn: Invalid value: "a"`:                            func(in Input) { in.step("a").DependsOn = &flow.DependsOn{Targets: []string{"d"}} },
		`spec.flows[1].name: Duplicate value: "a"`:                               func(in Input) { in.Flow.Spec.Flows[1] = flow.Flow{Name: "a"}; in.step("d").DependsOn = nil },
		`spec.flows[0].name: Invalid value: "A_"`:                                func(in Input) { in.Flow.Spec.Flows[0].Name = "A_"; in.Flow.Spec.Flows = in.Flow.Spec.Flows[:1] },
		`metadata.annotations[isthmus.sh/queue-early]: Unsupported value: "yes"`: func(in Input) { in.Flow.Annotations = map[string]string{"isthmus.sh/queue-early": "yes"} },
		"waits for a JobTemplate named a":                                        func(in Input) { delete(in.Templates, "a") },
	} {
		in := scene()
		edit(in)
		out := Next(in)
		if len(out.Create) != 0 || len(out.Notices) == 0 || !out.Notices[0].Warning || !strings.Contains(out.Notices[0].Message, want) {
			t.Errorf("want %s: creates %q, %+v", want, created(out), out.Notices)
		}
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	in := scene()
	for i, phase := range []batch.JobPhase{batch.Pending, batch.Running, batch.Running, batch.Restarting, batch.Running, batch.Completed} {
		in = in.with("a", phase)
		in.Jobs["f-a"].Status.State.LastTransitionTime = metav1.Unix(int64(i), 0)
		in.Flow.Status = Next(in).Status
	}
	line := in.Flow.Status.JobStatusList[0]
	if line.Name != "f-a" || line.State != batch.Completed || len(line.RunningHistories) != 5 || line.EndTimestamp.Unix() != 5 || line.RunningHistories[1].EndTimestamp.Unix() != 3 {
		t.Errorf("%+v", line)
	}
}

// Whatever the flow and whatever becomes of its Jobs: no Job starts before its
// targets have completed, none twice, and every flow whose Jobs complete succeeds.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := scene()
		in.Flow.Spec.Flows = nil
		n := rapid.IntRange(1, 6).Draw(t, "steps")
		for i := range n {
			step := flow.Flow{Name: string(rune('a' + i)), DependsOn: &flow.DependsOn{}}
			for j := range i {
				if rapid.Bool().Draw(t, "depends") {
					step.DependsOn.Targets = append(step.DependsOn.Targets, string(rune('a'+j)))
				}
			}
			in.Templates[step.Name] = in.Templates["a"]
			in.Flow.Spec.Flows = append(in.Flow.Spec.Flows, step)
		}
		for range 10 * n {
			out := Next(in)
			for _, j := range out.Create {
				if in.Jobs[j.Name] != nil {
					t.Fatalf("%s twice", j.Name)
				}
				for _, target := range in.step(strings.TrimPrefix(j.Name, "f-")).DependsOn.Targets {
					if in.Jobs["f-"+target].Status.State.Phase != batch.Completed {
						t.Fatalf("%s before %s", j.Name, target)
					}
				}
				if rapid.IntRange(0, 3).Draw(t, "crash") > 0 {
					in.Jobs[j.Name] = j
				}
			}
			in.Flow.Status = out.Status
			for _, j := range in.Jobs {
				if rapid.Bool().Draw(t, "ends") {
					j.Status.State.Phase = batch.Completed
				}
			}
			if out.Status.State.Phase == flow.Succeed {
				if len(in.Jobs) != n {
					t.Fatalf("success with %d of %d jobs", len(in.Jobs), n)
				}
				return
			}
		}
		for range 3 * n { // undisturbed
			for _, j := range Next(in).Create {
				in.Jobs[j.Name] = j
			}
			for _, j := range in.Jobs {
				j.Status.State.Phase = batch.Completed
			}
		}
		if out := Next(in); out.Status.State.Phase != flow.Succeed {
			t.Fatalf("never done: %+v", out.Status)
		}
	})
}
