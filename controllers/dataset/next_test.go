package dataset

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

func TestCopyThatIsWanted(t *testing.T) {
	s := newScene(t)
	s.wanted = nil
	s.rest()
	s.is()
	s.wanted = map[string]bool{"hpc": true, "nowhere": true}
	s.rest()
	s.is("hpc /scratch Copying 1")
	job := s.job()
	if job.Name != s.dataset.Status.Copies[0].Job || !metav1.IsControlledBy(job, s.dataset) || job.Labels[wellknown.Cluster] != "hpc" {
		t.Errorf("the Job is %s of %v, the status has %s", job.Name, job.OwnerReferences, s.dataset.Status.Copies[0].Job)
	}
	job.Status.State = batch.JobState{Phase: batch.Pending, Reason: "Unschedulable", Message: "2 CPUs short"}
	s.rest()
	if m := s.dataset.Status.Copies[0].Message; m != "its Job is Pending: 2 CPUs short" {
		t.Errorf("message %q", m)
	}
	// One that nobody asks for any more goes on, so that what was done is not lost.
	s.wanted = nil
	s.rest()
	s.now = s.now.Add(time.Hour)
	s.end(batch.Completed)
	s.rest()
	s.is("hpc /scratch Ready 1")
	if c := s.dataset.Status.Copies[0]; c.Message != "" || c.CompletionTime.Sub(c.StartTime.Time) != time.Hour || c.RetryTime != nil {
		t.Errorf("got %+v", c)
	}
	if want := []string{"CopyStarted", "CopyCompleted"}; !slices.Equal(s.told, want) {
		t.Errorf("told %v", s.told)
	}
	// Its Job goes later, and it stays ready, also when it would be made otherwise now.
	if s.wake != keptReady {
		t.Errorf("looks again after %s", s.wake)
	}
	s.now = s.now.Add(keptReady)
	s.dataset.Spec.Staging.Command = []string{"rsync"}
	s.rest()
	s.gone()
	s.rest()
	s.is("hpc /scratch Ready 1")
	if len(s.jobs) > 0 || s.wake != 0 {
		t.Errorf("%d Jobs are left, looks again after %s", len(s.jobs), s.wake)
	}
}

func TestCopyThatFails(t *testing.T) {
	s := newScene(t)
	for attempt, pause := range []time.Duration{time.Minute, 2 * time.Minute, 0} {
		s.rest()
		s.is(fmt.Sprintf("hpc /scratch Copying %d", attempt+1))
		s.end(batch.Failed)
		s.rest()
		s.is(fmt.Sprintf("hpc /scratch Failed %d", attempt+1))
		c := s.dataset.Status.Copies[0]
		if !strings.Contains(c.Message, "Failed: so it went") {
			t.Errorf("message %q", c.Message)
		}
		if pause == 0 {
			if c.RetryTime != nil {
				t.Errorf("it is tried again at %s, after all retries", c.RetryTime)
			}
			break
		}
		if c.RetryTime == nil || c.RetryTime.Sub(s.now) != pause || s.wake != pause {
			t.Fatalf("attempt %d: tried again at %v, looks after %s, want %s", attempt+1, c.RetryTime, s.wake, pause)
		}
		s.now = s.now.Add(pause - time.Second)
		s.rest()
		s.is(fmt.Sprintf("hpc /scratch Failed %d", attempt+1))
		s.now = s.now.Add(time.Second)
		wanted := s.wanted
		s.wanted = nil
		s.rest()
		s.is(fmt.Sprintf("hpc /scratch Failed %d", attempt+1)) // nobody asks
		s.wanted = wanted
		s.rest()
		s.gone() // the Job of the attempt before
	}
	s.now = s.now.Add(24*time.Hour - time.Second)
	s.rest()
	s.is("hpc /scratch Failed 3")
	s.job() // is kept for its logs
	// More retries are an attempt at once, since its time has come long ago.
	s.dataset.Spec.Staging.Retries = ptr.To[int32](3)
	s.rest()
	s.is("hpc /scratch Copying 4")
	s.gone()
	s.end(batch.Terminated)
	s.rest()
	s.is("hpc /scratch Failed 4")
	// Another program begins to count anew.
	s.dataset.Spec.Staging.Args = []string{"-r"}
	s.rest()
	s.is("hpc /scratch Failed 4") // until the Job is gone
	s.says("its Job is Terminated: so it went; it waits until Job " + s.dataset.Status.Copies[0].Job + " and its pods are gone")
	s.gone()
	s.rest()
	s.is("hpc /scratch Copying 1")
	if want := []string{"CopyStarted", "CopyFailed", "CopyStarted", "CopyFailed", "CopyStarted", "CopyFailed", "CopyStarted", "CopyFailed", "CopyStarted"}; !slices.Equal(s.told, want) {
		t.Errorf("told %v", s.told)
	}
}

