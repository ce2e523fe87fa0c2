package driver_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
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
	left, err := podsOf(t.Context(), ns, "g")
	if err != nil {
		t.Fatal(err)
	}
	for i := range left[0].Status.Conditions { // it was placed before
		left[0].Status.Conditions[i].LastTransitionTime = metav1.NewTime(time.Now().Add(-2 * time.Hour))
	}
	if err := plane.Client.Status().Update(t.Context(), &left[0]); err != nil {
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

// TestGangPlacedAnewHasItsGrace: a scheduler is killed while it places a gang anew that was
// short an hour ago, before it could tell that this is over. The next one has the gang let
// in first, and sends nothing away for the old shortness meanwhile.
func TestGangPlacedAnewHasItsGrace(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 2)
	var bindings atomic.Int32
	stop := startScheduler(t, &wire{fault: func(r *http.Request, _ http.RoundTripper) (*http.Response, error, bool) {
		return nil, errCut, isBinding(r) && bindings.Add(1) > 1
	}})
	gang(t, ns, "g", 2, 2, volcanov1.PodGroupInqueue)
	eventuallyBound(t, ns, "g", 1)
	stop()

	var pg volcanov1.PodGroup
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "g"}, &pg); err != nil {
		t.Fatal(err)
	}
	old := metav1.NewTime(time.Now().Add(-time.Hour))
	pg.Status = volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupPending, Conditions: []volcanov1.PodGroupCondition{
		{Type: snapshot.Stale, Status: corev1.ConditionTrue, Reason: "BelowMinimum", Message: "1 of the 2 members that it needs are left", LastTransitionTime: old},
	}}
	if err := plane.Client.Update(t.Context(), &pg); err != nil {
		t.Fatal(err)
	}
	w := &wire{}
	startScheduler(t, w)
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		pods, err := podsOf(ctx, ns, "g")
		if err != nil {
			return err.Error()
		}
		waits := ""
		for _, p := range pods {
			if p.DeletionTimestamp != nil {
				t.Fatalf("pod %s was sent away: %q", p.Name, w.writes())
			}
			if p.Spec.NodeName == "" {
				waits = p.Name + " waits"
			}
		}
		return waits
	})
	finish(t, ns, "g")
}
