package driver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

func isEviction(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/eviction") }

// contended fills a virtual node of two hosts with a gang of two, and returns the
// name of a priority class above it.
func contended(t *testing.T, ns string) (urgent string) {
	t.Helper()
	virtualNode(t, ns+"-v", 2)
	create(t, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: ns + "-urgent"}, Value: 1000})
	gang(t, ns, "low", 2, 2, volcanov1.PodGroupInqueue)
	setPhase(t, eventuallyBound(t, ns, "low", 2), corev1.PodRunning)
	return ns + "-urgent"
}

// urgentGang makes a gang of a priority class.
func urgentGang(t *testing.T, ns, name, class string, size int) {
	t.Helper()
	create(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       volcanov1.PodGroupSpec{MinMember: int32(size), Queue: "default", PriorityClassName: class},
		Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
	})
	for i := range size {
		member(t, ns, name, i)
	}
}

// eventuallyTerminating waits until n pods of a gang are going away.
func eventuallyTerminating(t *testing.T, ns, group string, n int) {
	t.Helper()
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		pods, err := podsOf(ctx, ns, group)
		if err != nil {
			return err.Error()
		}
		going := 0
		for _, p := range pods {
			if p.DeletionTimestamp != nil {
				going++
			}
		}
		if going != n {
			return fmt.Sprintf("%d of %d pods of %s are going away, want %d", going, len(pods), group, n)
		}
		return ""
	})
}

// finish ends what is going away, as a kubelet would.
func finish(t *testing.T, ns, group string) {
	t.Helper()
	pods, err := podsOf(t.Context(), ns, group)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if err := plane.Client.Delete(t.Context(), &p, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
}

// TestPreemptionEvictsWholeGangAndKeepsTheRoom: the room is written down, the
// victims go by the Eviction API, a gang that came first does not get it.
func TestPreemptionEvictsWholeGangAndKeepsTheRoom(t *testing.T) {
	ns := plane.Namespace(t)
	w := &wire{}
	startScheduler(t, w)
	class := contended(t, ns)
	gang(t, ns, "waiting", 1, 1, volcanov1.PodGroupInqueue)
	urgentGang(t, ns, "high", class, 2)
	eventuallyTerminating(t, ns, "low", 2)
	var pg volcanov1.PodGroup
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "high"}, &pg); err != nil {
		t.Fatal(err)
	}
	if got := pg.Annotations[wellknown.Nomination]; !strings.Contains(got, `"domain":"`+ns+`-v"`) {
		t.Errorf("the PodGroup's nomination is %q", got)
	}
	finish(t, ns, "low")
	oneAttempt(t, eventuallyBound(t, ns, "high", 2))
	evictions := 0
	for _, call := range w.writes() {
		if strings.HasSuffix(call, "/eviction") {
			evictions++
		}
	}
	if evictions != 2 {
		t.Errorf("%d evictions were sent for two pods", evictions)
	}
}

// TestRestartBetweenNominationAndEviction cuts a scheduler off when it has written
// down the room and evicted one of two. The next one goes on where it was.
func TestRestartBetweenNominationAndEviction(t *testing.T) {
	ns := plane.Namespace(t)
	var sent, cut atomic.Int32
	stop := startScheduler(t, &wire{fault: func(r *http.Request, _ http.RoundTripper) (*http.Response, error, bool) {
		if isEviction(r) && sent.Add(1) > 1 {
			cut.Add(1)
			return nil, errCut, true
		}
		return nil, nil, false
	}})
	class := contended(t, ns)
	urgentGang(t, ns, "high", class, 2)
	eventuallyTerminating(t, ns, "low", 1)
	controllertest.Eventually(t, within, func(context.Context) string {
		if cut.Load() == 0 {
			return "no eviction was cut off"
		}
		return ""
	})
	stop()
	startScheduler(t, &wire{})
	eventuallyTerminating(t, ns, "low", 2)
	finish(t, ns, "low")
	oneAttempt(t, eventuallyBound(t, ns, "high", 2))
}

// TestRestartKeepsTheRoom restarts the scheduler while the victims go: the new one
// reads from the PodGroup whom the room is for.
func TestRestartKeepsTheRoom(t *testing.T) {
	ns := plane.Namespace(t)
	stop := startScheduler(t, &wire{})
	class := contended(t, ns)
	urgentGang(t, ns, "high", class, 2)
	eventuallyTerminating(t, ns, "low", 2)
	stop()
	// Somebody who would be served before it, had the room not been made for it.
	create(t, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: ns + "-more"}, Value: 2000})
	urgentGang(t, ns, "late", ns+"-more", 2)
	finish(t, ns, "low")
	startScheduler(t, &wire{})
	oneAttempt(t, eventuallyBound(t, ns, "high", 2))
}

// TestDisruptionBudgetIsKept: a budget that allows nothing keeps its pods, and
// nobody else is evicted in vain.
func TestDisruptionBudgetIsKept(t *testing.T) {
	ns := plane.Namespace(t)
	create(t, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "all"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(2)), Selector: &metav1.LabelSelector{}},
	})
	w := &wire{}
	startScheduler(t, w)
	class := contended(t, ns)
	urgentGang(t, ns, "high", class, 2)
	eventuallyGroup(t, ns, "high", func(s volcanov1.PodGroupStatus) bool { return len(s.Conditions) > 0 })
	for _, call := range w.writes() {
		if strings.HasSuffix(call, "/eviction") {
			t.Errorf("an eviction was sent although the budget allows none: %s", call)
		}
	}
	pods, err := podsOf(t.Context(), ns, "low")
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			t.Errorf("pod %s is going away", p.Name)
		}
	}
}

// TestRefusedEvictionSparesThePod: the API server knows better than our view of
// the budgets; the pod is left alone and the gang gives its claim up.
func TestRefusedEvictionSparesThePod(t *testing.T) {
	ns := plane.Namespace(t)
	var refused atomic.Int32
	body := `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"not this one","code":403}`
	w := &wire{fault: func(r *http.Request, _ http.RoundTripper) (*http.Response, error, bool) {
		if !isEviction(r) {
			return nil, nil, false
		}
		refused.Add(1)
		return &http.Response{
			StatusCode: http.StatusForbidden, Status: "403 Forbidden", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}, nil, true
	}}
	startScheduler(t, w)
	class := contended(t, ns)
	urgentGang(t, ns, "high", class, 2)
	eventuallyGroup(t, ns, "high", func(s volcanov1.PodGroupStatus) bool {
		return refused.Load() > 0 && len(s.Conditions) > 0 && s.Conditions[0].Reason == "NotEnoughResources"
	})
}
