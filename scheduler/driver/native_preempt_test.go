package driver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// native is a PodGroup of Kubernetes' own API with two pods of 4 GPUs.
type native struct {
	class, podClass string // "" for none
	queue, podQueue string // "" for none
}

func (n native) create(t *testing.T, ns, name string) {
	t.Helper()
	in := func(queue string) map[string]string {
		if queue == "" {
			return nil
		}
		return map[string]string{volcanov1.QueueNameAnnotationKey: queue}
	}
	create(t, &schedulingv1beta1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: in(n.queue)},
		Spec: schedulingv1beta1.PodGroupSpec{
			PriorityClassName: n.class,
			SchedulingPolicy:  schedulingv1beta1.PodGroupSchedulingPolicy{Gang: &schedulingv1beta1.GangSchedulingPolicy{MinCount: 2}},
		},
	})
	for i := range 2 {
		gpus := corev1.ResourceList{"nvidia.com/gpu": kresource.MustParse("4")}
		create(t, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("%s-%d", name, i), Annotations: in(n.podQueue)},
			Spec: corev1.PodSpec{
				SchedulerName: wellknown.SchedulerIsthmus, SchedulingGroup: &corev1.PodSchedulingGroup{PodGroupName: &name}, PriorityClassName: n.podClass,
				Containers: []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{Requests: gpus, Limits: gpus}}},
			},
		})
	}
}

// soon is less than the time for which a message that is only out of date is left alone.
const soon = 20 * time.Second

// eventuallyScheduled waits for the condition of a PodGroup of Kubernetes' own API, with
// words in its message. It turns soon, whatever was written a moment before.
func eventuallyScheduled(t *testing.T, ns, name string, want metav1.ConditionStatus, words string) {
	t.Helper()
	controllertest.Eventually(t, soon, func(ctx context.Context) string {
		var g schedulingv1beta1.PodGroup
		if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, &g); err != nil {
			return err.Error()
		}
		for _, c := range g.Status.Conditions {
			if c.Type == schedulingv1beta1.PodGroupInitiallyScheduled && c.Status == want && strings.Contains(c.Message, words) {
				return ""
			}
		}
		return fmt.Sprintf("the conditions of %s are %+v", name, g.Status.Conditions)
	})
}

// TestPreemptionForAndOfNativePodGroups: priority decides, whichever kind of PodGroup
// those have that come and those that go, and wherever the class is named.
func TestPreemptionForAndOfNativePodGroups(t *testing.T) {
	for name, c := range map[string]struct {
		high      func(class string) *native // nil for Volcano's kind
		nativeLow bool
	}{
		"class on both, over Volcano's":       {high: func(class string) *native { return &native{class: class, podClass: class} }},
		"class on both, over native":          {high: func(class string) *native { return &native{class: class, podClass: class} }, nativeLow: true},
		"class on the PodGroup, over native":  {high: func(class string) *native { return &native{class: class} }, nativeLow: true},
		"class on the pods, over Volcano's":   {high: func(class string) *native { return &native{podClass: class} }},
		"class on the pods, over native":      {high: func(class string) *native { return &native{podClass: class} }, nativeLow: true},
		"a gang of Volcano's kind comes over": {nativeLow: true},
	} {
		t.Run(name, func(t *testing.T) {
			ns := plane.Namespace(t)
			startScheduler(t, &wire{})
			virtualNode(t, ns+"-v", 2)
			class := ns + "-urgent"
			create(t, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Value: 1000})
			if c.nativeLow {
				native{}.create(t, ns, "low")
			} else {
				gang(t, ns, "low", 2, 2, volcanov1.PodGroupInqueue)
			}
			setPhase(t, eventuallyBound(t, ns, "low", 2), corev1.PodRunning)
			if c.high != nil {
				c.high(class).create(t, ns, "high")
			} else {
				urgentGang(t, ns, "high", class, 2)
			}
			eventuallyTerminating(t, ns, "low", 2)
			if c.high != nil {
				eventuallyScheduled(t, ns, "high", metav1.ConditionFalse, "room")
			}
			finish(t, ns, "low")
			eventuallyBound(t, ns, "high", 2)
			if c.high != nil {
				eventuallyScheduled(t, ns, "high", metav1.ConditionTrue, "")
			}
		})
	}
}

// TestReclaimForNativePodGroup: a queue gets back what it deserves for a PodGroup of
// Kubernetes' own API as well, be it the PodGroup or its pods that name the queue.
func TestReclaimForNativePodGroup(t *testing.T) {
	for name, high := range map[string]func(queue string) native{
		"the PodGroup names it": func(queue string) native { return native{queue: queue} },
		"its pods name it":      func(queue string) native { return native{podQueue: queue} },
	} {
		t.Run(name, func(t *testing.T) {
			ns := plane.Namespace(t)
			startScheduler(t, &wire{})
			virtualNode(t, ns+"-v", 4)
			for _, q := range []string{ns + "-a", ns + "-b"} {
				create(t, &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: q}, Spec: volcanov1.QueueSpec{Weight: 1}})
			}
			for _, g := range []string{"one", "two"} {
				native{queue: ns + "-a"}.create(t, ns, g)
				setPhase(t, eventuallyBound(t, ns, g, 2), corev1.PodRunning)
			}
			high(ns+"-b").create(t, ns, "theirs")
			controllertest.Eventually(t, within, func(ctx context.Context) string {
				going := 0
				for _, g := range []string{"one", "two"} {
					pods, err := podsOf(ctx, ns, g)
					if err != nil {
						return err.Error()
					}
					for _, p := range pods {
						if p.DeletionTimestamp != nil {
							going++
						}
					}
				}
				if going != 2 {
					return fmt.Sprintf("%d pods are going away, want 2 of one gang", going)
				}
				return ""
			})
			for _, g := range []string{"one", "two"} {
				pods, err := podsOf(t.Context(), ns, g)
				if err != nil {
					t.Fatal(err)
				}
				if pods[0].DeletionTimestamp != nil {
					finish(t, ns, g)
				}
			}
			eventuallyBound(t, ns, "theirs", 2)
			eventuallyScheduled(t, ns, "theirs", metav1.ConditionTrue, "")
		})
	}
}

// TestConditionThatIsDeniedIsNotRepeated: without the right to write conditions a gang of
// Kubernetes' own kind that waits costs no write with each cycle.
func TestConditionThatIsDeniedIsNotRepeated(t *testing.T) {
	ns := plane.Namespace(t)
	var denied atomic.Int32
	body := `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"no role grants it","code":403}`
	startScheduler(t, &wire{fault: func(r *http.Request, _ http.RoundTripper) (*http.Response, error, bool) {
		if !strings.HasSuffix(r.URL.Path, "/podgroups/waits/status") {
			return nil, nil, false
		}
		denied.Add(1)
		return &http.Response{
			StatusCode: http.StatusForbidden, Status: "403 Forbidden", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}, nil, true
	}})
	virtualNode(t, ns+"-v", 1)
	native{}.create(t, ns, "waits")
	controllertest.Eventually(t, within, func(context.Context) string {
		if denied.Load() == 0 {
			return "no condition was written"
		}
		return ""
	})
	until := time.Now().Add(2 * time.Second) // twenty cycles
	controllertest.Eventually(t, within, func(context.Context) string {
		if time.Now().Before(until) {
			return "watching"
		}
		return ""
	})
	if n := denied.Load(); n > 2 { // one may have been under way when the pods were there
		t.Errorf("the condition was sent %d times", n)
	}
}
