package provider_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// The images of containers that are added to a running pod are pulled on the login
// host as well; one whose image cannot be had is told, and keeps no other back.
func TestAddedImagesArePulledFirst(t *testing.T) {
	const good, lost, never = "registry.example/tools:v1", "registry.example/lost:v1", "registry.example/never:v1"
	gate := providertest.Sound()
	ready := false
	w := pullWorld(t, gate, func(g *providertest.StagedGang) manifest.Pull {
		p := manifest.Pull{Version: manifest.Version, Done: true}
		for _, i := range g.Wanted[0].Images {
			img := manifest.PulledImage{Image: i.Image, Reason: manifest.ReasonPulling, Message: "pulling"}
			switch {
			case i.Image == good && ready:
				img = manifest.PulledImage{Image: good, Done: true}
			case i.Image == lost && ready:
				img.Reason, img.Message = manifest.ReasonErrImagePull, "no such image"
			case i.Image == never:
				img.Reason, img.Message = manifest.ReasonErrNeverPull, "not there"
			}
			p.Images, p.Done = append(p.Images, img), p.Done && img.Done
		}
		return p
	})
	uid := w.gang("gone", 1)[0] // it runs long
	for range 200 {
		if w.api.Get(uid).Status.Phase == corev1.PodRunning {
			break
		}
		w.tick()
	}
	p := w.api.Get(uid).DeepCopy()
	if p.Status.Phase != corev1.PodRunning {
		t.Fatalf("the pod does not run: %+v", p.Status)
	}
	key := backends.Key(p.Annotations[wellknown.SubmitIntent])
	for _, c := range []struct{ name, image string }{{"missing", lost}, {"tools", good}, {"local", never}} {
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: c.name, Image: c.image}})
	}
	w.api.Create(p)
	handed := func() (names []string) {
		w.stager.Change(key, func(g *providertest.StagedGang) {
			for _, c := range g.Added[0].Containers {
				names = append(names, c.Container.Name)
			}
		})
		return names
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for range 200 {
			if ok() {
				return
			}
			w.tick()
			provider.AddEphemerals(t.Context(), w.bridge)
		}
		t.Fatalf("%s: not after 200 ticks; handed over are %v, events %v", what, handed(), w.api.Events())
	}
	until("the one that is never pulled is handed over, to say so", func() bool { return slices.Equal(handed(), []string{"local"}) })
	ready = true
	until("the one whose image is there is handed over", func() bool { return slices.Equal(handed(), []string{"tools", "local"}) })
	until("events", func() bool {
		said := strings.Join(w.api.Events(), "\n")
		return strings.Contains(said, `Pulling image "`+good+`" on the login host`) && strings.Contains(said, `Failed to pull image "`+lost+`": no such image`)
	})
}
