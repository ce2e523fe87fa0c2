package driver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestShortGangIsSentBack deletes a member of a running gang that nobody makes anew.
// The PodGroup says so; a scheduler that starts when the grace is long over, by what
// is written there, sends the rest back by the Eviction API and tells why.
func TestShortGangIsSentBack(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 2)
	stop := startScheduler(t, &wire{})
	gang(t, ns, "g", 2, 2, volcanov1.PodGroupInqueue)
	pods := eventuallyBound(t, ns, "g", 2)
	setPhase(t, pods, corev1.PodRunning)
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return s.Running == 2 })
	if err := plane.Client.Delete(t.Context(), &pods[1], client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	stale := func(s volcanov1.PodGroupStatus) *volcanov1.PodGroupCondition {
		for i := range s.Conditions {
			if s.Conditions[i].Type == snapshot.Stale && s.Conditions[i].Status == corev1.ConditionTrue {
				return &s.Conditions[i]
			}
		}
		return nil
	}
	status := eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return stale(s) != nil })
	if got := stale(status).Message; !strings.HasPrefix(got, "1 of the 2 members that it needs are left; unless") {
		t.Errorf("the condition says %q", got)
	}
	eventuallyTerminating(t, ns, "g", 0)
	stop()

	var pg volcanov1.PodGroup
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "g"}, &pg); err != nil {
		t.Fatal(err)
	}
	stale(pg.Status).LastTransitionTime = metav1.NewTime(time.Now().Add(-time.Hour))
	if err := plane.Client.Update(t.Context(), &pg); err != nil {
		t.Fatal(err)
	}
	w := &wire{}
	startScheduler(t, w)
	eventuallyTerminating(t, ns, "g", 1)
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		var events corev1.EventList
		if err := plane.Client.List(ctx, &events, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		var seen []string
		for _, e := range events.Items {
			if e.Reason == "SentBack" && strings.Contains(e.Message, "1 of the 2 members that it needs are left") {
				return ""
			}
			seen = append(seen, e.Reason+" "+e.Message)
		}
		return fmt.Sprintf("no event tells that it is sent back: %q", seen)
	})
	finish(t, ns, "g")
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return stale(s) == nil })
}
