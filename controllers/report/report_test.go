package report_test

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/isthmus-hpc/isthmus/controllers/report"
)

// TestEvents: each notice is an event of its kind, and what users wrote is no format.
func TestEvents(t *testing.T) {
	recorder := events.NewFakeRecorder(2)
	report.Events(recorder, &corev1.Pod{}, report.Notice{Reason: "Completed", Message: "100%d done"}, report.Notice{Warning: true, Reason: "Failed", Message: "it broke"})
	close(recorder.Events)
	var got []string
	for e := range recorder.Events {
		got = append(got, e)
	}
	if len(got) != 2 || got[0] != "Normal Completed 100%d done" || got[1] != "Warning Failed it broke" {
		t.Errorf("events are %q", got)
	}
}

// desk is an API server with one pod, which counts patches of its status and who owns them.
type desk struct {
	client.Client
	patches int
	owner   string
	fails   error
}

func newDesk(t *testing.T) (*desk, *corev1.Pod) {
	t.Helper()
	d := &desk{}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Status: corev1.PodStatus{Message: "old", Reason: "kept"}}
	d.Client = fake.NewClientBuilder().WithObjects(pod).WithStatusSubresource(pod).WithInterceptorFuncs(interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			d.patches++
			options := client.SubResourcePatchOptions{}
			options.ApplyOptions(opts)
			d.owner = options.FieldManager
			if d.fails != nil {
				return d.fails
			}
			return c.SubResource(sub).Patch(ctx, o, patch, opts...)
		},
	}).Build()
	return d, d.read(t)
}

func (d *desk) read(t *testing.T) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{}
	if err := d.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "p"}, pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func (d *desk) say(t *testing.T, pod *corev1.Pod, message string) error {
	t.Helper()
	want := pod.Status.DeepCopy()
	want.Message = message
	return report.Status(t.Context(), d, "tester", pod, func(p *corev1.Pod) *corev1.PodStatus { return &p.Status }, want)
}

// TestStatus: another status is written once, as its owner's and onto what was read, and
// the same one is not.
func TestStatus(t *testing.T) {
	d, pod := newDesk(t)
	if err := d.say(t, pod, "old"); err != nil || d.patches != 0 {
		t.Errorf("the same status: %v, %d writes", err, d.patches)
	}
	if err := d.say(t, pod, "new"); err != nil || d.patches != 1 || d.owner != "tester" {
		t.Errorf("another status: %v, %d writes as %q", err, d.patches, d.owner)
	}
	if got := d.read(t).Status; got.Message != "new" || got.Reason != "kept" {
		t.Errorf("the status is %+v", got)
	}
	if pod.Status.Message != "old" {
		t.Errorf("the object that was given says %q now", pod.Status.Message)
	}
	if err := d.say(t, pod, "stale"); !apierrors.IsConflict(err) {
		t.Errorf("onto what was read before: %v, want a conflict", err)
	}
	if got := d.read(t).Status.Message; got != "new" {
		t.Errorf("a stale view made it %q", got)
	}
}

// TestStatusOfWhatIsGone: an object that is gone needs no status; other failures are told.
func TestStatusOfWhatIsGone(t *testing.T) {
	d, pod := newDesk(t)
	d.fails = errors.New("the API server is away")
	if err := d.say(t, pod, "new"); !errors.Is(err, d.fails) {
		t.Errorf("a failure gives %v", err)
	}
	d.fails = nil
	if err := d.Delete(t.Context(), pod.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	if err := d.say(t, pod, "new"); err != nil {
		t.Errorf("of an object that is gone: %v", err)
	}
}
