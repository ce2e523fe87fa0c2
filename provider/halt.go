package provider

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/tracing"
)

// defaultGrace is what the API server gives pods that name no grace.
const defaultGrace = 30 * time.Second

// graceOf is how long a pod has from the order to end until it is killed: what
// its deletion says comes before what its spec says. The administrator's bound is
// the one that the pod's runner was given.
func (b *Bridge) graceOf(pod *corev1.Pod) time.Duration {
	grace := defaultGrace
	switch {
	case pod.DeletionGracePeriodSeconds != nil:
		grace = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		grace = time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	if most := b.Cluster.Spec.Walltime.Grace; most != nil && most.Duration > 0 {
		grace = min(grace, most.Duration)
	}
	return min(max(grace, 0), backends.MaxGrace)
}

// deletedAt is when somebody deleted the pod: its timestamp is when its grace is
// over by then.
func deletedAt(pod *corev1.Pod) time.Time {
	at := pod.DeletionTimestamp.Time
	if grace := pod.DeletionGracePeriodSeconds; grace != nil {
		at = at.Add(-time.Duration(*grace) * time.Second)
	}
	return at
}

// inherit notes once, in the first pass, which pods were being deleted already:
// the daemon before this one, or the configuration before this one, has told
// their runners, so their grace does not begin anew. The lock must be held.
func (b *Bridge) inherit(pods []*corev1.Pod) {
	if b.inherited != nil {
		return
	}
	b.inherited = map[string]time.Time{}
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			b.inherited[string(p.UID)] = deletedAt(p)
		}
	}
}

// halt orders the runners of members to end them, with one effect for all of
// the gang.
func (b *Bridge) halt(ctx context.Context, g *lifecycle.Gang, m *memo, going []lifecycle.Pod) (bool, error) {
	if forged(g, m) {
		return false, &waiting{"ForeignJob", fmt.Sprintf("batch job %s is not the job of this pod", g.JobID)}
	}
	now := b.Clock.Now()
	orders := make(map[int]manifest.Stop, len(going))
	var told []lifecycle.Pod
	for _, mem := range going {
		s := m.stops[mem.UID]
		if s.Asked.IsZero() {
			s.Asked = now
		}
		m.stops[mem.UID] = s
		if rank, ok := m.ranks[mem.UID]; ok {
			orders[rank] = manifest.Stop{GraceSeconds: int64((mem.Grace + time.Second - 1) / time.Second), Reason: manifest.ReasonDeleted}
			told = append(told, mem)
		}
	}
	if len(told) == 0 {
		return false, nil // the directory was not collected yet
	}
	if len(told) == 1 {
		ctx = tracing.OnPod(ctx, told[0].UID)
	}
	tracing.SetJob(ctx, g.JobID)
	err := b.Gate.Do(ctx, string(lifecycle.Halt), func(ctx context.Context) error {
		return b.Stager.Stop(ctx, userOf(g, m, g.JobID), g.Key, orders)
	})
	b.mu.Lock()
	seq := b.obsSeq
	defer b.mu.Unlock()
	for _, mem := range told {
		s := m.stops[mem.UID]
		switch kind := backends.KindOf(err); {
		case err == nil:
			s.Written, s.Grace, s.seq = b.Clock.Now(), mem.Grace, seq
			s.Begun = s.Written
			if at, ok := b.inherited[mem.UID]; ok && at.Before(s.Begun) {
				s.Begun = at
			}
		case kind == backends.KindInvalid || kind == backends.KindDenied:
			s.Refused = true
		}
		m.stops[mem.UID] = s
	}
	if err != nil {
		return true, fmt.Errorf("tell gang %s to end: %w", g.Key, err)
	}
	return true, nil
}
