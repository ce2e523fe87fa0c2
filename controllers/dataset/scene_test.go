package dataset

import (
	"fmt"
	"slices"
	"testing"
	"time"

	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/report"
)

// scene is a Dataset with what is there of it, and a clock. Its Jobs do what the test
// says; a deleted one is there, as being deleted, until gone is called.
type scene struct {
	t       *testing.T
	dataset *hpc.Dataset
	jobs    []*batch.Job
	others  []*batch.Job
	wanted  map[string]bool
	now     time.Time
	told    []string
	notices []report.Notice
	wake    time.Duration
}

func newScene(t *testing.T) *scene {
	t.Helper()
	return &scene{t: t, wanted: map[string]bool{"hpc": true}, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), dataset: &hpc.Dataset{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "images", UID: "u"},
		Spec: hpc.DatasetSpec{Size: kresource.MustParse("10"), Locations: []hpc.DatasetLocation{{Nodes: map[string]string{"a": "b"}, Path: "/local"}, {Cluster: "home", Path: "/data"}},
			Staging: &hpc.DatasetStaging{Image: "tools", Command: []string{"cp"}, Retries: ptr.To[int32](2), Queue: "default",
				Targets: []hpc.DatasetTarget{{Cluster: "hpc", Path: "/scratch"}, {Cluster: "east", Path: "/work"}}}},
	}}
}

// pass carries one decision out.
func (s *scene) pass() Output {
	s.t.Helper()
	out := Next(Input{Dataset: s.dataset.DeepCopy(), Jobs: s.jobs, Others: s.others, Wanted: s.wanted, Now: s.now})
	for _, j := range out.Create {
		j.UID, j.CreationTimestamp = "j", metav1.NewTime(s.now)
		s.jobs = append(s.jobs, j)
	}
	s.dataset.Status = out.Status
	for _, j := range out.Delete {
		j.DeletionTimestamp = ptr.To(metav1.NewTime(s.now))
	}
	for _, n := range out.Notices {
		s.told = append(s.told, n.Reason)
		s.notices = append(s.notices, n)
	}
	s.wake = out.RequeueAfter
	return out
}

// rest passes until nothing changes.
func (s *scene) rest() {
	s.t.Helper()
	for range 10 {
		before := fmt.Sprint(s.dataset.Status)
		if out := s.pass(); len(out.Create)+len(out.Delete) == 0 && fmt.Sprint(s.dataset.Status) == before {
			return
		}
	}
	s.t.Fatalf("it does not come to rest: %v", s.dataset.Status)
}

// gone ends the deletions.
func (s *scene) gone() {
	s.jobs = slices.DeleteFunc(s.jobs, func(j *batch.Job) bool { return j.DeletionTimestamp != nil })
}

// job is the only one that is not being deleted.
func (s *scene) job() *batch.Job {
	s.t.Helper()
	var out []*batch.Job
	for _, j := range s.jobs {
		if j.DeletionTimestamp == nil {
			out = append(out, j)
		}
	}
	if len(out) != 1 {
		s.t.Fatalf("%d Jobs, want one", len(out))
	}
	return out[0]
}

func (s *scene) end(phase batch.JobPhase) {
	s.t.Helper()
	s.job().Status.State = batch.JobState{Phase: phase, Message: "so it went", LastTransitionTime: metav1.NewTime(s.now)}
}

// says compares the message of the first copy.
func (s *scene) says(want string) {
	s.t.Helper()
	if len(s.dataset.Status.Copies) == 0 || s.dataset.Status.Copies[0].Message != want {
		s.t.Fatalf("copies are %+v, want the message %q", s.dataset.Status.Copies, want)
	}
}

// is compares the status, as cluster path phase attempts.
func (s *scene) is(want ...string) {
	s.t.Helper()
	var got []string
	for _, c := range s.dataset.Status.Copies {
		got = append(got, fmt.Sprintf("%s %s %s %d", c.Cluster, c.Path, c.Phase, c.Attempts))
	}
	if !slices.Equal(got, want) {
		s.t.Fatalf("copies are %q, want %q", got, want)
	}
}
