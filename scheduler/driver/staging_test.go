package driver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// eventuallyAsks waits until a PodGroup asks for these copies.
func eventuallyAsks(t *testing.T, ns, name, want string) {
	t.Helper()
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		pg := &volcanov1.PodGroup{}
		if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, pg); err != nil {
			return err.Error()
		}
		if got := pg.Annotations[wellknown.Staging]; got != want {
			return fmt.Sprintf("PodGroup %s asks for %q, want %q; it says %+v", name, got, want, pg.Status.Conditions)
		}
		return ""
	})
}

// TestGangWaitsForItsCopy: a gang whose data is nowhere that it may go asks for a copy on
// its PodGroup, whichever scheduler runs, tells what fails, and goes where the copy is.
func TestGangWaitsForItsCopy(t *testing.T) {
	api, ns := reservations(t), plane.Namespace(t)
	for _, name := range []string{ns + "-a", ns + "-b"} {
		virtualNode(t, name, 2)
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"isthmus.sh/cluster":"`+name+`"}}}`))
		if err := plane.Client.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, patch); err != nil {
			t.Fatal(err)
		}
	}
	d := &hpcv1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "images"},
		Spec: datasetSpec("1Ti", hpcv1alpha1.DatasetLocation{Cluster: ns + "-closed", Path: "/data/images"})}
	d.Spec.Staging = &hpcv1alpha1.DatasetStaging{Image: "none", Command: []string{"cp"}, Targets: []hpcv1alpha1.DatasetTarget{
		{Cluster: ns + "-b", Path: "/copy/b"}, {Cluster: ns + "-a", Path: "/copy/a"}}}
	if err := api.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	tell := func(copies ...hpcv1alpha1.DatasetCopy) {
		t.Helper()
		d.Status.Copies = copies
		if err := api.Status().Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	stop := startScheduler(t, &wire{})
	create(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "g", Annotations: map[string]string{wellknown.Datasets: "images"}},
		Spec:       volcanov1.PodGroupSpec{MinMember: 1, Queue: "default", MinResources: &corev1.ResourceList{"cpu": kresource.MustParse("1")}},
		Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
	})
	member(t, ns, "g", 0)
	eventuallyAsks(t, ns, "g", `{"images":"`+ns+`-a"}`)
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
		return len(s.Conditions) > 0 && s.Conditions[0].Reason == "DataStaging" && strings.Contains(s.Conditions[0].Message, "a copy of dataset images at cluster "+ns+"-a")
	})
	tell(hpcv1alpha1.DatasetCopy{Cluster: ns + "-a", Path: "/copy/a", Phase: hpcv1alpha1.CopyFailed, Message: "no space left"})
	eventuallyAsks(t, ns, "g", `{"images":"`+ns+`-b"}`)
	stop()
	startScheduler(t, &wire{})
	began := metav1.NewTime(time.Now())
	tell(hpcv1alpha1.DatasetCopy{Cluster: ns + "-a", Path: "/copy/a", Phase: hpcv1alpha1.CopyFailed, Message: "no space left"},
		hpcv1alpha1.DatasetCopy{Cluster: ns + "-b", Path: "/copy/b", Phase: hpcv1alpha1.CopyCopying, StartTime: &began})
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
		return len(s.Conditions) > 0 && strings.Contains(s.Conditions[0].Message, "cluster "+ns+"-b, ready at about")
	})
	eventuallyBound(t, ns, "g", 0)
	tell(hpcv1alpha1.DatasetCopy{Cluster: ns + "-b", Path: "/copy/b", Phase: hpcv1alpha1.CopyReady})
	pods := eventuallyBound(t, ns, "g", 1)
	if pods[0].Spec.NodeName != ns+"-b" || pods[0].Annotations[wellknown.DatasetPaths] != `{"images":"/copy/b"}` {
		t.Errorf("the pod is on %s and told %q", pods[0].Spec.NodeName, pods[0].Annotations[wellknown.DatasetPaths])
	}
	eventuallyAsks(t, ns, "g", "")
}

// TestFailedCopiesAreTold: where all copies have failed for good the gang says why.
func TestFailedCopiesAreTold(t *testing.T) {
	api, ns := reservations(t), plane.Namespace(t)
	virtualNode(t, ns+"-a", 2)
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"isthmus.sh/cluster":"`+ns+`-a"}}}`))
	if err := plane.Client.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: ns + "-a"}}, patch); err != nil {
		t.Fatal(err)
	}
	d := &hpcv1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "images"},
		Spec: datasetSpec("1Ti", hpcv1alpha1.DatasetLocation{Cluster: ns + "-closed", Path: "/data/images"})}
	d.Spec.Staging = &hpcv1alpha1.DatasetStaging{Image: "none", Command: []string{"cp"}, Targets: []hpcv1alpha1.DatasetTarget{{Cluster: ns + "-a", Path: "/copy/a"}}}
	if err := api.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	d.Status.Copies = []hpcv1alpha1.DatasetCopy{{Cluster: ns + "-a", Path: "/copy/a", Phase: hpcv1alpha1.CopyFailed, Message: "no space left"}}
	if err := api.Status().Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	startScheduler(t, &wire{})
	create(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "g", Annotations: map[string]string{wellknown.Datasets: "images", wellknown.Staging: `{"other":"x"}`}},
		Spec:       volcanov1.PodGroupSpec{MinMember: 1, Queue: "default"},
		Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
	})
	member(t, ns, "g", 0)
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
		return len(s.Conditions) > 0 && strings.Contains(s.Conditions[0].Message, "dataset images could not be copied to cluster "+ns+"-a: no space left")
	})
	eventuallyAsks(t, ns, "g", "") // what somebody else wrote there goes
}
