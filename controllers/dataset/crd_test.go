package dataset_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

var plane *controllertest.Plane

func TestMain(m *testing.M) {
	os.Exit(controllertest.Main(m, &plane, (*controllertest.Plane).StartGarbageCollector))
}

// images is a Dataset that is on cluster home and may be copied to hpc and east.
func images(ns string) *hpc.Dataset {
	return &hpc.Dataset{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "images"},
		Spec: hpc.DatasetSpec{
			Size: kresource.MustParse("10Gi"), Locations: []hpc.DatasetLocation{{Cluster: "home", Path: "/data/images"}},
			Staging: &hpc.DatasetStaging{
				Image: "tools", Command: []string{"rsync"}, Args: []string{"-a", "$(ISTHMUS_SOURCE_PATH)/", "$(ISTHMUS_TARGET_PATH)/"},
				Targets: []hpc.DatasetTarget{{Cluster: "hpc", Path: "/scratch/images"}, {Cluster: "east", Path: "/lustre/images"}},
			},
		},
	}
}

// What is wrong is refused by the API server, with the field's name.
func TestStagingIsChecked(t *testing.T) {
	ns := plane.Namespace(t)
	for _, c := range []struct {
		what, want string
		change     func(*hpc.DatasetStaging)
	}{
		{"no image", "spec.staging.image: Invalid value", func(s *hpc.DatasetStaging) { s.Image = "" }},
		{"no program", "spec.staging.command: Invalid value", func(s *hpc.DatasetStaging) { s.Command = []string{} }},
		{"no target", "spec.staging.targets: Invalid value", func(s *hpc.DatasetStaging) { s.Targets = []hpc.DatasetTarget{} }},
		{"too many targets", "spec.staging.targets: Too many", func(s *hpc.DatasetStaging) {
			for range 64 {
				s.Targets = append(s.Targets, hpc.DatasetTarget{Cluster: "c" + strings.Repeat("x", len(s.Targets)%60), Path: "/p"})
			}
		}},
		{"a target twice", "spec.staging.targets[1]: Duplicate value", func(s *hpc.DatasetStaging) { s.Targets[1].Cluster = "hpc" }},
		{"a target without a path", "spec.staging.targets[0].path: Invalid value", func(s *hpc.DatasetStaging) { s.Targets[0].Path = "" }},
		{"a relative path", "spec.staging.targets[0].path: Invalid value", func(s *hpc.DatasetStaging) { s.Targets[0].Path = "scratch" }},
		{"a location", "spec.staging.targets: Invalid value: must not name a cluster of spec.locations", func(s *hpc.DatasetStaging) { s.Targets[1].Cluster = "home" }},
		{"our variables", "spec.staging.env: Invalid value: must not have names that start with ISTHMUS_", func(s *hpc.DatasetStaging) {
			s.Env = []corev1.EnvVar{{Name: "A"}, {Name: "ISTHMUS_TARGET_PATH", Value: "/"}}
		}},
		{"a variable twice", "spec.staging.env[1]: Duplicate value", func(s *hpc.DatasetStaging) { s.Env = []corev1.EnvVar{{Name: "A"}, {Name: "A"}} }},
		{"retries", "spec.staging.retries: Invalid value", func(s *hpc.DatasetStaging) { n := int32(-1); s.Retries = &n }},
	} {
		d := images(ns)
		c.change(d.Spec.Staging)
		if err := plane.Client.Create(t.Context(), d, client.DryRunAll); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
	d := images(ns)
	if err := plane.Client.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if s := d.Spec.Staging; s.Queue != "default" || s.Retries == nil || *s.Retries != 3 {
		t.Errorf("defaults: queue %q, retries %v", s.Queue, s.Retries)
	}
	// Users do not write the status with the rest, and what they leave out stays out.
	d.Status.Copies = []hpc.DatasetCopy{{Cluster: "hpc", Path: "/scratch/images", Phase: hpc.CopyReady}}
	if err := plane.Client.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if len(d.Status.Copies) > 0 {
		t.Errorf("status was written: %v", d.Status.Copies)
	}
}

// The API server takes the example of the guide.
func TestGuidesExampleIsFine(t *testing.T) {
	ns := plane.Namespace(t)
	guide, err := os.ReadFile("../../scheduler/DATA.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(guide), "## Copies")
	_, rest, _ = strings.Cut(rest, "```yaml\n")
	example, _, _ := strings.Cut(rest, "```")
	d := &hpc.Dataset{}
	if err := yaml.UnmarshalStrict([]byte(example), d); err != nil || d.Spec.Staging == nil {
		t.Fatalf("the example of copies in the guide is %+v, %v", d, err)
	}
	d.Namespace = ns
	if err := plane.Client.Create(t.Context(), d, client.DryRunAll); err != nil {
		t.Error(err)
	}
}

// TestCopyOfATarget: a copy is of a target only with its path.
func TestCopyOfATarget(t *testing.T) {
	d := images("ns")
	d.Status.Copies = []hpc.DatasetCopy{{Cluster: "hpc", Path: "/old", Phase: hpc.CopyReady}, {Cluster: "east", Path: "/lustre/images", Phase: hpc.CopyFailed}}
	var got []string
	for _, target := range d.Spec.Staging.Targets {
		if c := d.Copy(target); c != nil {
			got = append(got, c.Phase)
		}
	}
	if !slices.Equal(got, []string{hpc.CopyFailed}) {
		t.Errorf("got %v", got)
	}
}
