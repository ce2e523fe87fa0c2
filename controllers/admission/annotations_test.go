package admission_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

const taskAnnotations = "spec.tasks[0].template.metadata.annotations"

// annotated is a Job whose pods have one annotation.
func annotated(key, value string) string {
	return jobOf(fmt.Sprintf("tasks: [{name: a, replicas: 2, template: {metadata: {annotations: {%s: '%s'}}, spec: {containers: [{name: c, image: i}]}}}]", key, value))
}

// said is an object of a kind with an annotation of its own.
func said(object, key, value string) string {
	return strings.Replace(object, "metadata: {", fmt.Sprintf("metadata: {annotations: {%s: '%s'}, ", key, value), 1)
}

const (
	timely  = `must be a positive run time, a duration such as "90m" or days-hours:minutes:seconds such as "1-12:00:00"`
	lasting = `must be a positive duration: write one such as "90m" or "36h"`
	near    = `must be a number of switches, with or without the longest wait for them`
	licence = `must be names of licences, with counts of 1 or more: write a list such as fluent:2,db@server`
)

// annotationRows are the rejections of annotations: each with field, value and rule.
func annotationRows() []row {
	var out []row
	bad := func(key, value, rule string) {
		kind := "Invalid value"
		if strings.HasPrefix(rule, "supported values") {
			kind = "Unsupported value"
		}
		out = append(out, row{fmt.Sprintf("%s %q", key, value), annotated(key, value), fmt.Sprintf("%s[%s]: %s: %q: %s", taskAnnotations, key, kind, value, rule), len(out) == 0})
	}
	bad(wellknown.Runtime, "docker", `supported values: "host", "apptainer", "charliecloud", "podman", "enroot"`)
	bad(wellknown.GPULink, "perhaps", `supported values: "required"`)
	bad(wellknown.QueueEarly, "yes", `supported values: "true", "false"`)
	for _, v := range []string{"soon", "", "0", "0s", "-5m", "--exclusive", "1:2:3:4", "1-", "5x"} {
		bad(wellknown.Walltime, v, timely)
	}
	for _, v := range []string{"soon", "0", "0h", "-5m", "1-12:00:00", "90"} {
		bad(wellknown.RunningEstimate, v, lasting)
	}
	for _, v := range []string{"", "0", "-1", "one", "1@", "1@soon", "1@0m", "1,2"} {
		bad(wellknown.Switches, v, near)
	}
	for _, v := range []string{"", "fluent:0", "fluent:-1", "fluent:two", "fluent;2", ",", "-a", "a b"} {
		bad(wellknown.Licenses, v, licence)
	}
	bad(wellknown.Licenses, "fluent:2, fluent", "must name each licence once: add up its counts")
	bad(wellknown.Datasets, "a,B_c", "must be names of Datasets: write them with commas between")
	bad(wellknown.GPUModes, "mps,whole", "must be modes of sharing GPUs")
	for _, key := range []string{wellknown.GangAttempt, wellknown.GangSize, wellknown.GangRank, wellknown.GPUIDs,
		wellknown.SubmitIntent, wellknown.BatchJobID, wellknown.BatchUser, wellknown.BatchNode} {
		bad(key, "x", "must not be set, since Isthmus alone writes it: leave it out")
	}

	const step = "flows: [{name: a}]"
	cron := object(batches, "CronJob", "schedule: '* * * * *', jobTemplate: {metadata: {annotations: {isthmus.sh/switches: none}}, spec: {tasks: [{name: a, replicas: 2, "+pod+"}]}}")
	cronTask := object(batches, "CronJob", "schedule: '* * * * *', jobTemplate: {spec: {tasks: [{name: a, replicas: 2, template: {metadata: {annotations: {isthmus.sh/walltime: soon}}, spec: {containers: [{name: c, image: i}]}}}]}}")
	tasks := "tasks: [{name: a, replicas: 2, " + pod + "}]"
	return append(out,
		row{"of a Job itself", said(jobOf(tasks), wellknown.Datasets, "A"), `metadata.annotations[isthmus.sh/datasets]: Invalid value: "A": must be names of Datasets`, false},
		row{"of a JobFlow", said(object(flows, "JobFlow", step), wellknown.QueueEarly, "on"), `metadata.annotations[isthmus.sh/queue-early]: Unsupported value: "on": supported values: "true", "false"`, false},
		row{"of a JobTemplate's pods", strings.Replace(strings.Replace(annotated(wellknown.Walltime, "soon"), batches, flows, 1), "kind: Job", "kind: JobTemplate", 1),
			taskAnnotations + `[isthmus.sh/walltime]: Invalid value: "soon": ` + timely, false},
		row{"of a CronJob's Jobs", cron, `spec.jobTemplate.metadata.annotations[isthmus.sh/switches]: Invalid value: "none": ` + near, false},
		row{"of a CronJob's pods", cronTask, `spec.jobTemplate.spec.tasks[0].template.metadata.annotations[isthmus.sh/walltime]: Invalid value: "soon": ` + timely, false},
	)
}

