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

// gateEvery is how long the watch may take to show that a gate is open.
const gateEvery = 2 * time.Second

// noteGates queues the gates to open. The caller holds b.mu.
func (b *Binder) noteGates(p plan.Plan, now time.Time) {
	for _, ref := range p.Opened {
		key := "gate/" + ref.UID // a write of its own beside the pod's condition
		if at, recent := b.written[key]; recent && now.Sub(at) < gateEvery {
			continue
		}
		b.wishes[key] = wish{gate: &ref}
		b.written[key] = now
		b.writes.Add(key)
	}
}

// openGate takes the gate of a pod away. One that is open is left alone.
func (b *Binder) openGate(ctx context.Context, ref *plan.PodRef) error {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": ref.UID},
		"spec":     map[string]any{"schedulingGates": []map[string]any{{"$patch": "delete", "name": wellknown.QueueAllocationGate}}},
	})
	if err != nil {
		return fmt.Errorf("encode gates: %w", err)
	}
	if _, err := b.Client.CoreV1().Pods(ref.Namespace).Patch(ctx, ref.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("open the gate of pod %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	return nil
}
