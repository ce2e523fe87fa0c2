package driver_test

import (
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

func datasetSpec(size string, locations ...hpcv1alpha1.DatasetLocation) hpcv1alpha1.DatasetSpec {
	return hpcv1alpha1.DatasetSpec{Size: kresource.MustParse(size), Locations: locations}
}

// TestDatasetsAreChecked: what is wrong is refused by the API server, with the
// field's name.
func TestDatasetsAreChecked(t *testing.T) {
	api, ns := reservations(t), plane.Namespace(t)
	here := hpcv1alpha1.DatasetLocation{Cluster: "hpc", Path: "/data"}
	none := kresource.MustParse("0")
	for why, spec := range map[string]hpcv1alpha1.DatasetSpec{
		"spec.size: Invalid value": datasetSpec("0", here),
		"spec.bandwidth: Invalid value": {Size: kresource.MustParse("1Gi"), Bandwidth: &none,
			Locations: []hpcv1alpha1.DatasetLocation{here}},
		"spec.locations":                        {Size: kresource.MustParse("1Gi"), Locations: []hpcv1alpha1.DatasetLocation{}},
		"spec.locations[0].cluster":             datasetSpec("1Gi", hpcv1alpha1.DatasetLocation{Path: "/data"}),
		"spec.locations[1].cluster":             datasetSpec("1Gi", here, hpcv1alpha1.DatasetLocation{Cluster: "hpc", Path: "/data", Nodes: map[string]string{"a": "b"}}),
		"spec.locations[0].path: Invalid value": datasetSpec("1Gi", hpcv1alpha1.DatasetLocation{Cluster: "hpc"}),
		"should match":                          datasetSpec("1Gi", hpcv1alpha1.DatasetLocation{Cluster: "hpc", Path: "data"}),
	} {
		d := &hpcv1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "bad"}, Spec: spec}
		if err := api.Create(t.Context(), d); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("got %v, want %q", err, why)
		}
	}
}

// TestGuidesDatasetIsFine: the API server takes the example of the guide.
func TestGuidesDatasetIsFine(t *testing.T) {
	api, ns := reservations(t), plane.Namespace(t)
	guide, err := os.ReadFile("../DATA.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(guide), "```yaml\n")
	example, _, _ := strings.Cut(rest, "```")
	d := &hpcv1alpha1.Dataset{}
	if err := yaml.UnmarshalStrict([]byte(example), d); err != nil || d.Kind != "Dataset" {
		t.Fatalf("the first example of the guide is %v, %v", d.Kind, err)
	}
	d.Namespace = ns
	if err := api.Create(t.Context(), d, client.DryRunAll); err != nil {
		t.Error(err)
	}
}

// TestGangGoesWhereItsDataIs: a gang that names a Dataset waits until there is one,
// says so, and goes where the data is, although it would fill up another node.
func TestGangGoesWhereItsDataIs(t *testing.T) {
	api, ns := reservations(t), plane.Namespace(t)
	virtualNode(t, ns+"-tight", 1)
	virtualNode(t, ns+"-wide", 3)
	for _, name := range []string{"-tight", "-wide"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: ns + name}}
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"isthmus.sh/cluster":"`+ns+name+`"}}}`))
		if err := plane.Client.Patch(t.Context(), n, patch); err != nil {
			t.Fatal(err)
		}
	}
	startScheduler(t, &wire{})
	create(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "g", Annotations: map[string]string{wellknown.Datasets: "images"}},
		Spec:       volcanov1.PodGroupSpec{MinMember: 1, Queue: "default"},
		Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
	})
	member(t, ns, "g", 0)
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
		return len(s.Conditions) > 0 && s.Conditions[0].Reason == "DatasetNotFound" && strings.Contains(s.Conditions[0].Message, `"images"`)
	})
	d := &hpcv1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "images"},
		Spec: datasetSpec("1Ti", hpcv1alpha1.DatasetLocation{Cluster: ns + "-wide", Path: "/data/images"})}
	if err := api.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	pods := eventuallyBound(t, ns, "g", 1)
	if pods[0].Spec.NodeName != ns+"-wide" || pods[0].Annotations[wellknown.DatasetPaths] != `{"images":"/data/images"}` {
		t.Errorf("the pod is on %s and told %q", pods[0].Spec.NodeName, pods[0].Annotations[wellknown.DatasetPaths])
	}
	if err := api.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	gang(t, ns, "other", 1, 1, volcanov1.PodGroupInqueue)
	if pods := eventuallyBound(t, ns, "other", 1); pods[0].Spec.NodeName != ns+"-tight" {
		t.Errorf("a gang without data is on %s", pods[0].Spec.NodeName)
	}
}
