package dataset_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/controllers/dataset"
)

// stage is a namespace with the Dataset of images, and a controller with a clock that
// is set forward.
type stage struct {
	t      *testing.T
	ns     string
	offset atomic.Int64
	stop   func()
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, ns: plane.Namespace(t)}
	s.create(images(s.ns))
	s.start()
	return s
}

func (s *stage) create(o client.Object) {
	s.t.Helper()
	if err := plane.Client.Create(s.t.Context(), o); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) start() {
	s.t.Helper()
	s.stop = plane.Run(s.t, ctrl.Options{}, func(ctx context.Context, mgr ctrl.Manager) error {
		r := &dataset.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: mgr.GetEventRecorder(dataset.Name),
			Now: func() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }}
		return r.SetupWithManager(ctx, mgr)
	})
}

// ask is a gang of that name that waits for a copy, as the scheduler says it.
func (s *stage) ask(name, text string) {
	s.t.Helper()
	s.create(&scheduling.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name, Annotations: map[string]string{wellknown.Staging: text}},
		Spec: scheduling.PodGroupSpec{MinMember: 1}})
}

func (s *stage) dataset() *hpc.Dataset {
	s.t.Helper()
	d := &hpc.Dataset{}
	if err := plane.Client.Get(s.t.Context(), client.ObjectKey{Namespace: s.ns, Name: "images"}, d); err != nil {
		s.t.Fatal(err)
	}
	return d
}

// edit changes the Dataset as its user does.
func (s *stage) edit(change func(*hpc.Dataset)) {
	s.t.Helper()
	d := s.dataset()
	changed := d.DeepCopy()
	change(changed)
	if err := plane.Client.Patch(s.t.Context(), changed, client.MergeFrom(d)); err != nil {
		s.t.Fatal(err)
	}
}

// is waits for the copies, as cluster phase attempts, and as many Jobs.
func (s *stage) is(jobs int, want ...string) *hpc.Dataset {
	s.t.Helper()
	controllertest.Eventually(s.t, 2*time.Minute, func(ctx context.Context) string {
		var got []string
		for _, c := range s.dataset().Status.Copies {
			got = append(got, fmt.Sprintf("%s %s %d", c.Cluster, c.Phase, c.Attempts))
		}
		var list batch.JobList
		if err := plane.Client.List(ctx, &list, client.InNamespace(s.ns)); err != nil {
			return err.Error()
		}
		if !slices.Equal(got, want) || len(list.Items) != jobs {
			return fmt.Sprintf("copies %q and %d Jobs, want %q and %d", got, len(list.Items), want, jobs)
		}
		return ""
	})
	return s.dataset()
}

// job is the Job of the copy to a cluster.
func (s *stage) job(cluster string) *batch.Job {
	s.t.Helper()
	for _, c := range s.dataset().Status.Copies {
		if c.Cluster != cluster {
			continue
		}
		j := &batch.Job{}
		if err := plane.Client.Get(s.t.Context(), client.ObjectKey{Namespace: s.ns, Name: c.Job}, j); err != nil {
			s.t.Fatal(err)
		}
		return j
	}
	s.t.Fatalf("there is no copy to %s", cluster)
	return nil
}

// end is what the Job's controller says of it.
func (s *stage) end(cluster string, phase batch.JobPhase) {
	s.t.Helper()
	j := s.job(cluster)
	changed := j.DeepCopy()
	changed.Status.State = batch.JobState{Phase: phase, Message: "so it went", LastTransitionTime: metav1.Now()}
	if err := plane.Client.Status().Patch(s.t.Context(), changed, client.MergeFrom(j)); err != nil {
		s.t.Fatal(err)
	}
}

// On a real API server: two gangs share a copy, which fails, is tried again after its
// pause, and is ready; the controller is started again at each of these.
func TestCopies(t *testing.T) {
	s := newStage(t)
	s.ask("one", `{"images":"hpc"}`)
	s.ask("two", `{"images":"hpc","other":"east"}`)
	s.ask("three", `{"images":"nowhere"}`)
	s.is(1, "hpc Copying 1")
	s.stop()
	s.end("hpc", batch.Failed)
	s.start()
	d := s.is(1, "hpc Failed 1")
	if c := d.Status.Copies[0]; !strings.Contains(c.Message, "Failed: so it went") || c.RetryTime == nil {
		t.Errorf("got %+v", c)
	}
	s.stop()
	s.offset.Add(int64(time.Minute))
	s.start()
	s.is(1, "hpc Copying 2") // the Job of the first is deleted
	s.ask("four", `{"images":"east"}`)
	s.is(2, "east Copying 1", "hpc Copying 2")
	s.end("hpc", batch.Completed)
	s.end("east", batch.Completed)
	s.is(2, "east Ready 1", "hpc Ready 2")
	s.stop()
	s.offset.Add(int64(2 * time.Hour))
	s.start()
	s.is(0, "east Ready 1", "hpc Ready 2")
	controllertest.Eventually(t, time.Minute, func(ctx context.Context) string {
		var list eventsv1.EventList
		if err := plane.Client.List(ctx, &list, client.InNamespace(s.ns)); err != nil {
			return err.Error()
		}
		seen := map[string]bool{}
		for _, e := range list.Items {
			if e.Regarding.Kind == "Dataset" && e.Regarding.Name == "images" {
				seen[e.Reason] = true
			}
		}
		for _, want := range []string{"CopyStarted", "CopyFailed", "CopyCompleted"} {
			if !seen[want] {
				return fmt.Sprintf("no event %s, but %v", want, seen)
			}
		}
		return ""
	})
}

