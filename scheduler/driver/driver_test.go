package driver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

func TestGangIsBoundWithItsAttemptAndPhasesAreShownInOrder(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 4)
	watcher, err := client.NewWithWatch(plane.Config, client.Options{Scheme: plane.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	seen, err := watcher.Watch(t.Context(), &volcanov1.PodGroupList{}, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	startScheduler(t, &wire{})
	gang(t, ns, "g", 3, 3, volcanov1.PodGroupPending)
	pods := eventuallyBound(t, ns, "g", 3)
	oneAttempt(t, pods)
	for _, p := range pods {
		if p.Spec.NodeName != ns+"-v" {
			t.Errorf("pod %s is on %s", p.Name, p.Spec.NodeName)
		}
	}
	setPhase(t, pods, corev1.PodRunning)
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return s.Running == 3 })
	setPhase(t, pods, corev1.PodSucceeded)
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
		return s.Phase == volcanov1.PodGroupCompleted && s.Succeeded == 3 && s.Running == 0
	})
	defer seen.Stop()
	var phases []string
	for e := range seen.ResultChan() {
		if pg, ok := e.Object.(*volcanov1.PodGroup); ok && (len(phases) == 0 || phases[len(phases)-1] != string(pg.Status.Phase)) {
			phases = append(phases, string(pg.Status.Phase))
		}
		if len(phases) > 0 && phases[len(phases)-1] == string(volcanov1.PodGroupCompleted) {
			break
		}
	}
	if got := strings.Join(phases, " "); got != "Pending Inqueue Running Completed" {
		t.Errorf("phases were %s", got)
	}
}

// TestRestartCompletesTheAttempt cuts a scheduler off after two of four bindings.
// The next one completes that attempt although a gang of higher priority wants
// the capacity.
func TestRestartCompletesTheAttempt(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 4)
	var bindings atomic.Int32
	w := &wire{fault: func(r *http.Request, _ http.RoundTripper) (*http.Response, error, bool) {
		return nil, errCut, isBinding(r) && bindings.Add(1) > 2
	}}
	stop := startScheduler(t, w)
	gang(t, ns, "g", 4, 4, volcanov1.PodGroupInqueue)
	eventuallyBound(t, ns, "g", 2)
	controllertest.Eventually(t, within, func(context.Context) string {
		if bindings.Load() < 6 {
			return "the lost bindings were not tried again"
		}
		return ""
	})
	stop()
	eventuallyBound(t, ns, "g", 2)
	gang(t, ns, "a-rival", 2, 2, volcanov1.PodGroupInqueue)
	stop = startScheduler(t, &wire{})
	oneAttempt(t, eventuallyBound(t, ns, "g", 4))
	eventuallyGroup(t, ns, "a-rival", func(s volcanov1.PodGroupStatus) bool { return len(s.Conditions) == 1 })
	eventuallyBound(t, ns, "a-rival", 0)
	stop()
}

// TestLostAnswersBindOnce loses the answers of bindings that the API server has
// carried out: they are repeated, found done, and nothing is bound twice.
func TestLostAnswersBindOnce(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 4)
	var lost atomic.Int32
	w := &wire{fault: func(r *http.Request, next http.RoundTripper) (*http.Response, error, bool) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/pods/") {
			t.Errorf("GET %s: the chart gives no right to get a pod", r.URL.Path)
		}
		if !isBinding(r) || lost.Add(1) > 3 {
			return nil, nil, false
		}
		resp, err := next.RoundTrip(r)
		if err == nil {
			err = resp.Body.Close()
		}
		return nil, fmt.Errorf("%w (%w)", errCut, err), true
	}}
	startScheduler(t, w)
	gang(t, ns, "g", 4, 4, volcanov1.PodGroupInqueue)
	oneAttempt(t, eventuallyBound(t, ns, "g", 4))
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return s.Phase == volcanov1.PodGroupRunning })
}

