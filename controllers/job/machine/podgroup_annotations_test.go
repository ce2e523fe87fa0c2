package machine

import (
	"testing"

	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// What the scheduler alone says of a PodGroup is not taken from the user's Job.
func TestPodGroupTakesNoWordOfTheScheduler(t *testing.T) {
	job := &batch.Job{}
	job.Annotations = map[string]string{wellknown.Nomination: "{}", wellknown.Staging: "{}", wellknown.Walltime: "1h"}
	got := newPodGroup(job, 0, release{}).Annotations
	for _, k := range []string{wellknown.Nomination, wellknown.Staging} {
		if v, ok := got[k]; ok {
			t.Errorf("annotation %s of the Job is on its PodGroup: %q", k, v)
		}
	}
	if got[wellknown.Walltime] != "1h" {
		t.Errorf("want the Job's other annotations on its PodGroup, have %v", got)
	}
}
