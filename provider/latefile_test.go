package provider_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// A job ends while no daemon runs, and its pod's file shows on the network file
// system only after the next daemon has begun: that one waits for it, whatever the
// clock of the batch system is, and the exit code is the container's.
func TestLateFileAfterARestart(t *testing.T) {
	for _, skew := range []time.Duration{0, time.Hour, -time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			var w *world
			cfg := fake.Uniform(1, 16, 64<<10, "a100", 8)
			set := func(key backends.Key, phase manifest.Phase, code int32) {
				w.stager.Change(key, func(g *providertest.StagedGang) { g.Pods[0] = status(g, 0, 0, phase, code) })
			}
			cfg.Program = func(backends.JobSpec) fake.Behaviour {
				return fake.Behaviour{Duration: time.Minute, ExitCode: 1, OnStart: func(r fake.Run) { set(r.Spec.Key, manifest.PhaseRunning, 0) }}
			}
			w = newWorldIn(t, providertest.Sound(), cfg)
			w.system.Skew(skew)
			uid := w.gang("one", 1)[0]
			for range 4 {
				w.tick()
			}
			p := w.api.Get(uid)
			if p.Status.Phase != corev1.PodRunning {
				t.Fatalf("the pod is %s before the daemon goes", p.Status.Phase)
			}
			w.system.Advance(5 * time.Minute) // nobody looks
			w.clock.SetTime(w.system.Now())
			w.boot()
			w.tick()
			if p = w.api.Get(uid); p.Status.Phase != corev1.PodRunning {
				t.Fatalf("the pod is %s (%s) at once: %+v", p.Status.Phase, p.Status.Message, p.Status.ContainerStatuses)
			}
			set(backends.Key(p.Annotations[wellknown.SubmitIntent]), manifest.PhaseFailed, 7)
			for range 10 {
				w.tick()
			}
			if got := sight(w.api.Get(uid)); got != (seen{phase: corev1.PodFailed, code: 7}) {
				t.Errorf("the pod ends as %+v, want Failed with 7", got)
			}
		})
	}
}
