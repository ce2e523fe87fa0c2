package provider_test

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// settledGang makes a gang that runs, of pods with a grace of 10 s.
func settledGang(t *testing.T, w *world, size int) []types.UID {
	t.Helper()
	uids := w.gang("big", size)
	w.tick()
	w.tick()
	if p := w.api.Get(uids[0]); p.Status.Phase != corev1.PodRunning {
		t.Fatalf("the gang does not run: %s", p.Status.Phase)
	}
	return uids
}

func (w *world) deleteAll(uids []types.UID) {
	for _, uid := range uids {
		w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
	}
}

func (w *world) left(uids []types.UID) int {
	n := 0
	for _, uid := range uids {
		if w.api.Get(uid) != nil {
			n++
		}
	}
	return n
}

// A deleted gang is told through its runner, once, and its job ends by itself.
func TestDeletedGangIsTold(t *testing.T) {
	w, gate := plain(t, time.Hour)
	uids := settledGang(t, w, 12)
	key := backends.Key(w.api.Get(uids[0]).Annotations[wellknown.SubmitIntent])
	w.deleteAll(uids)
	w.tick()
	w.stager.Change(key, func(g *providertest.StagedGang) {
		if len(g.Stops) != 12 || g.Orders != 1 || g.Stops[3] != (manifest.Stop{GraceSeconds: 10, Reason: manifest.ReasonDeleted}) {
			t.Errorf("%d orders with %d stops, such as %+v", g.Orders, len(g.Stops), g.Stops[3])
		}
	})
	for range 2 { // within their grace nobody interferes
		w.tick()
	}
	w.obey()
	for range 3 {
		w.tick()
	}
	if n := w.left(uids); n > 0 || w.liveJobs() {
		t.Errorf("%d pods are left, jobs %+v", n, w.system.Jobs())
	}
	if c := gate.calls(); c["stop"] != 1 || c["cancel"] != 0 {
		t.Errorf("effects %v, want one stop and no cancel", c)
	}
}

// Members that do not end are cancelled when their grace is over, once.
func TestDeafGangIsCancelled(t *testing.T) {
	w, gate := plain(t, time.Hour)
	uids := settledGang(t, w, 12)
	w.deleteAll(uids)
	var at int
	for at = 0; at < 20 && gate.calls()["cancel"] == 0; at++ {
		w.tick()
	}
	if waited := time.Duration(at-1) * tickTime; waited < 25*time.Second || waited > 35*time.Second {
		t.Errorf("cancelled after %v of virtual time, want the grace of 10 s and the margin", waited)
	}
	for range 5 {
		w.tick()
	}
	if n := w.left(uids); n > 0 || w.liveJobs() {
		t.Errorf("%d pods are left, jobs %+v", n, w.system.Jobs())
	}
	if c := gate.calls(); c["stop"] != 1 || c["cancel"] != 1 {
		t.Errorf("effects %v, want one stop and one cancel", c)
	}
}

// What cannot be told is cancelled: at once where the order is refused, and
// when the grace is over where it fails again and again.
func TestGangThatCannotBeTold(t *testing.T) {
	for name, tc := range map[string]struct {
		kind          backends.Kind
		least, within time.Duration
	}{
		"refused":         {backends.KindInvalid, 0, 10 * time.Second},
		"fails":           {backends.KindTransient, 25 * time.Second, 60 * time.Second},
		"outcome unknown": {backends.KindUnknownOutcome, 25 * time.Second, 60 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w, gate := plain(t, time.Hour)
			uids := settledGang(t, w, 2)
			gate.fail = func(name string) error {
				if name == "stop" {
					return &backends.Error{Op: name, Kind: tc.kind, Err: errors.New("injected")}
				}
				return nil
			}
			w.deleteAll(uids)
			began := w.clock.Now()
			var waited time.Duration
			for range 30 {
				w.tick()
				if gate.calls()["cancel"] > 0 {
					waited = w.clock.Now().Sub(began)
					break
				}
			}
			if waited == 0 || waited < tc.least || waited > tc.within {
				t.Errorf("cancelled after %v of virtual time, want %v to %v", waited, tc.least, tc.within)
			}
			for range 5 {
				w.tick()
			}
			if n := w.left(uids); n > 0 {
				t.Errorf("%d pods are left", n)
			}
		})
	}
}

