package admission_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// filled are the defaults of the reference: what is written, and what the API
// server makes of it.
func filled() []row {
	return []row{
		{row: "2.7 queue default, schedulerName, maxRetry 3, task name, task maxRetry, minAvailable of task and job",
			object: jobOf("tasks: [{replicas: 2, " + pod + "}, {name: b, replicas: 3, minAvailable: 1, maxRetry: 7, " + pod + "}, {" + pod + "}]"),
			wants: `{"maxRetry":3,"minAvailable":3,"queue":"default","schedulerName":"volcano","tasks":[` +
				`{"maxRetry":3,"minAvailable":2,"name":"default0","replicas":2},{"maxRetry":7,"minAvailable":1,"name":"b","replicas":3},` +
				`{"maxRetry":3,"minAvailable":0,"name":"default2"}]}`},
		{row: "2.2 minAvailable of a task = minPartitions x partitionSize",
			object: jobOf("tasks: [{name: a, replicas: 6, partitionPolicy: {totalPartitions: 3, partitionSize: 2, minPartitions: 2}, " + pod + "}]"),
			wants: `{"maxRetry":3,"minAvailable":4,"queue":"default","schedulerName":"volcano","tasks":[` +
				`{"maxRetry":3,"minAvailable":4,"name":"a","partitionPolicy":{"minPartitions":2,"partitionSize":2,"totalPartitions":3},"replicas":6}]}`},
		{row: "2.7 what is said stays",
			object: jobOf("queue: child, schedulerName: s, maxRetry: 1, minAvailable: 1, tasks: [{name: a, replicas: 2, minAvailable: 0, maxRetry: 2, " + pod + "}]"),
			wants: `{"maxRetry":1,"minAvailable":1,"queue":"child","schedulerName":"s","tasks":[` +
				`{"maxRetry":2,"minAvailable":0,"name":"a","replicas":2}]}`},
		{row: "2.7 dnsPolicy with hostNetwork",
			object: jobOf("tasks: [{name: a, replicas: 1, template: {spec: {hostNetwork: true, containers: [{name: c, image: i}]}}}]"),
			wants:  `"dnsPolicy":"ClusterFirstWithHostNet"`},
		{row: "2.6 svc for pytorch", object: roles("{pytorch: [--port=1]}"), wants: `"plugins":{"pytorch":["--port=1"],"svc":[]}`},
		{row: "2.6 svc and ssh for mpi", object: roles("{mpi: []}"), wants: `"plugins":{"mpi":[],"ssh":[],"svc":[]}`},
		{row: "2.6 svc for tensorflow", object: roles("{tensorflow: []}"), wants: `"plugins":{"svc":[],"tensorflow":[]}`},
		{row: "2.6 svc for ray, unless it is there", object: roles("{ray: [], svc: [--disable-network-policy]}"), wants: `"plugins":{"ray":[],"svc":["--disable-network-policy"]}`},
		{row: "2.6 none for env", object: roles("{env: []}"), wants: `"plugins":{"env":[]}`},
	}
}

// roles is a Job with the tasks that plugins ask for.
func roles(plugins string) string {
	var tasks []string
	for _, name := range []string{"master", "worker", "ps", "head"} {
		tasks = append(tasks, "{name: "+name+", replicas: 1, template: {spec: {containers: [{name: "+name+", image: i}]}}}")
	}
	return jobOf("plugins: " + plugins + ", tasks: [" + strings.Join(tasks, ", ") + "]")
}

// told is a Job's spec as JSON, without pod templates unless they are asked for.
func told(t *testing.T, o *unstructured.Unstructured, templates bool) string {
	t.Helper()
	spec, _, err := unstructured.NestedMap(o.Object, "spec")
	if err != nil {
		t.Fatal(err)
	}
	if tasks, ok := spec["tasks"].([]any); ok && !templates {
		for _, task := range tasks {
			if m, ok := task.(map[string]any); ok {
				delete(m, "template")
			}
		}
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestDefaults(t *testing.T) {
	for _, r := range filled() {
		t.Run(r.row, func(t *testing.T) {
			o, err := parse(r.object)
			if err != nil {
				t.Fatal(err)
			}
			o.SetNamespace("default")
			if err := plane.Client.Create(t.Context(), o, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			if got := told(t, o, strings.Contains(r.wants, "dnsPolicy")); !strings.Contains(got, r.wants) {
				t.Errorf("got  %s\nwant %s", got, r.wants)
			}
		})
	}
}

// A client that applies the same file again, or with fewer replicas, gets the same
// defaults again: 2.7 lets it.
func TestApplyAgain(t *testing.T) {
	ns := plane.Namespace(t)
	apply := func(replicas int) error {
		o, err := parse(jobOf(fmt.Sprintf("minAvailable: 1, tasks: [{replicas: %d, %s}]", replicas, pod)))
		if err != nil {
			t.Fatal(err)
		}
		o.SetNamespace(ns)
		return plane.Client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("user"))
	}
	for _, n := range []int{2, 2, 4, 1} {
		if err := apply(n); err != nil {
			t.Fatalf("apply with %d replicas: %v", n, err)
		}
		have := stored(t, ns)
		if got := told(t, have, false); !strings.Contains(got, fmt.Sprintf(`{"maxRetry":3,"minAvailable":%d,"name":"default0","replicas":%d}`, n, n)) {
			t.Errorf("with %d replicas: %s", n, got)
		}
	}
}

func stored(t *testing.T, ns string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(batches)
	o.SetKind("Job")
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "job"}, o); err != nil {
		t.Fatal(err)
	}
	return o
}

