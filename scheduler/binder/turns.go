package binder

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/controllers/api/volcanogpu"
)

// Volcano's vgpu device plugin is not told for which pod kubelet asks: it takes the pod
// of its node that waits for longest. Two pods that wait at once could get each other's
// GPUs, since kubelet asks in an order of its own. So pods are sent to such a node one at
// a time: the next one when the plugin has served the one before it.

const (
	// A pod that is not the next asks again after an eighth of the time that it has waited
	// for, between turnAgain and turnAgainAtMost: many may wait, and any may go next.
	turnAgain       = 50 * time.Millisecond
	turnAgainAtMost = 2 * time.Second
	// serveWithin is how long others wait for one pod to be served.
	serveWithin = 2 * time.Minute
)

// turns are the pods that were sent last to nodes of Volcano's device plugin.
type turns struct {
	mu   sync.Mutex
	last map[string]turn // by node
}

type turn struct {
	uid, name string
	since     time.Time
}

// take reports whether a pod may be sent to a node now; if not, it says which pod is
// waited for, and since when.
func (b *Binder) take(t *bindTask, now time.Time) (turn, bool) {
	b.turns.mu.Lock()
	defer b.turns.mu.Unlock()
	node, own := t.bind.Node, turn{uid: t.bind.UID, name: t.bind.Namespace + "/" + t.bind.Name, since: now}
	last, some := b.turns.last[node]
	if some && last.uid == own.uid {
		return own, true // an answer was lost
	}
	if some && !b.Cache.Served(last.uid, node) {
		return last, false
	}
	if uid, name := b.Cache.Unserved(node); uid != "" { // whom an earlier scheduler sent
		last = turn{uid: uid, name: name, since: now}
		b.turns.last[node] = last
		return last, false
	}
	b.turns.last[node] = own
	return own, true
}

// pass lets the next pod go to a node, since this one does not.
func (b *Binder) pass(t *bindTask) {
	b.turns.mu.Lock()
	defer b.turns.mu.Unlock()
	if b.turns.last[t.bind.Node].uid == t.bind.UID {
		delete(b.turns.last, t.bind.Node)
	}
}

// inTurn reports whether a pod that Volcano's device plugin is to serve may be bound
// now. If not it is tried again soon, or given up when the one before is not served.
func (b *Binder) inTurn(ctx context.Context, t *bindTask) (bool, error) {
	if p, ok := b.Cache.Pod(t.bind.UID); !ok || p.Node == "" {
		b.Cache.Forget(t.bind.UID) // deleted while it waited
		b.pass(t)
		return false, nil
	}
	now := b.Now()
	before, ok := b.take(t, now)
	if !ok && now.Sub(before.since) > serveWithin {
		b.Cache.Hold(t.gang, fmt.Sprintf("pod %s cannot go to node %s: Volcano's device plugin there has not served pod %s", t.bind.Name, t.bind.Node, before.name), now.Add(b.HoldFor))
		b.Cache.Forget(t.bind.UID)
		return false, nil
	}
	if !ok {
		b.binds.AddAfter(t, askAgain(now.Sub(t.since)))
		return false, nil
	}
	return true, b.clearUndue(ctx, t.bind.Node)
}

// askAgain is after how long a pod that has waited for its turn so long asks again.
func askAgain(waited time.Duration) time.Duration {
	return min(max(waited/8, turnAgain), turnAgainAtMost)
}

// clearUndue takes from ended pods of a node what they would still get by some versions
// of the plugin, which would take them for the pod that is sent now.
func (b *Binder) clearUndue(ctx context.Context, node string) error {
	for _, ref := range b.Cache.Undue(node) {
		body := map[string]any{"metadata": map[string]any{"uid": ref.UID, "annotations": map[string]any{volcanogpu.ToAllocate: nil}}}
		err := patch(body, func(data []byte) error {
			_, err := b.Client.CoreV1().Pods(ref.Namespace).Patch(ctx, ref.Name, types.MergePatchType, data, metav1.PatchOptions{})
			return err
		})
		if apierrors.IsForbidden(err) {
			logr.FromContextOrDiscard(ctx).Info("an ended pod cannot be told that it gets no GPUs any more; some versions of Volcano's device plugin may serve it in place of the next", "pod", ref.Namespace+"/"+ref.Name, "reason", err.Error())
			continue // whoever may not patch pods is not to be held up by it for ever
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("take back what pod %s/%s was to get from Volcano's device plugin: %w", ref.Namespace, ref.Name, err)
		}
	}
	return nil
}
