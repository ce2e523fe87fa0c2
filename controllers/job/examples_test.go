package job_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// Every Job among the examples runs to its end.
func TestExamples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../test/examples/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("examples: %d files, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range strings.Split(string(text), "\n---\n") {
			j := &batch.Job{}
			if err := yaml.Unmarshal([]byte(document), j); err != nil || j.Kind != "Job" {
				continue
			}
			t.Run(filepath.Base(file)+"/"+j.Name, func(t *testing.T) {
				t.Parallel()
				if err := yaml.UnmarshalStrict([]byte(document), j); err != nil {
					t.Fatal(err)
				}
				ns := plane.Namespace(t)
				startController(t, ns)
				plane.Play(t, ns, func(pod *corev1.Pod) (corev1.PodPhase, int32) {
					if strings.HasPrefix(pod.Name, "policies-worker-") {
						return controllertest.Run(pod)
					}
					return controllertest.Succeed(pod)
				})
				j.Namespace = ns
				create(t, j)
				waitPhase(t, j, batch.Completed)
			})
		}
	}
}