// 2.7: of a Job only minAvailable, replicas and the priority may change.
func TestUpdates(t *testing.T) {
	ns := plane.Namespace(t)
	o, err := parse(jobOf("tasks: [{name: a, replicas: 2, " + pod + "}, {name: b, replicas: 2, " + pod + "}]"))
	if err != nil {
		t.Fatal(err)
	}
	o.SetNamespace(ns)
	if err := plane.Client.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	const another = `{"op":"add","path":"/spec/tasks/-","value":{"name":"c","replicas":1,"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}}}`
	for patch, want := range map[string]string{
		another: "spec.tasks: Invalid value: 3 tasks: tasks may not be added or removed (2 before): delete the job",
		`{"op":"add","path":"/spec/minAvailable","value":1}`:                                                  "",
		`{"op":"add","path":"/spec/tasks/1/replicas","value":5}`:                                              "",
		`{"op":"add","path":"/spec/tasks/0/minAvailable","value":1}`:                                          "",
		`{"op":"add","path":"/spec/priorityClassName","value":"high"}`:                                        "",
		`{"op":"add","path":"/metadata/annotations","value":{"a":"b"}}`:                                       "",
		`{"op":"add","path":"/spec/tasks/1/replicas","value":1}`:                                              "spec.tasks[1].minAvailable: Invalid value: 2: must be at most replicas (1): lower it",
		`{"op":"add","path":"/spec/minAvailable","value":9}`:                                                  "spec.minAvailable: Invalid value: 9: must be at most the replicas of all tasks (4)",
		`{"op":"add","path":"/spec/queue","value":"other"}`:                                                   "spec.queue: Forbidden",
		`{"op":"add","path":"/spec/schedulerName","value":"other"}`:                                           "spec.schedulerName: Forbidden",
		`{"op":"add","path":"/spec/maxRetry","value":9}`:                                                      "spec.maxRetry: Forbidden",
		`{"op":"add","path":"/spec/minSuccess","value":1}`:                                                    "spec.minSuccess: Forbidden",
		`{"op":"add","path":"/spec/ttlSecondsAfterFinished","value":1}`:                                       "spec.ttlSecondsAfterFinished: Forbidden",
		`{"op":"add","path":"/spec/plugins","value":{"env":[]}}`:                                              "spec.plugins: Forbidden",
		`{"op":"add","path":"/spec/runningEstimate","value":"5m"}`:                                            "spec.runningEstimate: Forbidden",
		`{"op":"add","path":"/spec/networkTopology","value":{}}`:                                              "spec.networkTopology: Forbidden",
		`{"op":"add","path":"/spec/tasks/1/name","value":"c"}`:                                                "spec.tasks[1].name: Forbidden",
		`{"op":"add","path":"/spec/tasks/1/maxRetry","value":9}`:                                              "spec.tasks[1].maxRetry: Forbidden",
		`{"op":"add","path":"/spec/tasks/1/topologyPolicy","value":"none"}`:                                   "spec.tasks[1].topologyPolicy: Forbidden",
		`{"op":"add","path":"/spec/tasks/1/dependsOn","value":{"name":["a"]}}`:                                "spec.tasks[1].dependsOn: Forbidden",
		`{"op":"add","path":"/spec/tasks/1/partitionPolicy","value":{"totalPartitions":2,"partitionSize":1}}`: "spec.tasks[1].partitionPolicy: Forbidden",
		`{"op":"add","path":"/spec/policies","value":[{"event":"PodFailed","action":"AbortJob"}]}`:            "spec.policies: Forbidden",
		`{"op":"add","path":"/spec/tasks/0/policies","value":[{"event":"PodFailed","action":"AbortJob"}]}`:    "spec.tasks[0].policies: Forbidden",
		`{"op":"add","path":"/spec/volumes","value":[{"mountPath":"/a","volumeClaimName":"x"}]}`:              "spec.volumes: Forbidden",
		`{"op":"add","path":"/spec/tasks/0/template/spec/containers/0/image","value":"j"}`:                    "spec.tasks[0].template: Forbidden: of a job only minAvailable",
		`{"op":"add","path":"/spec/minAvailable","value":2},{"op":"remove","path":"/spec/tasks/1"}`:           "spec.tasks: Invalid value: 1 tasks: tasks may not be added or removed (2 before): delete the job",
	} {
		err := plane.Client.Patch(t.Context(), stored(t, ns), client.RawPatch(types.JSONPatchType, []byte("["+patch+"]")), client.DryRunAll)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", patch, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !apierrors.IsInvalid(err)):
			t.Errorf("%s: got %v, should say %s", patch, err, want)
		}
	}
}

