package staging_test

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

// A collection also tells which images go.
func TestCollectTellsImages(t *testing.T) {
	size := resource.MustParse("2Gi")
	for name, tc := range map[string]struct {
		images *hpcv1alpha1.Images
		want   string
	}{
		"no image runtime": {nil, ""},
		"defaults":         {&hpcv1alpha1.Images{}, "--images-unused 720h0m0s"},
		"for ever":         {&hpcv1alpha1.Images{Directory: "/i", Retention: &metav1.Duration{}}, ""},
		"by size":          {&hpcv1alpha1.Images{Retention: &metav1.Duration{}, MaxSize: &size}, "--images-bytes 2147483648"},
		"all": {&hpcv1alpha1.Images{Directory: "/i/{user}/x", Retention: &metav1.Duration{Duration: 3 * time.Hour}, MaxSize: &size},
			"--images-unused 3h0m0s --images-bytes 2147483648 --images /i/alice/x"},
		"shared directory": {&hpcv1alpha1.Images{Directory: "/i"}, "--images-unused 720h0m0s --images /i/alice"},
	} {
		c, r := client()
		c.Images = tc.images
		if _, err := c.Collect(t.Context(), "alice"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		argv := strings.Join(r.got[0].Argv, " ")
		if _, got, _ := strings.Cut(argv+" ", "--root /shared/alice/k8s "); strings.TrimSpace(got) != tc.want {
			t.Errorf("%s: %q, want %q", name, argv, tc.want)
		}
	}
}
