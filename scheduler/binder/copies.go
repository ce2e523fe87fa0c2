package binder

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// copiesEvery is how long the watch may take to show what a PodGroup asks for.
const copiesEvery = 2 * time.Second

// noteCopies queues what PodGroups are to ask for. The caller holds b.mu.
func (b *Binder) noteCopies(p plan.Plan, now time.Time) {
	for i := range p.Stagings {
		s := &p.Stagings[i]
		key := "copies/" + s.GangUID // a write of its own beside the PodGroup's status
		last, recent := b.asked[key]
		if recent && last.want == s.Want && now.Sub(last.at) < copiesEvery {
			continue
		}
		b.wishes[key] = wish{copies: s}
		b.asked[key] = askedCopies{s.Want, now}
		b.writes.Add(key)
	}
	for key, last := range b.asked {
		if now.Sub(last.at) > messageEvery {
			delete(b.asked, key)
		}
	}
}

// askedCopies is what was last written on a PodGroup, and when.
type askedCopies struct {
	want string
	at   time.Time
}

// askForCopies writes on a PodGroup which copies it waits for: a controller makes them.
func (b *Binder) askForCopies(ctx context.Context, s *plan.Staging) error {
	var want any // null takes the annotation away
	if s.Want != "" {
		want = s.Want
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": s.GangUID, "annotations": map[string]any{wellknown.Staging: want},
	}})
	if err != nil {
		return fmt.Errorf("encode the copies to make: %w", err)
	}
	if _, err := b.Volcano.SchedulingV1beta1().PodGroups(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("ask for copies on PodGroup %s/%s: %w", s.Namespace, s.Name, err)
	}
	return nil
}
