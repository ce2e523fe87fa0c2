package admission_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// largeTasks is how many tasks a large object has.
const largeTasks = 1000

// A Job or a JobTemplate of a thousand tasks, each with annotations of Isthmus, is judged
// within what the API server allows policies to cost, when it is made and when it is
// changed: the cost grows with the tasks, not with their square.
func TestManyAnnotatedTasks(t *testing.T) {
	ns := plane.Namespace(t)
	var texts []string
	for i := range largeTasks {
		texts = append(texts, fmt.Sprintf("{name: t%d, replicas: 1, template: {metadata: {annotations: {%s: '90m', %s: host, %s: 'fluent:2,db', example.com/x: other}}, spec: {containers: [{name: c, image: i}]}}}",
			i, wellknown.Walltime, wellknown.Runtime, wellknown.Licenses))
	}
	job := jobOf("tasks: [" + strings.Join(texts, ", ") + "]")
	template := strings.Replace(strings.Replace(job, batches, flows, 1), "kind: Job", "kind: JobTemplate", 1)
	made := func(text string) *unstructured.Unstructured {
		t.Helper()
		o, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		o.SetNamespace(ns)
		if err := plane.Client.Create(t.Context(), o); err != nil {
			t.Fatalf("made: %v", err)
		}
		return o
	}
	change := func(o *unstructured.Unstructured, edit func(now *unstructured.Unstructured, last map[string]any) error) error {
		t.Helper()
		now := o.DeepCopy()
		tasks, _, err := unstructured.NestedSlice(now.Object, "spec", "tasks")
		if err != nil {
			t.Fatal(err)
		}
		last, ok := tasks[largeTasks-1].(map[string]any)
		if !ok {
			t.Fatalf("the last task is a %T", tasks[largeTasks-1])
		}
		if err := errors.Join(edit(now, last), unstructured.SetNestedSlice(now.Object, tasks, "spec", "tasks")); err != nil {
			t.Fatal(err)
		}
		return plane.Client.Update(t.Context(), now, client.DryRunAll)
	}
	for _, text := range []string{job, template} {
		o := made(text)
		if err := change(o, func(now *unstructured.Unstructured, last map[string]any) error {
			now.SetAnnotations(map[string]string{wellknown.Datasets: "genomes"})
			last["replicas"] = int64(2)
			return nil
		}); err != nil {
			t.Errorf("%s: an annotation and a pod more: %v", o.GetKind(), err)
		}
		if o.GetKind() == "Job" {
			continue // whose tasks' templates never change
		}
		wants := fmt.Sprintf(`spec.tasks[%d].template.metadata.annotations[isthmus.sh/walltime]: Invalid value: "soon": `, largeTasks-1)
		if err := change(o, func(_ *unstructured.Unstructured, last map[string]any) error {
			return unstructured.SetNestedField(last, "soon", "template", "metadata", "annotations", wellknown.Walltime)
		}); err == nil || !strings.Contains(err.Error(), wants) || strings.Contains(err.Error(), "tasks[0]") {
			t.Errorf("a bad annotation in the last task: %v, should say %s and no more", err, wants)
		}
		// All of them are new at once.
		bare := made(strings.Replace(strings.ReplaceAll(text, wellknown.Prefix, "example.com/"), "name: job", "name: bare", 1))
		full := o.DeepCopy()
		full.SetName(bare.GetName())
		full.SetResourceVersion(bare.GetResourceVersion())
		full.SetUID(bare.GetUID())
		if err := plane.Client.Update(t.Context(), full, client.DryRunAll); err != nil {
			t.Errorf("all annotations at once: %v", err)
		}
	}
}
