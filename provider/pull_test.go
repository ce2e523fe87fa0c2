package provider_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// pullWorld is a world whose images are pulled on the login host.
func pullWorld(t *testing.T, gate *providertest.Gate, images func(*providertest.StagedGang) manifest.Pull) *world {
	w := newWorld(t, 20*time.Second, gate)
	w.stager.Images = images
	w.change = func(c *hpcv1alpha1.BatchCluster) {
		c.Spec.Runtimes, c.Spec.Images.Pull = []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeCharliecloud}, "login"
	}
	w.boot()
	return w
}

// imageGang is a gang whose pods have the container main of an image and aux of
// another.
func (w *world) imageGang(name string, size int) []types.UID {
	uids := w.gang(name, size)
	for _, uid := range uids {
		p := w.api.Get(uid).DeepCopy()
		p.Spec.Containers[0].Image = "registry.example/main:v1"
		aux := p.Spec.Containers[0].DeepCopy()
		aux.Name, aux.Image = "aux", "registry.example/aux:v1"
		p.Spec.Containers = append(p.Spec.Containers, *aux)
		w.api.Create(p)
	}
	return uids
}

func (w *world) waits(uid types.UID, container string) string {
	w.t.Helper()
	for _, c := range w.api.Get(uid).Status.ContainerStatuses {
		if c.Name == container && c.State.Waiting != nil {
			return c.State.Waiting.Reason
		}
	}
	return ""
}

// The members tell which image they wait for and why; no job exists before the
// images do, and waiting costs next to nothing.
func TestPullBeforeSubmit(t *testing.T) {
	state := manifest.Pull{Version: manifest.Version}
	gate := providertest.Sound()
	w := pullWorld(t, gate, func(*providertest.StagedGang) manifest.Pull {
		out := state
		out.Images = slices.Clone(state.Images)
		return out
	})
	uids := w.imageGang("big", 2)
	look := func(step, main, aux string) {
		t.Helper()
		for range 3 {
			w.tick()
		}
		for _, uid := range uids {
			if a, b := w.waits(uid, "main"), w.waits(uid, "aux"); a != main || b != aux {
				t.Errorf("%s: pod %s: main waits for %q and aux for %q, want %q and %q", step, uid, a, b, main, aux)
			}
		}
		if n := len(w.system.Jobs()); n > 0 {
			t.Fatalf("%s: %d jobs", step, n)
		}
	}
	look("not begun", "Pulling", "Pulling")
	state.Images = []manifest.PulledImage{
		{Image: "registry.example/main:v1", Reason: manifest.ReasonPulling, Message: "pulling"}, {Image: "registry.example/aux:v1", Reason: manifest.ReasonPulling, Message: "pulling"}}
	look("begun", "Pulling", "Pulling")
	state.Images[0] = manifest.PulledImage{Image: "registry.example/main:v1", Done: true}
	state.Images[1].Reason, state.Images[1].Message = manifest.ReasonErrImagePull, "no such image"
	state.Failures, state.RetryAt = 1, metav1.NewTime(w.clock.Now().Add(time.Hour))
	w.tick()
	first := w.waits(uids[0], "aux")
	look("failed", "ContainerCreating", "ImagePullBackOff")
	if first != "ErrImagePull" && first != "ImagePullBackOff" {
		t.Errorf("at first aux waits for %q", first)
	}
	if got := w.api.Get(uids[0]).Status.ContainerStatuses[1].State.Waiting.Message; !strings.Contains(got, "no such image") {
		t.Errorf("the message is %q", got)
	}
	writes := gate.Count("patch-status")
	for range 20 {
		w.tick()
	}
	if n := gate.Count("patch-status") - writes; n > 0 {
		t.Errorf("%d status writes while nothing changed", n)
	}
	events := fmt.Sprint(w.api.Events())
	for _, want := range []string{`Pulling image "registry.example/aux:v1"`, `Failed to pull image "registry.example/aux:v1": no such image`} {
		if n := strings.Count(events, want); n != len(uids) {
			t.Errorf("%d events with %q, want one a pod: %s", n, want, events)
		}
	}
	state = manifest.Pull{Version: manifest.Version, Done: true}
	for range 20 {
		w.tick()
	}
	for _, uid := range uids {
		if p := w.api.Get(uid); p.Status.Phase != corev1.PodSucceeded {
			t.Errorf("pod %s is %s: %+v", uid, p.Status.Phase, p.Status)
		}
	}
}

// A pod whose images never come can be deleted, and lets others into the queue.
func TestPullNeverEnds(t *testing.T) {
	w := pullWorld(t, providertest.Sound(), func(g *providertest.StagedGang) manifest.Pull {
		return manifest.Pull{Version: manifest.Version, Done: gangOf(g) != "stuck"}
	})
	w.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: "node-main", Partition: "main", MaxPodsPending: 1}})
	stuck := w.imageGang("stuck", 1)
	for range 5 {
		w.tick()
	}
	other := w.imageGang("other", 1)
	for range 20 {
		w.tick()
	}
	if p := w.api.Get(other[0]); p.Status.Phase != corev1.PodSucceeded {
		t.Errorf("the other pod is %s: %+v", p.Status.Phase, p.Status.ContainerStatuses)
	}
	w.api.Delete(stuck[0], metav1.NewTime(w.clock.Now()))
	for range 20 {
		w.tick()
	}
	if w.api.Get(stuck[0]) != nil || len(w.system.Jobs()) != 1 {
		t.Errorf("the stuck pod is there still, or had a job: %+v", w.system.Jobs())
	}
}

// Every fault at the pull: nothing runs twice, nothing is lost, and nothing is
// submitted before the images are there.
func TestPullFaults(t *testing.T) {
	for _, nth := range []int{1, 2, 3} {
		for _, m := range providertest.Faults() {
			t.Run(strings.ReplaceAll(fmt.Sprintf("%d/%s", nth, m), " ", "_"), func(t *testing.T) {
				gate := providertest.Faulty(m, "pull", nth)
				var w *world
				w = pullWorld(t, gate, func(g *providertest.StagedGang) manifest.Pull {
					if len(w.system.Jobs()) > 0 {
						t.Error("a job was there before its images")
					}
					return manifest.Pull{Version: manifest.Version, Done: g.Pulls > 3}
				})
				uids := w.imageGang("big", 2)
				for range 60 {
					w.tick()
					if w.settled() {
						break
					}
				}
				for _, uid := range uids {
					if p := w.api.Get(uid); p.Status.Phase != corev1.PodSucceeded {
						t.Errorf("pod %s is %s: %+v", uid, p.Status.Phase, p.Status)
					}
				}
				starts := 0
				for _, e := range w.system.History() {
					if e.What == "start" {
						starts++
					}
				}
				if starts != 1 || !gate.Met() {
					t.Errorf("%d starts, fault met: %v", starts, gate.Met())
				}
			})
		}
	}
}
