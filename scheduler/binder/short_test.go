package binder

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestStaleTellsSinceWhen: the time of the condition is since when the gang is short, by
// which the next scheduler goes on. When that begins anew it is written and told at once,
// although the condition was true before and stays so.
func TestStaleTellsSinceWhen(t *testing.T) {
	now := time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	c := cache.New()
	b := New(Config{Cache: c, Now: func() time.Time { return now }, NewID: func() string { return "new" }})
	defer b.Close()
	before := now.Add(-10 * time.Minute)
	pg := &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "g", ResourceVersion: "1"},
		Status: volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue, Conditions: []volcanov1.PodGroupCondition{
			{Type: snapshot.Stale, Status: corev1.ConditionTrue, Reason: "BelowMinimum", Message: "due then", LastTransitionTime: metav1.NewTime(before), TransitionID: "old"},
		}},
	}
	c.SetGroup(pg)
	shown := pg.Status.Conditions
	for _, step := range []struct {
		what    string
		since   time.Time
		id      string
		told    int
		at      time.Time
		message bool // it is put off as a change of words is
	}{
		{"as it was", before.Add(300 * time.Millisecond), "old", 0, before, true},
		{"anew", now.Add(-time.Second), "new", 1, now.Add(-time.Second), false},
	} {
		s := &plan.Status{Gang: "podgroup/ns/g", GangUID: "g", Namespace: "ns", Name: "g", ShortSince: step.since.UnixNano(), Want: snapshot.GroupStatus{
			Phase: snapshot.GroupInqueue, Conditions: []snapshot.Condition{{Type: snapshot.Stale, Status: "True", Reason: "BelowMinimum", Message: "due now"}},
		}}
		out, news := b.conditions(s, shown)
		if got := out[0]; !got.LastTransitionTime.Time.Equal(step.at) || got.TransitionID != step.id || len(news) != step.told {
			t.Errorf("%s: it says %s with id %s and is told %d times", step.what, got.LastTransitionTime, got.TransitionID, len(news))
		}
		if got := sameButMessage(s, shown); got != step.message {
			t.Errorf("%s: only words differ: %t", step.what, got)
		}
	}
}
