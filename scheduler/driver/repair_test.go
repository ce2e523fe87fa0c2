package driver_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/repair"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestShortGangIsSentBack deletes a member of a running gang that has no place when it is
// made anew. The PodGroup says so; a scheduler that starts when the grace is long over, by what
// is written there, sends the rest back by the Eviction API and tells why.
func TestShortGangIsSentBack(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 2)
	stop := startScheduler(t, &wire{})
	gang(t, ns, "g", 2, 2, volcanov1.PodGroupInqueue)
	pods := eventuallyBound(t, ns, "g", 2)
	setPhase(t, pods, corev1.PodRunning)
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return s.Running == 2 })
	cordon(t, ns+"-v")
	if err := plane.Client.Delete(t.Context(), &pods[1], client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	member(t, ns, "g", 2)
	stale := func(s volcanov1.PodGroupStatus) *volcanov1.PodGroupCondition {
		for i := range s.Conditions {
			if s.Conditions[i].Type == snapshot.Stale && s.Conditions[i].Status == corev1.ConditionTrue {
				return &s.Conditions[i]
			}
		}
		return nil
	}
	status := eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return stale(s) != nil && stale(s).Reason == "BelowMinimum" })
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
	left := &corev1.Pod{}
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(&pods[0]), left); err != nil {
		t.Fatal(err)
	}
	for i := range left.Status.Conditions { // it was placed before
		left.Status.Conditions[i].LastTransitionTime = metav1.NewTime(time.Now().Add(-2 * time.Hour))
	}
	if err := plane.Client.Status().Update(t.Context(), left); err != nil {
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

// cordon lets no further pod come to a node.
func cordon(t *testing.T, name string) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := plane.Client.Patch(t.Context(), n, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`))); err != nil {
		t.Fatal(err)
	}
}

// TestWhatWasRaisedIsNoLossAfterARestart raises the minimum of a gang that runs. A scheduler
// that starts anew, with a grace that is over at once, knows by the PodGroup that nothing
// was lost, and sends nobody away; nor does it when the owner is scaled below that minimum.
// Once a member that was there is lost and has no place, and there are pods for all that
// it needs now, the rest goes.
func TestWhatWasRaisedIsNoLossAfterARestart(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 3)
	stop := startScheduler(t, &wire{})
	gang(t, ns, "g", 3, 3, volcanov1.PodGroupInqueue)
	pods := eventuallyBound(t, ns, "g", 3)
	setPhase(t, pods, corev1.PodRunning)
	whole := snapshot.Whole{Min: 3}
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
		i := slices.IndexFunc(s.Conditions, func(c volcanov1.PodGroupCondition) bool { return c.Type == volcanov1.PodGroupScheduled })
		return s.Running == 3 && i >= 0 && s.Conditions[i].Message == whole.Words()
	})
	stop()
	group := &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "g"}}
	if err := plane.Client.Patch(t.Context(), group, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"minMember":4}}`))); err != nil {
		t.Fatal(err)
	}
	member(t, ns, "g", 3)

	hasty := schedtest.Pipeline()
	hasty.Actions = slices.Clone(hasty.Actions)
	for i, a := range hasty.Actions {
		if a.Name() == repair.Reason {
			hasty.Actions[i] = repair.Action{Grace: time.Nanosecond}
		}
	}
	startWith(t, &wire{}, hasty, "")
	reason := func(kind volcanov1.PodGroupConditionType) func(volcanov1.PodGroupStatus) string {
		return func(s volcanov1.PodGroupStatus) string {
			for _, c := range s.Conditions {
				if c.Type == kind && c.Status == corev1.ConditionTrue {
					return c.Reason
				}
			}
			return ""
		}
	}
	waits, stale := reason(volcanov1.PodGroupUnschedulableType), reason(snapshot.Stale)
	status := eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return waits(s) != "" })
	if got := stale(status); got != "" {
		t.Errorf("after the restart it is stale: %s", got)
	}
	eventuallyTerminating(t, ns, "g", 0)

	remove := func(name string) {
		t.Helper()
		if err := plane.Client.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}, client.GracePeriodSeconds(0)); err != nil {
			t.Fatal(err)
		}
	}
	cordon(t, ns+"-v")
	remove("g-3")
	remove("g-2")
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return stale(s) == snapshot.PodsMissing })
	eventuallyTerminating(t, ns, "g", 0)
	member(t, ns, "g", 2)
	member(t, ns, "g", 3)
	eventuallyTerminating(t, ns, "g", 2)
}