// A gang that is deleted in an outage is told after it, with all its grace.
func TestGangDeletedInAnOutage(t *testing.T) {
	w, gate := plain(t, time.Hour)
	uids := settledGang(t, w, 2)
	w.system.Outage(5 * time.Minute)
	w.tick()
	w.deleteAll(uids)
	for i := 0; gate.calls()["stop"] == 0; i++ {
		if w.tick(); i > 100 || gate.calls()["cancel"] > 0 {
			t.Fatalf("after %d ticks: effects %v", i, gate.calls())
		}
	}
	w.obey()
	for range 4 {
		w.tick()
	}
	if n := w.left(uids); n > 0 || gate.calls()["cancel"] > 0 {
		t.Errorf("%d pods are left, effects %v", n, gate.calls())
	}
}

// A second deletion with less grace reaches the runner; a job that never
// started is cancelled at once.
func TestShorterGraceAndPendingGang(t *testing.T) {
	w, gate := plain(t, time.Hour)
	uids := settledGang(t, w, 1)
	key := backends.Key(w.api.Get(uids[0]).Annotations[wellknown.SubmitIntent])
	w.deleteAll(uids)
	w.tick()
	w.api.Shorten(uids[0], 0)
	w.tick()
	w.stager.Change(key, func(g *providertest.StagedGang) {
		if g.Orders != 2 || g.Stops[0].GraceSeconds != 0 {
			t.Errorf("%d orders, the last %+v", g.Orders, g.Stops[0])
		}
	})
	pending, _ := plain(t, time.Hour)
	for _, h := range []string{"h001", "h002", "h003", "h004"} {
		pending.system.FailHost(h, false)
	}
	waits := pending.gang("waits", 2)
	pending.tick()
	pending.deleteAll(waits)
	pending.tick()
	pending.tick()
	if n := pending.left(waits); n > 0 || pending.liveJobs() {
		t.Errorf("%d pods are left, jobs %+v; first gang's effects %v", n, pending.system.Jobs(), gate.calls())
	}
}

// A daemon that starts while the grace of a deleted gang passes cancels what does
// not end when that grace is over: it does not begin anew, nor does one that has
// passed already cost the runner the time to be told.
func TestGraceGoesOnAfterARestart(t *testing.T) {
	for name, tc := range map[string]struct {
		away   time.Duration // from the deletion to the next daemon
		least  time.Duration // from the deletion to the cancel
		within time.Duration
	}{
		"in the middle of it": {60 * time.Second, 115 * time.Second, 125 * time.Second},
		"long after":          {10 * time.Minute, 10*time.Minute + 15*time.Second, 10*time.Minute + 25*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := plain(t, time.Hour)
			uids := settledGang(t, w, 2)
			key := backends.Key(w.api.Get(uids[0]).Annotations[wellknown.SubmitIntent])
			w.api.Patient(uids, 100)
			deleted := w.clock.Now()
			w.deleteAll(uids)
			w.bridge.Pass(t.Context(), true)
			w.bridge.Wait()
			w.stager.Change(key, func(g *providertest.StagedGang) {
				if g.Stops[0].GraceSeconds != 100 {
					t.Fatalf("told %+v", g.Stops)
				}
			})
			w.system.Advance(tc.away)
			w.clock.SetTime(w.system.Now())
			gate := &openGate{}
			w.restart(gate, hpcv1alpha1.Account{User: "alice"})
			for i := 0; gate.calls()["cancel"] == 0; i++ {
				if w.tick(); i > 100 {
					t.Fatal("never cancelled")
				}
			}
			if waited := w.clock.Now().Add(-tickTime).Sub(deleted); waited < tc.least || waited > tc.within {
				t.Errorf("cancelled %v of virtual time after the deletion, want %v to %v", waited, tc.least, tc.within)
			}
			for range 5 {
				w.tick()
			}
			if n := w.left(uids); n > 0 || w.liveJobs() {
				t.Errorf("%d pods are left, jobs %+v", n, w.system.Jobs())
			}
		})
	}
}