// 2.8: the queues that every cluster has stay.
func TestStandingQueues(t *testing.T) {
	for _, name := range []string{"default", "root"} {
		q, err := parse(strings.Replace(object(scheduling, "Queue", ""), "thing", name, 1))
		if err != nil {
			t.Fatal(err)
		}
		if err := client.IgnoreAlreadyExists(plane.Client.Create(t.Context(), q)); err != nil {
			t.Fatal(err)
		}
		err = plane.Client.Delete(t.Context(), q)
		if err == nil || !strings.Contains(err.Error(), "metadata.name: Forbidden: queue "+name+" is in every cluster and stays") {
			t.Errorf("deletion of %s: %v", name, err)
		}
	}
}

// 2.11: a PodGroup is in the queue that its namespace names, unless it names one.
func TestQueueOfNamespace(t *testing.T) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "queued-", Annotations: map[string]string{"scheduling.volcano.sh/queue-name": "busy"}}}
	if err := plane.Client.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	job := strings.Replace(object(scheduling, "PodGroup", "minMember: 1"), "{name: thing}",
		"{name: thing, ownerReferences: [{apiVersion: "+batches+", kind: Job, name: j, uid: u}]}", 1)
	for text, want := range map[string]string{
		object(scheduling, "PodGroup", "minMember: 1"):                             "busy",
		object(scheduling, "PodGroup", "queue: child"):                             "child",
		"apiVersion: " + scheduling + "\nkind: PodGroup\nmetadata: {name: bare}\n": "busy",
		job: "default", // that of its Job
	} {
		controllertest.Eventually(t, patience, func(ctx context.Context) string {
			o, err := parse(text)
			if err != nil {
				return err.Error()
			}
			o.SetNamespace(ns.Name)
			if err := plane.Client.Create(ctx, o, client.DryRunAll); err != nil {
				return err.Error()
			}
			if got, _, _ := unstructured.NestedString(o.Object, "spec", "queue"); got != want {
				return fmt.Sprintf("queue is %q, want %q: %s", got, want, text)
			}
			return ""
		})
	}
}

// 2.11: a pod of ours that asks for it gets the gate of its queue, beside those it has.
func TestQueueGate(t *testing.T) {
	const key = "scheduling.volcano.sh/queue-allocation-gate"
	for _, tt := range []struct {
		annotation, scheduler string
		has                   []string
		want                  string
	}{
		{"true", "volcano", nil, key},
		{"true", "isthmus", []string{"example.org/mine"}, "example.org/mine " + key},
		{"true", "volcano", []string{key}, key},
		{"true", "default-scheduler", nil, ""},
		{"false", "volcano", nil, ""},
		{"", "volcano", nil, ""},
	} {
		controllertest.Eventually(t, patience, func(ctx context.Context) string {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "gate-"},
				Spec: corev1.PodSpec{SchedulerName: tt.scheduler, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
			if tt.annotation != "" {
				p.Annotations = map[string]string{key: tt.annotation}
			}
			for _, name := range tt.has {
				p.Spec.SchedulingGates = append(p.Spec.SchedulingGates, corev1.PodSchedulingGate{Name: name})
			}
			if err := plane.Client.Create(ctx, p, client.DryRunAll); err != nil {
				return err.Error()
			}
			var got []string
			for _, g := range p.Spec.SchedulingGates {
				got = append(got, g.Name)
			}
			if text := strings.Join(got, " "); text != tt.want {
				return fmt.Sprintf("%+v has gates %q", tt, text)
			}
			return ""
		})
	}
}