func TestPausesDouble(t *testing.T) {
	for attempts, want := range map[int32]time.Duration{0: time.Minute, 1: time.Minute, 2: 2 * time.Minute, 5: 16 * time.Minute, 7: time.Hour, 100: time.Hour} {
		if got := pause(attempts); got != want {
			t.Errorf("after %d attempts %s, want %s", attempts, got, want)
		}
	}
}

// A Job that is deleted by hand is an attempt that failed; one that is suspended is not.
func TestJobInOtherHands(t *testing.T) {
	s := newScene(t)
	s.rest()
	s.end(batch.Aborted)
	s.rest()
	s.is("hpc /scratch Copying 1")
	s.job().DeletionTimestamp = ptr.To(metav1.NewTime(s.now))
	s.rest()
	s.is("hpc /scratch Copying 1")
	s.gone()
	s.rest()
	s.is("hpc /scratch Failed 1")
	if c := s.dataset.Status.Copies[0]; c.Message != "its Job was deleted" || c.RetryTime == nil {
		t.Errorf("got %+v", c)
	}
}

// What is under way for a target that is not what it was ends first.
func TestTargetThatChanges(t *testing.T) {
	for what, change := range map[string]func(*hpc.Dataset){
		"path":    func(d *hpc.Dataset) { d.Spec.Staging.Targets[0].Path = "/new" },
		"program": func(d *hpc.Dataset) { d.Spec.Staging.Command = []string{"rsync"} },
		"source":  func(d *hpc.Dataset) { d.Spec.Locations[1].Path = "/new" },
		"nodes":   func(d *hpc.Dataset) { d.Spec.Staging.Targets[0].NodeSelector = map[string]string{"a": "b"} },
		"removed": func(d *hpc.Dataset) { d.Spec.Staging.Targets = d.Spec.Staging.Targets[1:] },
		"nothing": func(d *hpc.Dataset) { d.Spec.Staging = nil },
	} {
		t.Run(what, func(t *testing.T) {
			s := newScene(t)
			s.rest()
			first := s.job()
			change(s.dataset)
			s.rest()
			if len(s.dataset.Status.Copies) != 1 || s.dataset.Status.Copies[0].Job != first.Name || first.DeletionTimestamp == nil || len(s.jobs) != 1 {
				t.Fatalf("while the Job is there: %+v, %d Jobs", s.dataset.Status.Copies, len(s.jobs))
			}
			s.says("it waits until Job " + first.Name + " and its pods are gone")
			s.gone()
			s.rest()
			if what == "removed" || what == "nothing" {
				s.is()
				return
			}
			s.is(fmt.Sprintf("hpc %s Copying 1", s.dataset.Spec.Staging.Targets[0].Path))
			if s.job().Name == first.Name {
				t.Errorf("the new Job has the name of the old one")
			}
		})
	}
	// What has nothing to do with it changes nothing.
	s := newScene(t)
	s.rest()
	first := s.job()
	s.dataset.Spec.Staging.Retries = ptr.To[int32](9)
	s.dataset.Spec.Staging.Targets[1].Path = "/other"
	s.dataset.Spec.Locations = append(s.dataset.Spec.Locations, hpc.DatasetLocation{Cluster: "west", Path: "/w"})
	s.dataset.Spec.Size = kresource.MustParse("20")
	s.rest()
	if s.job() != first {
		t.Errorf("the copy was begun anew")
	}
	// A target that is removed and comes again is copied again.
	s.end(batch.Completed)
	s.rest()
	s.is("hpc /scratch Ready 1")
	targets := s.dataset.Spec.Staging.Targets
	s.dataset.Spec.Staging.Targets = targets[1:]
	s.rest()
	s.gone()
	s.rest()
	s.is()
	s.dataset.Spec.Staging.Targets = targets
	s.rest()
	s.is("hpc /scratch Copying 1")
}

