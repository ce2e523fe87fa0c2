package cache

import (
	"testing"
	"time"

	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestCopyThatIsRefusedIsLate: a copy whose Job is refused is thought to be refused as
// long again, so that its cluster does not hold up gangs for ever; when nobody asked for
// long, it counts as new.
func TestCopyThatIsRefusedIsLate(t *testing.T) {
	const takes = 100
	for name, tc := range map[string]struct {
		attempts int32
		refused  time.Duration // until the last refusal
		ago      time.Duration // since that
		want     time.Duration // until it begins
	}{
		"at first":                     {want: time.Minute},
		"for an hour":                  {refused: time.Hour, want: time.Hour},
		"a while after that":           {refused: time.Hour, ago: 40 * time.Minute, want: 20 * time.Minute},
		"long after that":              {refused: time.Hour, ago: 2 * time.Hour},
		"an attempt that took an hour": {attempts: 1, refused: time.Hour, want: time.Minute},
	} {
		last := start.Add(-tc.ago)
		e := &dataset{Data: snapshot.Data{Size: takes, PerSecond: 1}}
		e.setTargets(&hpcv1alpha1.Dataset{
			Spec: hpcv1alpha1.DatasetSpec{Size: kresource.MustParse("100"), Staging: &hpcv1alpha1.DatasetStaging{
				Targets: []hpcv1alpha1.DatasetTarget{{Cluster: "east", Path: "/p"}}}},
			Status: hpcv1alpha1.DatasetStatus{Copies: []hpcv1alpha1.DatasetCopy{{Cluster: "east", Path: "/p", Phase: hpcv1alpha1.CopyFailed, Attempts: tc.attempts,
				StartTime: ptr.To(metav1.NewTime(last.Add(-tc.refused))), CompletionTime: ptr.To(metav1.NewTime(last)), RetryTime: ptr.To(metav1.NewTime(last.Add(time.Minute)))}}},
		})
		c := snapshot.Copy{Data: &e.Data, Target: &e.Targets[0]}
		if got, want := c.Ready(start), takes+int64(tc.want/time.Second); got != want {
			t.Errorf("refused %s: ready in %d s, want %d", name, got, want)
		}
	}
}
