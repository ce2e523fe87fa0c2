package provider_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// The directory of an ended gang stays for spec.staging.retention after its pods
// have gone, and not much longer.
func TestRetention(t *testing.T) {
	w := newWorld(t, 10*time.Second, providertest.Sound())
	w.bridge.Cluster.Spec.Staging.Retention = &metav1.Duration{Duration: 10 * time.Minute}
	for _, uid := range w.gang("kept", 2) {
		for range 8 {
			w.tick()
		}
		w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
	}
	gone := w.clock.Now()
	for w.stager.Len() > 0 && w.clock.Now().Sub(gone) < time.Hour {
		w.tick()
	}
	if kept := w.clock.Now().Sub(gone); kept < 10*time.Minute || kept > 11*time.Minute {
		t.Errorf("kept for %v, want 10 minutes", kept)
	}
}