// A Job that was made when the status could not be written any more is that of the
// attempt, wherever this happened.
func TestJobIsFoundAgain(t *testing.T) {
	for _, failed := range []bool{false, true} {
		for _, wanted := range []bool{false, true} {
			s := newScene(t)
			if failed {
				s.rest()
				s.end(batch.Failed)
				s.rest()
				s.now = s.now.Add(time.Minute)
			}
			before := s.dataset.Status.DeepCopy()
			s.pass()
			made := s.jobs[len(s.jobs)-1]
			made.Status.State = batch.JobState{Phase: batch.Completed, LastTransitionTime: metav1.NewTime(s.now)}
			s.dataset.Status = *before
			s.wanted["hpc"] = wanted
			s.rest()
			s.gone()
			s.is(fmt.Sprintf("hpc /scratch Ready %d", len(before.Copies)+1))
			if s.job() != made {
				t.Errorf("failed before %v, wanted %v: %d Jobs", failed, wanted, len(s.jobs))
			}
		}
	}
	// One of a program that is no more goes before the next is made.
	s := newScene(t)
	s.pass()
	s.dataset.Status = hpc.DatasetStatus{}
	s.dataset.Spec.Staging.Command = []string{"rsync"}
	s.rest()
	s.is("hpc /scratch Failed 0")
	s.says("its Job is not made yet; it waits until Job " + s.jobs[0].Name + " and its pods are gone")
	s.gone()
	s.rest()
	s.now = s.now.Add(time.Minute)
	s.rest()
	s.is("hpc /scratch Copying 1")
}

// While the Job of a Dataset that had the name may write, none is begun, and that Job is
// left to the garbage collector.
func TestDatasetIsMadeAnew(t *testing.T) {
	s := newScene(t)
	s.rest()
	s.others, s.jobs = s.jobs, nil
	old := s.others[0]
	s.dataset.UID, s.dataset.Status = "v", hpc.DatasetStatus{}
	s.wanted["east"] = true
	s.rest()
	s.is("east /work Copying 1", "hpc /scratch Failed 0")
	wait := "its Job is not made yet; it waits until Job " + old.Name + " and its pods are gone"
	for range 3 {
		if c := s.dataset.Status.Copies[1]; c.Message != wait || old.DeletionTimestamp != nil || len(s.jobs) != 1 {
			t.Fatalf("got %+v and %d Jobs, the old one deleted at %v", c, len(s.jobs), old.DeletionTimestamp)
		}
		s.now = s.now.Add(time.Minute)
		s.rest()
	}
	// Nobody asks any more, and then somebody does.
	s.wanted["hpc"] = false
	s.others = nil
	s.rest()
	if c := s.dataset.Status.Copies[1]; c.Message != "its Job is not made yet" {
		t.Errorf("got %+v", c)
	}
	s.wanted["hpc"] = true
	s.rest()
	s.is("east /work Copying 1", "hpc /scratch Copying 1")
	// One that has ended writes no more.
	s = newScene(t)
	old.Status.State.Phase = batch.Failed
	s.others = []*batch.Job{old}
	s.rest()
	s.is("hpc /scratch Copying 1")
	if f := s.job().Finalizers; !slices.Equal(f, []string{metav1.FinalizerDeleteDependents}) {
		t.Errorf("a Job with the finalizers %q may go before its pods", f)
	}
}

// Labels are users' to change: a Job is that of the copy that names it.
func TestJobLosesItsLabel(t *testing.T) {
	for _, label := range []string{"", "east", "nowhere"} {
		s := newScene(t)
		s.rest()
		s.job().Labels[wellknown.Cluster] = label
		s.wanted["east"] = false
		s.rest()
		s.is("hpc /scratch Copying 1")
		s.job() // is not deleted
		s.end(batch.Completed)
		s.rest()
		s.is("hpc /scratch Ready 1")
	}
}

