package binder

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sfake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// marking is a binder with one pod that waits, and an API server that keeps it.
type marking struct {
	*Binder
	client *k8sfake.Clientset
	pod    *corev1.Pod
	events *record.FakeRecorder
	now    time.Time
}

func newMarking(t *testing.T) *marking {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{SchedulerName: "volcano"}}
	m := &marking{client: k8sfake.NewClientset(pod), pod: pod, events: record.NewFakeRecorder(100), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	c := cache.New()
	c.Serve("volcano")
	c.SetPod(pod)
	m.Binder = New(Config{Client: m.client, Cache: c, Events: m.events, Observe: &refusing{told: map[string]int{}}, Now: func() time.Time { return m.now }, NewID: func() string { return "" }})
	t.Cleanup(m.Close)
	return m
}

// waits is a cycle that finds the pod waiting for this reason, after as long as marks last
// at the least.
func (m *marking) waits(code plan.Code, message string, plain bool) {
	m.now = m.now.Add(messageEvery + time.Second)
	m.note(plan.Plan{Unschedulable: []plan.Unschedulable{{
		Gang: "g", GangUID: "g", Code: code, Message: message, Plain: plain, Pods: []plan.PodRef{{UID: "u", Namespace: "ns", Name: "p"}},
	}}}, m.now)
}

// written has all that waits written, and gives the pod's condition and how many writes it was.
func (m *marking) written(t *testing.T) (reason, message string, writes int) {
	t.Helper()
	before := len(m.client.Actions())
	for {
		if _, some := m.Step(t.Context(), "write"); !some {
			break
		}
	}
	writes = len(m.client.Actions()) - before
	pod, err := m.client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Cache.SetPod(pod)
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			reason, message = c.Reason, c.Message
		}
	}
	return reason, message, writes
}

// TestMarksOfCapacityEnd: autoscalers add nodes for pods that are marked unschedulable. One
// that waited for nodes, and has reached its queue's limit since, is marked no longer, and
// says what it waits for now; what is over in a moment turns nothing.
func TestMarksOfCapacityEnd(t *testing.T) {
	for _, plain := range []bool{false, true} {
		m := newMarking(t)
		for i, step := range []struct {
			code                  plan.Code
			words, reason, answer string
			writes                int
		}{
			{plan.OverQuota, "quota", "", "", 0}, // a pod that never lacked nodes has no mark
			{plan.NoCapacity, "no room", "Unschedulable", "no room", 1},
			{plan.NoCapacity, "no room", "Unschedulable", "no room", 0},
			{plan.Held, "a moment", "Unschedulable", "no room", 0},
			{plan.OverQuota, "quota", "OverQuota", "quota", 1},
			{plan.OverQuota, "quota", "OverQuota", "quota", 0},
			{plan.QueueClosed, "closed", "QueueClosed", "closed", 1},
			{plan.NodesDontMatch, "taint", "Unschedulable", "taint", 1},
		} {
			m.waits(step.code, step.words, plain)
			if reason, words, writes := m.written(t); reason != step.reason || words != step.answer || writes != step.writes {
				t.Errorf("plain %v, step %d: %d writes, the pod says %s: %s; want %d, %s: %s", plain, i, writes, reason, words, step.writes, step.reason, step.answer)
			}
		}
	}
}

// TestMarksEndAtTheBinding: marks stand behind bindings, and a pod that was bound meanwhile
// is not told that it is not.
func TestMarksEndAtTheBinding(t *testing.T) {
	m := newMarking(t)
	m.waits(plan.NoCapacity, "no room", false)
	if !m.Cache.Assume("u", cache.Assumption{Node: "n"}) {
		t.Fatal("the pod is not known")
	}
	if reason, _, writes := m.written(t); reason != "" || writes != 0 {
		t.Errorf("%d writes, the pod says %q", writes, reason)
	}
}
