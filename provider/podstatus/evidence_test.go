package podstatus_test

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
)

// Evidence that is called lasting gives the same status at any later time, and
// what changes the status changes its text.
func TestLastingEvidence(t *testing.T) {
	held := job(backends.StateRunning)
	later := file(manifest.PhaseRunning, 0)
	later.Seq++
	later.Containers[0].Ready = false
	anew := file(manifest.PhaseRunning, 0)
	anew.Containers[0].RestartCount = 1
	moved := job(backends.StateRunning)
	moved.Hosts = []string{"n7"}
	pending := job(backends.StatePending)
	requeued := job(backends.StateRunning)
	requeued.Restarts = 1
	texts := map[string]string{}
	for name, tc := range map[string]struct {
		ev      podstatus.Evidence
		lasting bool
	}{
		"nothing":             {podstatus.Evidence{}, true},
		"waits":               {podstatus.Evidence{WaitingReason: "Submitting", WaitingMessage: "soon"}, true},
		"waits for other":     {podstatus.Evidence{WaitingReason: "Submitting", WaitingMessage: "later"}, true},
		"refused":             {podstatus.Evidence{RefusedReason: "Submitting", RefusedMessage: "soon"}, true},
		"runs":                {podstatus.Evidence{Job: held, File: file(manifest.PhaseRunning, 0)}, true},
		"runs, not ready":     {podstatus.Evidence{Job: held, File: later}, true},
		"runs, runner anew":   {podstatus.Evidence{Job: held, File: anew}, true},
		"runs elsewhere":      {podstatus.Evidence{Job: moved, File: file(manifest.PhaseRunning, 0)}, true},
		"queued":              {podstatus.Evidence{Job: pending}, false},
		"runs without a file": {podstatus.Evidence{Job: held}, false},
		"file of an old run":  {podstatus.Evidence{Job: requeued, File: file(manifest.PhaseRunning, 0)}, false},
		"ended":               {podstatus.Evidence{Job: held, File: file(manifest.PhaseFailed, 143)}, false},
		"lost":                {podstatus.Evidence{Lost: true}, false},
		"end":                 {podstatus.Evidence{End: &manifest.End{}}, false},
	} {
		text, lasting := podstatus.Same(tc.ev)
		if lasting != tc.lasting {
			t.Errorf("%s: lasting %t", name, lasting)
		}
		if !lasting {
			continue
		}
		if other, twice := texts[text]; twice {
			t.Errorf("%s and %s have the text %q", name, other, text)
		}
		texts[text] = name
		pod := newPod()
		pod.Status = podstatus.Status(pod, tc.ev, start)
		for _, now := range []time.Time{start.Add(time.Second), ended, late, late.Add(24 * time.Hour)} {
			if got := podstatus.Status(pod, tc.ev, now); !equality.Semantic.DeepEqual(got, pod.Status) {
				t.Errorf("%s: the status changes with time: %s, then %s", name, line(pod.Status), line(got))
			}
		}
	}
}