// The API server refuses events with a text of more than 1,024 bytes.
func TestLongWords(t *testing.T) {
	s := newScene(t)
	s.dataset.Spec.Staging.Targets[0].Path = "/" + strings.Repeat("ä", 2047)
	s.rest()
	s.end(batch.Failed)
	s.job().Status.State.Message = strings.Repeat("ö", 2500)
	s.rest()
	s.now = s.now.Add(time.Minute)
	s.rest()
	s.gone()
	s.end(batch.Completed)
	s.rest()
	if want := []string{"CopyStarted", "CopyFailed", "CopyStarted", "CopyCompleted"}; !slices.Equal(s.told, want) {
		t.Errorf("told %v, want %v", s.told, want)
	}
	for _, n := range s.notices {
		if len(n.Message) > 1024 || !utf8.ValidString(n.Message) || n.Reason == "CopyFailed" && !strings.HasSuffix(n.Message, "if it is still asked for") {
			t.Errorf("%s of %d bytes: %s", n.Reason, len(n.Message), n.Message)
		}
	}
	in := Input{Dataset: s.dataset, Now: s.now}
	refuse(in, &s.dataset.Status.Copies[0], nil, errors.New(strings.Repeat("x", 5000)))
	if n := len(s.dataset.Status.Copies[0].Message); n > 1024 {
		t.Errorf("the message of a refusal has %d bytes", n)
	}
}

// The API server takes 64 copies in a status: further ones wait until there is room.
func TestTooManyCopies(t *testing.T) {
	s := newScene(t)
	s.dataset.Spec.Staging.Targets = nil
	for i := range 64 {
		name := fmt.Sprintf("b%02d", i)
		s.dataset.Spec.Staging.Targets = append(s.dataset.Spec.Staging.Targets, hpc.DatasetTarget{Cluster: name, Path: "/p"})
		s.wanted[name] = true
	}
	s.rest()
	for i := range s.dataset.Spec.Staging.Targets {
		name := fmt.Sprintf("a%02d", i)
		s.dataset.Spec.Staging.Targets[i].Cluster, s.wanted[name] = name, true
	}
	s.rest()
	if n := len(s.dataset.Status.Copies); n != 64 || !slices.Contains(s.told, "TooManyCopies") {
		t.Fatalf("%d copies, told %v", n, slices.Compact(s.told))
	}
	s.gone()
	s.rest()
	if n, first, last := len(s.dataset.Status.Copies), s.dataset.Status.Copies[0].Cluster, s.dataset.Status.Copies[63].Cluster; n != 64 || first != "a00" || last != "a63" {
		t.Errorf("%d copies, from %s to %s", n, first, last)
	}
}

func TestRefusedJob(t *testing.T) {
	s := newScene(t)
	in := Input{Dataset: s.dataset, Wanted: s.wanted, Now: s.now}
	out := Next(in)
	refuse(in, &out.Status.Copies[0], nil, errors.New("no queue nightly"))
	s.dataset.Status = out.Status
	c := s.dataset.Status.Copies[0]
	if c.Phase != hpc.CopyFailed || c.Attempts != 0 || c.Job != "" || !strings.Contains(c.Message, "no queue nightly") || c.RetryTime.Sub(s.now) != time.Minute {
		t.Fatalf("got %+v", c)
	}
	s.rest()
	s.is("hpc /scratch Failed 0")
	// It says since when it is refused, unless nobody tried for long.
	first := s.now
	for _, later := range []time.Duration{time.Minute, 50 * time.Minute, 2 * time.Hour} {
		s.now = s.now.Add(later)
		in := Input{Dataset: s.dataset.DeepCopy(), Wanted: s.wanted, Now: s.now}
		out := Next(in)
		refuse(in, &out.Status.Copies[0], &in.Dataset.Status.Copies[0], errors.New("no queue nightly"))
		s.dataset.Status = out.Status
		if later > time.Hour {
			first = s.now
		}
		if c := s.dataset.Status.Copies[0]; !c.StartTime.Equal(&metav1.Time{Time: first}) || !c.CompletionTime.Equal(&metav1.Time{Time: s.now}) {
			t.Errorf("after %s more: %+v", later, c)
		}
	}
	s.now = s.now.Add(time.Minute)
	s.rest()
	s.is("hpc /scratch Copying 1")
	if at := s.dataset.Status.Copies[0].StartTime; !at.Equal(&metav1.Time{Time: s.now}) {
		t.Errorf("it began at %s", at)
	}
}

func TestDeletedDatasetIsLeft(t *testing.T) {
	s := newScene(t)
	s.rest()
	s.dataset.DeletionTimestamp = ptr.To(metav1.NewTime(s.now))
	s.jobs = nil
	s.rest()
	s.is("hpc /scratch Copying 1")
}

