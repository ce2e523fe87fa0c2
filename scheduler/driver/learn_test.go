package driver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	"volcano.sh/apis/pkg/client/clientset/versioned"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/estimate"
	"github.com/isthmus-hpc/isthmus/scheduler/memory"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// ran makes a gang of one that has run for a time.
func ran(t *testing.T, ns, name string, took time.Duration) {
	t.Helper()
	gang(t, ns, name, 1, 1, volcanov1.PodGroupRunning)
	pods, err := podsOf(t.Context(), ns, name)
	if err != nil || len(pods) != 1 {
		t.Fatal(len(pods), err)
	}
	p := pods[0]
	patch := client.MergeFrom(p.DeepCopy())
	from := metav1.Now().Add(-took)
	p.Status.Phase = corev1.PodSucceeded
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Image: "none", ImageID: "none", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{StartedAt: metav1.NewTime(from), FinishedAt: metav1.NewTime(from.Add(took))},
	}}}
	if err := plane.Client.Status().Patch(t.Context(), &p, patch); err != nil {
		t.Fatal(err)
	}
}

// TestRunTimesAreLearntAndKept: what gangs took is told of the next of their like,
// in the same namespace, and by another scheduler that starts from what is written.
func TestRunTimesAreLearntAndKept(t *testing.T) {
	ns := plane.Namespace(t)
	clients, err := kubernetes.NewForConfig(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	volcano, err := versioned.NewForConfig(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	// scheduler starts a cache that learns, and tells what it says of a gang.
	scheduler := func() (keeper *memory.Keeper, told func(gang string) (time.Duration, string), stop func()) {
		t.Helper()
		c := cache.New()
		c.Learn(estimate.New())
		keeper = &memory.Keeper{Client: clients, Namespace: ns, Learner: c, Every: time.Hour}
		ctx, cancel := context.WithCancel(logr.NewContext(t.Context(), logr.Discard()))
		keeper.Load(ctx)
		wait, err := c.Watch(ctx, ctx, clients, volcano)
		if err != nil {
			t.Fatal(err)
		}
		told = func(name string) (time.Duration, string) {
			for range 2 { // what is learnt in one snapshot is told in the next
				if g := c.Snapshot(time.Now()).Gang("podgroup/" + ns + "/" + name); g != nil && g.Estimate > 0 {
					return time.Duration(g.Estimate), g.EstimateFrom
				}
			}
			return 0, ""
		}
		return keeper, told, func() { cancel(); wait() }
	}
	keeper, told, stop := scheduler()
	eventuallyTold := func(name string, want time.Duration) {
		t.Helper()
		controllertest.Eventually(t, within, func(context.Context) string {
			if d, from := told(name); d != want || want > 0 && from != snapshot.EstimateLearnt {
				return fmt.Sprintf("gang %s is told to run for %s (%s), want %s", name, d, from, want)
			}
			return ""
		})
	}
	gang(t, ns, "next", 1, 1, volcanov1.PodGroupPending)
	for i, took := range []time.Duration{5 * time.Minute, 7 * time.Minute} {
		ran(t, ns, fmt.Sprint("past-", i), took)
	}
	eventuallyTold("next", 0) // two runs tell nothing
	ran(t, ns, "past-2", 6*time.Minute)
	eventuallyTold("next", 7*time.Minute)
	for range 2 { // it is made, and nothing is written when nothing is new
		if err := keeper.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop()

	for i := range 3 { // the pods are gone, as after a while they are
		if err := plane.Client.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(ns), client.GracePeriodSeconds(0), client.MatchingFields{"metadata.name": fmt.Sprintf("past-%d-0", i)}); err != nil {
			t.Fatal(err)
		}
	}
	keeper, told, stop = scheduler()
	defer func() { stop() }()
	eventuallyTold("next", 7*time.Minute)
	ran(t, ns, "past-3", 9*time.Minute)
	eventuallyTold("next", 9*time.Minute)
	if err := keeper.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, err := clients.CoreV1().ConfigMaps(ns).Get(t.Context(), memory.Name, metav1.GetOptions{})
	if err != nil || strings.Count(m.Data["runs.json"], ",540]") != 1 || strings.Count(m.Data["runs.json"], ",420]") != 1 {
		t.Errorf("written is %v, %v", m, err)
	}
}