// A Job that is deleted by hand is an attempt that failed, also when nobody looked.
func TestJobIsDeleted(t *testing.T) {
	s := newStage(t)
	s.ask("one", `{"images":"hpc"}`)
	s.is(1, "hpc Copying 1")
	s.stop()
	if err := plane.Client.Delete(t.Context(), s.job("hpc")); err != nil {
		t.Fatal(err)
	}
	s.start()
	if c := s.is(0, "hpc Failed 1").Status.Copies[0]; c.Message != "its Job was deleted" || c.RetryTime == nil {
		t.Errorf("got %+v", c)
	}
}

// A copy under way to a target that is no more ends: its Job goes, and then its entry.
func TestTargetIsRemoved(t *testing.T) {
	s := newStage(t)
	s.ask("one", `{"images":"hpc"}`)
	s.ask("two", `{"images":"east"}`)
	s.is(2, "east Copying 1", "hpc Copying 1")
	first := s.job("hpc").Name
	s.edit(func(d *hpc.Dataset) { d.Spec.Staging.Targets = d.Spec.Staging.Targets[1:] })
	s.is(1, "east Copying 1")
	s.edit(func(d *hpc.Dataset) {
		d.Spec.Staging.Targets = append(d.Spec.Staging.Targets, hpc.DatasetTarget{Cluster: "hpc", Path: "/elsewhere"})
	})
	s.is(2, "east Copying 1", "hpc Copying 1")
	if j := s.job("hpc"); j.Name == first {
		t.Errorf("the Job of another path has the name %s again", first)
	}
	s.edit(func(d *hpc.Dataset) { d.Spec.Staging = nil })
	s.is(0)
}

// Where somebody else's Job has the name, the copy says so and waits; once that is gone
// it is made.
func TestNameIsTaken(t *testing.T) {
	s := newStage(t)
	s.ask("one", `{"images":"hpc"}`)
	s.is(1, "hpc Copying 1")
	s.stop()
	other := s.job("hpc")
	if err := plane.Client.Delete(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, time.Minute, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(other), &batch.Job{}); !apierrors.IsNotFound(err) {
			return fmt.Sprintf("the Job is there: %v", err)
		}
		return ""
	})
	d := s.dataset()
	d.Status = hpc.DatasetStatus{}
	if err := plane.Client.Status().Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	s.create(&batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: other.Name}, Spec: *other.Spec.DeepCopy()})
	s.start()
	c := s.is(1, "hpc Failed 0").Status.Copies[0]
	if !strings.Contains(c.Message, "is another's") || c.RetryTime == nil {
		t.Errorf("got %+v", c)
	}
	if err := plane.Client.Delete(t.Context(), &batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: other.Name}}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.offset.Add(int64(time.Minute))
	s.start()
	s.is(1, "hpc Copying 1")
}

// The Jobs of a Dataset go with it.
func TestDatasetIsDeleted(t *testing.T) {
	s := newStage(t)
	s.ask("one", `{"images":"hpc"}`)
	s.is(1, "hpc Copying 1")
	if err := plane.Client.Delete(t.Context(), s.dataset()); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, time.Minute, func(ctx context.Context) string {
		var list batch.JobList
		if err := plane.Client.List(ctx, &list, client.InNamespace(s.ns)); err != nil {
			return err.Error()
		}
		if n := len(list.Items); n > 0 {
			return fmt.Sprintf("%d Jobs are left", n)
		}
		return ""
	})
}

// A Dataset that is deleted and made again is not copied while a pod of the one before
// may write.
func TestMadeAnewWhileCopied(t *testing.T) {
	s := newStage(t)
	s.ask("one", `{"images":"hpc"}`)
	s.is(1, "hpc Copying 1")
	first := s.job("hpc")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "copy", Finalizers: []string{"example.org/hold"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(first, batch.SchemeGroupVersion.WithKind("Job"))}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "tools"}}},
	}
	s.create(pod)
	if err := plane.Client.Delete(t.Context(), s.dataset()); err != nil {
		t.Fatal(err)
	}
	s.create(images(s.ns))
	d := s.is(1, "hpc Failed 0")
	if c := d.Status.Copies[0]; !strings.Contains(c.Message, "waits until Job "+first.Name) {
		t.Errorf("got %+v", c)
	}
	// The garbage collector has come by, and the Job stays with its pod.
	controllertest.Eventually(t, 2*time.Minute, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil || pod.DeletionTimestamp == nil {
			return fmt.Sprintf("the pod is not being deleted: %v", err)
		}
		return ""
	})
	s.stop()
	s.offset.Add(int64(time.Minute))
	s.start()
	if c := s.is(1, "hpc Failed 0").Status.Copies[0]; !strings.Contains(c.Message, "waits until Job "+first.Name) {
		t.Errorf("got %+v", c)
	}
	if err := plane.Client.Patch(t.Context(), pod, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	s.is(1, "hpc Copying 1")
	if j := s.job("hpc"); j.UID == first.UID {
		t.Errorf("Job %s of the Dataset before goes on", j.Name)
	}
}