func TestJobOfACopy(t *testing.T) {
	s := newScene(t)
	d := s.dataset
	d.Name = "a.very-long-name.of-a-dataset-.that-goes-on-and-on"
	d.Spec.Locations[1].Path = "/data/$(HOME)"
	d.Spec.Staging.Env = []corev1.EnvVar{{Name: "A", Value: "$(ISTHMUS_TARGET_PATH)"}}
	d.Spec.Staging.Annotations = map[string]string{wellknown.Walltime: "2h"}
	d.Spec.Staging.Targets[0].NodeSelector = map[string]string{wellknown.Partition: "dtn", wellknown.Cluster: "other"}
	d.Spec.Staging.Targets[0].Tolerations = []corev1.Toleration{{Key: "site"}}
	job := newJob(d, d.Spec.Staging.Targets[0], 1)
	if len(job.Name) > 55 || strings.Contains(job.Name, ".") || strings.Contains(job.Name, "--") {
		t.Errorf("name %s", job.Name)
	}
	pod := job.Spec.Tasks[0].Template
	if pod.Spec.NodeSelector[wellknown.Cluster] != "hpc" || pod.Spec.NodeSelector[wellknown.Partition] != "dtn" || len(pod.Spec.Tolerations) != 1 ||
		*pod.Spec.AutomountServiceAccountToken || pod.Annotations[wellknown.Walltime] != "2h" || pod.Spec.RestartPolicy != corev1.RestartPolicyNever {
		t.Errorf("pod %+v", pod)
	}
	var got []string
	for _, e := range pod.Spec.Containers[0].Env {
		got = append(got, e.Name+"="+e.Value)
	}
	want := []string{"ISTHMUS_DATASET=" + d.Name, "ISTHMUS_DATASET_SIZE=10",
		`ISTHMUS_DATASET_LOCATIONS=[{"nodes":{"a":"b"},"path":"/local"},{"cluster":"home","path":"/data/$$(HOME)"}]`,
		"ISTHMUS_SOURCE_CLUSTER=home", "ISTHMUS_SOURCE_PATH=/data/$$(HOME)", "ISTHMUS_TARGET_CLUSTER=hpc", "ISTHMUS_TARGET_PATH=/scratch", "A=$(ISTHMUS_TARGET_PATH)"}
	if !slices.Equal(got, want) {
		t.Errorf("environment\n%q, want\n%q", got, want)
	}
	d.Spec.Staging.ServiceAccountName = "mover"
	if pod := newJob(d, d.Spec.Staging.Targets[0], 1).Spec.Tasks[0].Template; pod.Spec.ServiceAccountName != "mover" || pod.Spec.AutomountServiceAccountToken != nil {
		t.Errorf("pod %+v", pod.Spec)
	}
	// What it makes is not there while it is made, so it does not wait for it.
	for text, want := range map[string]string{"other , " + d.Name + ", more": "other , more", d.Name: "", "other": "other", d.Name + "," + d.Name: ""} {
		d.Spec.Staging.Annotations = map[string]string{wellknown.Datasets: text, wellknown.Walltime: "2h"}
		got, there := newJob(d, d.Spec.Staging.Targets[0], 1).Spec.Tasks[0].Template.Annotations[wellknown.Datasets]
		if got != want || there != (want != "") || d.Spec.Staging.Annotations[wellknown.Datasets] != text {
			t.Errorf("%q: reads %q, want %q", text, got, want)
		}
	}
	d.Spec.Locations = d.Spec.Locations[:1]
	if l := source(d); l.Path != "/local" || l.Cluster != "" {
		t.Errorf("source %+v", l)
	}
}

func TestWhatGroupsAskFor(t *testing.T) {
	job := &batch.Job{} // any object
	for text, want := range map[string]string{"": "map[]", `{"a":"x","b":"y"}`: "map[a:x b:y]", `{"a":1}`: "map[]", "a": "map[]", `{"a":"` + strings.Repeat("x", 64<<10) + `"}`: "map[]"} {
		job.Annotations = map[string]string{wellknown.Staging: text}
		if got := fmt.Sprint(asked(job)); got != want {
			t.Errorf("%.20q: %s, want %s", text, got, want)
		}
	}
}
