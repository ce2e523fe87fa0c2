package provider_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// endingGate asks the daemon to end once an effect was had.
type endingGate struct {
	after string
	end   context.CancelFunc
}

func (g *endingGate) Do(ctx context.Context, name string, fn func(context.Context) error) error {
	err := fn(ctx)
	if name == g.after {
		g.end()
	}
	return err
}

// A daemon that is asked to end in the middle of a submission tells nobody that
// something failed, and the next one completes it.
func TestEndOfTheDaemonIsNoFailure(t *testing.T) {
	for _, after := range []string{"write-intent", "stage", "submit", "record"} {
		t.Run(after, func(t *testing.T) {
			w := newWorld(t, 20*time.Second, providertest.Sound())
			uid := w.gang("one", 1)[0]
			ctx, end := context.WithCancel(t.Context())
			defer end()
			ended := false
			first := provider.NewBridge(provider.Options{
				Cluster: w.cluster(), Owner: owner, Launcher: "slurm", Backend: w.system, Stager: w.stager, Pods: w.api,
				Objects: providertest.Objects{}, Clock: w.clock, Log: logr.Discard(),
				Gate: &endingGate{after: after, end: func() { ended = true; end() }},
			})
			first.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: "node-main", Partition: "main", MaxPodsPending: 1000}})
			for range 8 {
				first.Pass(ctx, true)
				first.Wait()
			}
			if !ended {
				t.Fatalf("there was no effect %q", after)
			}
			if said := strings.Join(w.api.Events(), " "); strings.Contains(said, "cancel") {
				t.Errorf("events: %s", said)
			}
			status := w.api.Get(uid).Status
			for _, c := range status.Conditions {
				if strings.Contains(c.Message, "cancel") || c.Reason == "Retrying" {
					t.Errorf("condition %s: %s %s", c.Type, c.Reason, c.Message)
				}
			}
			for range 60 {
				if w.tick(); w.settled() {
					break
				}
			}
			if !w.settled() || len(w.system.Jobs()) != 1 {
				t.Errorf("the next daemon: %+v, jobs %+v", w.api.Get(uid).Status, w.system.Jobs())
			}
		})
	}
}
