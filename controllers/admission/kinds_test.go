package admission_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	nodeinfo "volcano.sh/apis/pkg/apis/nodeinfo/v1alpha1"
	volcano "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topo "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// 2.1: every kind is served under its group and version, with its scope and the short
// names that users type.
func TestKinds(t *testing.T) {
	c, err := discovery.NewDiscoveryClientForConfig(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"batch.volcano.sh/v1alpha1 Job namespaced vcjob vj", "batch.volcano.sh/v1alpha1 CronJob namespaced cronvcjob cronvj",
		"bus.volcano.sh/v1alpha1 Command namespaced", "scheduling.volcano.sh/v1beta1 PodGroup namespaced pg podgroup-v1beta1",
		"scheduling.volcano.sh/v1beta1 Queue cluster q queue-v1beta1", "flow.volcano.sh/v1alpha1 JobFlow namespaced jf",
		"flow.volcano.sh/v1alpha1 JobTemplate namespaced jt", "topology.volcano.sh/v1alpha1 HyperNode cluster hn",
		"nodeinfo.volcano.sh/v1alpha1 Numatopology cluster numatopo",
	} {
		words := strings.Fields(want)
		list, err := c.ServerResourcesForGroupVersion(words[0])
		if err != nil {
			t.Fatal(err)
		}
		got := "not served"
		for i := range list.APIResources {
			r := &list.APIResources[i]
			if r.Kind != words[1] || strings.Contains(r.Name, "/") {
				continue
			}
			scope := map[bool]string{true: "namespaced", false: "cluster"}[r.Namespaced]
			short := slices.Clone(r.ShortNames)
			slices.SortFunc(short, func(a, b string) int { return slices.Index(words, a) - slices.Index(words, b) })
			got = strings.Join(append([]string{words[0], r.Kind, scope}, short...), " ")
		}
		if got != want {
			t.Errorf("%s is %s", want, got)
		}
	}
}

// Every field of the types is in the definitions: the API server drops what they do
// not know.
func TestEveryFieldIsDefined(t *testing.T) {
	for file, of := range map[string]any{
		"batch.volcano.sh_jobs": batch.Job{}, "batch.volcano.sh_cronjobs": batch.CronJob{}, "bus.volcano.sh_commands": bus.Command{},
		"flow.volcano.sh_jobflows": flow.JobFlow{}, "flow.volcano.sh_jobtemplates": flow.JobTemplate{},
		"scheduling.volcano.sh_podgroups": volcano.PodGroup{}, "scheduling.volcano.sh_queues": volcano.Queue{},
		"topology.volcano.sh_hypernodes": topo.HyperNode{}, "nodeinfo.volcano.sh_numatopologies": nodeinfo.Numatopology{},
	} {
		raw, err := os.ReadFile(filepath.Join("..", "..", "charts", "isthmus", "crds", file+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensions.CustomResourceDefinition
		if err := yaml.Unmarshal(raw, &crd); err != nil {
			t.Fatal(err)
		}
		if n := fields(t, crd.Spec.Names.Kind, reflect.TypeOf(of), crd.Spec.Versions[0].Schema.OpenAPIV3Schema); n < 5 {
			t.Errorf("%s: only %d fields were looked at", file, n)
		}
	}
}

// fields looks at the fields of one type of Volcano's and of those in it.
func fields(t *testing.T, at string, of reflect.Type, schema *apiextensions.JSONSchemaProps) int {
	t.Helper()
	for schema != nil {
		switch {
		case of.Kind() == reflect.Pointer:
			of = of.Elem()
			continue
		case of.Kind() == reflect.Slice && schema.Items != nil:
			of, schema, at = of.Elem(), schema.Items.Schema, at+"[]"
			continue
		case of.Kind() == reflect.Map && schema.AdditionalProperties != nil:
			of, schema, at = of.Elem(), schema.AdditionalProperties.Schema, at+"{}"
			continue
		}
		break
	}
	if schema == nil || of.Kind() != reflect.Struct || !strings.HasPrefix(of.PkgPath(), "volcano.sh/") || schema.XPreserveUnknownFields != nil {
		return 0
	}
	n := 0
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			if f.Type != reflect.TypeFor[metav1.TypeMeta]() {
				n += fields(t, at, f.Type, schema)
			}
			continue
		}
		n++
		sub, ok := schema.Properties[name]
		if !ok {
			t.Errorf("%s.%s is in no definition", at, name)
			continue
		}
		n += fields(t, at+"."+name, f.Type, &sub)
	}
	return n
}

// 2.2, 2.8, 2.9, 2.10: what the definitions themselves fill in.
func TestDefinitionDefaults(t *testing.T) {
	const cron = "schedule: '* * * * *', jobTemplate: {spec: {tasks: [{name: a, replicas: 1, " + pod + "}]}}"
	for _, tt := range []struct{ row, object, path, want string }{
		{"2.8 weight", object(scheduling, "Queue", "parent: root"), "weight", "1"},
		{"2.8 dequeueStrategy", object(scheduling, "Queue", "parent: root"), "dequeueStrategy", "traverse"},
		{"2.9 networkTopology.mode", object(scheduling, "PodGroup", "networkTopology: {highestTierAllowed: 1}"), "networkTopology.mode", "hard"},
		{"2.9 queue", object(scheduling, "PodGroup", "minMember: 1"), "queue", "default"},
		{"2.2 networkTopology.mode", with("networkTopology: {highestTierAllowed: 1}"), "networkTopology.mode", "hard"},
		{"2.10 concurrencyPolicy", object(batches, "CronJob", cron), "concurrencyPolicy", "Allow"},
		{"2.10 failedJobsHistoryLimit", object(batches, "CronJob", cron), "failedJobsHistoryLimit", "1"},
		{"2.10 successfulJobsHistoryLimit", object(batches, "CronJob", cron), "successfulJobsHistoryLimit", "3"},
	} {
		o, err := parse(tt.object)
		if err != nil {
			t.Fatal(err)
		}
		if o.GetKind() != "Queue" {
			o.SetNamespace("default")
		}
		if err := plane.Client.Create(t.Context(), o, client.DryRunAll); err != nil {
			t.Fatalf("%s: %v", tt.row, err)
		}
		got, found, err := unstructured.NestedFieldNoCopy(o.Object, append([]string{"spec"}, strings.Split(tt.path, ".")...)...)
		if err != nil || !found || fmt.Sprint(got) != tt.want {
			t.Errorf("%s is %v (%v %v), want %s", tt.row, got, found, err, tt.want)
		}
	}
}