// TestWaitingIsToldOnceAndQuietly: a gang that does not fit gets a condition, an
// event and pod conditions, and then nothing is written until something changes.
func TestWaitingIsToldOnceAndQuietly(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 2)
	w := &wire{}
	startScheduler(t, w)
	gang(t, ns, "g", 3, 3, volcanov1.PodGroupInqueue)
	status := eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
		return len(s.Conditions) == 1 && strings.Contains(s.Conditions[0].Message, "free")
	})
	c := status.Conditions[0]
	if c.Type != volcanov1.PodGroupUnschedulableType || c.Status != corev1.ConditionTrue || c.Reason != volcanov1.NotEnoughResourcesReason ||
		c.TransitionID == "" || c.LastTransitionTime.IsZero() || c.Message != ns+"-v: needs 12 nvidia.com/gpu, 8 free; biggest host has 4" {
		t.Errorf("condition is %+v", c)
	}
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		pods, err := podsOf(ctx, ns, "g")
		if err != nil {
			return err.Error()
		}
		for _, p := range pods {
			if len(p.Status.Conditions) != 1 || p.Status.Conditions[0].Reason != corev1.PodReasonUnschedulable || p.Status.Conditions[0].Status != corev1.ConditionFalse {
				return fmt.Sprintf("pod %s says %+v", p.Name, p.Status.Conditions)
			}
		}
		var events corev1.EventList
		if err := plane.Client.List(ctx, &events, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		group, pod := 0, 0
		for _, e := range events.Items {
			switch {
			case !strings.Contains(e.Message, "needs 12 nvidia.com/gpu"):
			case e.InvolvedObject.Kind == "PodGroup" && e.Reason == "Unschedulable":
				group++
			case e.InvolvedObject.Kind == "Pod" && e.Reason == "FailedScheduling":
				pod++
			}
		}
		if group == 1 && pod == 1 {
			return ""
		}
		return fmt.Sprintf("no event on the PodGroup among %d", len(events.Items))
	})
	before := w.writes()
	quiet := time.Now().Add(time.Second) // ten cycles, each of which finds the gang waiting
	controllertest.Eventually(t, within, func(context.Context) string {
		if time.Now().Before(quiet) {
			return "watching"
		}
		return ""
	})
	if after := w.writes(); len(after) != len(before) {
		t.Errorf("written while nothing changed: %v", after[len(before):])
	}
	virtualNode(t, ns+"-w", 3)
	oneAttempt(t, eventuallyBound(t, ns, "g", 3))
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
		return s.Phase == volcanov1.PodGroupRunning && len(s.Conditions) == 2 && s.Conditions[1].Status == corev1.ConditionFalse
	})
}

// TestRecreatedMemberTakesTheMissingRank deletes a member whose binding never
// got through; its successor completes the attempt.
func TestRecreatedMemberTakesTheMissingRank(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 2)
	var open atomic.Bool
	w := &wire{fault: func(r *http.Request, _ http.RoundTripper) (*http.Response, error, bool) {
		return nil, errCut, isBinding(r) && strings.Contains(r.URL.Path, "/g-1/") && !open.Load()
	}}
	startScheduler(t, w)
	gang(t, ns, "g", 2, 2, volcanov1.PodGroupInqueue)
	pods := eventuallyBound(t, ns, "g", 1)
	for _, p := range pods {
		if p.Spec.NodeName == "" {
			if err := plane.Client.Delete(t.Context(), &p, client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
		return slices.ContainsFunc(s.Conditions, func(c volcanov1.PodGroupCondition) bool { return c.Reason == "AttemptIncomplete" })
	})
	open.Store(true)
	member(t, ns, "g", 1)
	oneAttempt(t, eventuallyBound(t, ns, "g", 2))
}

// TestRefusedBindingRests has the API server refuse one member: the gang rests,
// says so nowhere but in the log, and the attempt is completed afterwards.
func TestRefusedBindingRests(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 2)
	var refused atomic.Int32
	w := &wire{fault: func(r *http.Request, _ http.RoundTripper) (*http.Response, error, bool) {
		if !isBinding(r) || !strings.Contains(r.URL.Path, "/g-1/") || refused.Add(1) > 2 {
			return nil, nil, false
		}
		body := `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"no","code":403}`
		return &http.Response{
			StatusCode: http.StatusForbidden, Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(strings.NewReader(body)), Request: r,
		}, nil, true
	}}
	startScheduler(t, w)
	gang(t, ns, "g", 2, 2, volcanov1.PodGroupInqueue)
	oneAttempt(t, eventuallyBound(t, ns, "g", 2))
	if n := refused.Load(); n != 3 {
		t.Errorf("the binding was sent %d times, want 3", n)
	}
}