// What the virtual kubelet and the scheduler can read passes.
func TestGoodAnnotations(t *testing.T) {
	for key, values := range map[string][]string{
		wellknown.Runtime:         {"host", "apptainer", "charliecloud", "podman", "enroot"},
		wellknown.Walltime:        {"90m", "1h30m", "0.5h", "90", "1:30", "1:30:00", "1-12", "1-12:00", "1-12:00:00"},
		wellknown.RunningEstimate: {"36h", "1h30m0s", "500ms"},
		wellknown.EstimateKey:     {"nightly"},
		wellknown.Datasets:        {"image-net", "image-net, genomes.v2"},
		wellknown.QOS:             {"high"},
		wellknown.Account:         {"project-b"},
		wellknown.Licenses:        {"fluent", "fluent:2,db@server", "fluent:10, a.b_c-d:1"},
		wellknown.Switches:        {"1", "2@10m", "1@1-00"},
		wellknown.GPULink:         {"required"},
		wellknown.GPUModes:        {"mps", "exclusive, timeslice"},
		wellknown.QueueEarly:      {"true", "false"},
		wellknown.After:           {"attempt"},
	} {
		for _, v := range values {
			if told, err := warned(t.Context(), annotated(key, v)); err != nil || len(told) > 0 {
				t.Errorf("%s %q: %v, warned of %q", key, v, err, told)
			}
		}
	}
}

// warnings are what the API server has warned of.
type warnings struct {
	mu   sync.Mutex
	told []string
}

// HandleWarningHeader notes a warning.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, text)
}

// warned makes an object as a dry run, and says what the API server warned of.
func warned(ctx context.Context, text string) ([]string, error) {
	o, err := parse(text)
	if err != nil {
		return nil, err
	}
	o.SetNamespace("default")
	config, heard := rest.CopyConfig(plane.Config), &warnings{}
	config.WarningHandler = heard
	c, err := client.New(config, client.Options{Scheme: plane.Scheme, Mapper: plane.Client.RESTMapper()})
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	err = c.Create(ctx, o, client.DryRunAll)
	return heard.told, err
}

// A key that nothing reads is let in with a warning.
func TestUnknownAnnotationIsWarnedOf(t *testing.T) {
	const wants = taskAnnotations + `[isthmus.sh/waltime]: Unsupported value: "2h": Isthmus has no such annotation, and nothing reads it: correct the key`
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		told, err := warned(ctx, annotated("isthmus.sh/waltime", "2h"))
		if err != nil || len(told) != 1 || !strings.Contains(told[0], wants) {
			return fmt.Sprintf("%v, warned of %q, should be %q", err, told, wants)
		}
		return ""
	})
	if told, err := warned(t.Context(), annotated("example.com/walltime", "2h")); err != nil || len(told) > 0 {
		t.Errorf("a key of others: %v, warned of %q", err, told)
	}
}

// enforce says what the policy of annotations does to what breaks its rules.
func enforce(t *testing.T, action string) {
	t.Helper()
	binding := &unstructured.Unstructured{}
	binding.SetAPIVersion("admissionregistration.k8s.io/v1")
	binding.SetKind("ValidatingAdmissionPolicyBinding")
	binding.SetName("isthmus-volcano-annotations")
	patch := fmt.Appendf(nil, `{"spec":{"validationActions":[%q]}}`, action)
	if err := plane.Client.Patch(t.Context(), binding, client.RawPatch(types.MergePatchType, patch)); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		if err := dryRun(ctx, "default", annotationRows()[0]); (err != nil) != (action == "Deny") {
			return fmt.Sprintf("a bad annotation with action %s: %v", action, err)
		}
		return ""
	})
}

// An update is judged by what is new in it: what is stored, from before the policy,
// hinders nobody.
func TestStoredAnnotations(t *testing.T) {
	ns := plane.Namespace(t)
	job, err := parse(strings.Replace(annotated(wellknown.Walltime, "soon"), "metadata: {name: job}", "metadata: {name: job, annotations: {isthmus.sh/switches: none}}", 1))
	if err != nil {
		t.Fatal(err)
	}
	job.SetNamespace(ns)
	defer enforce(t, "Deny")
	enforce(t, "Audit")
	if err := plane.Client.Create(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	enforce(t, "Deny")
	change := func(annotations map[string]string, replicas int64) error {
		now := job.DeepCopy()
		now.SetAnnotations(annotations)
		tasks, _, err := unstructured.NestedSlice(now.Object, "spec", "tasks")
		if err != nil {
			return err
		}
		tasks[0].(map[string]any)["replicas"] = replicas
		if err := unstructured.SetNestedSlice(now.Object, tasks, "spec", "tasks"); err != nil {
			return err
		}
		return plane.Client.Patch(t.Context(), now, client.MergeFrom(job), client.DryRunAll)
	}
	if err := change(map[string]string{wellknown.Switches: "none", "example.com/x": "y"}, 3); err != nil {
		t.Errorf("more pods, and an annotation of others: %v", err)
	}
	const wants = `metadata.annotations[isthmus.sh/switches]: Invalid value: "1@": ` + near
	if err := change(map[string]string{wellknown.Switches: "1@"}, 2); err == nil || !strings.Contains(err.Error(), wants) || strings.Contains(err.Error(), "soon") {
		t.Errorf("got %v, should say %s and no more", err, wants)
	}
}
