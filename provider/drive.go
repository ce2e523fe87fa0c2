package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
)

// maxSteps bounds how far one drive takes a gang: intent, stage and submit,
// record, release, and the report are five.
const maxSteps = 8

// start runs the gang's steps beside the pass, when a worker is free.
func (b *Bridge) start(ctx context.Context, g lifecycle.Gang, m *memo, pods map[string]*corev1.Pod) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	m.busy = true
	b.mu.Unlock()
	b.busy.Add(1)
	go func() {
		defer b.busy.Done()
		defer func() {
			b.mu.Lock()
			m.busy = false
			b.mu.Unlock()
		}()
		select {
		case b.slots <- struct{}{}:
			defer func() { <-b.slots }()
		case <-ctx.Done():
			return
		}
		b.drive(ctx, g, m, pods)
	}()
}

// drive reports what is known, then takes step after step until there is
// nothing to do or something failed.
func (b *Bridge) drive(ctx context.Context, g lifecycle.Gang, m *memo, pods map[string]*corev1.Pod) {
	g = refresh(g, pods)
	b.report(ctx, &g, m, pods)
	for range maxSteps {
		if ctx.Err() != nil {
			return
		}
		now := b.Clock.Now()
		step := lifecycle.Next(g, b.knowledge(m), now)
		m.lost = step.Lost
		if step.Reason != "" || len(step.Actions) > 0 {
			m.reason, m.message = step.Reason, step.Message
		} else if m.failures == 0 {
			m.reason, m.message = "", ""
		}
		m.wantsFresh = step.Observe
		if step.Observe {
			b.wake()
		}
		acted, err := b.perform(ctx, &g, m, pods, step.Actions)
		b.settle(g, m, pods, err)
		b.report(ctx, &g, m, pods)
		if err != nil || !acted {
			return
		}
	}
}

// settle notes the outcome of a step: what to wait for, and until when.
func (b *Bridge) settle(g lifecycle.Gang, m *memo, pods map[string]*corev1.Pod, err error) {
	if err == nil {
		m.failures, m.retryAt = 0, time.Time{}
		return
	}
	if isConflict(err) || isGone(err) {
		b.wake() // the next pass reads the new state
		return
	}
	m.failures++
	pause := min(time.Second<<min(m.failures, 6), time.Minute)
	m.retryAt = b.Clock.Now().Add(pause)
	var w *waiting
	if asWaiting(err, &w) {
		m.reason, m.message = w.reason, w.message
		b.tell(m, pods, corev1.EventTypeWarning, w.reason, w.message)
		return
	}
	switch kind := backends.KindOf(err); kind {
	case backends.KindInvalid, backends.KindDenied:
		m.reason = "SubmitRejected"
		m.message = fmt.Sprintf("the batch system refused the job: %v", err)
		b.tell(m, pods, corev1.EventTypeWarning, m.reason, m.message)
	default:
		m.reason = "Retrying"
		m.message = fmt.Sprintf("trying again: %v", err)
	}
	b.Log.Info("step failed", "key", g.Key, "jobID", g.JobID, "error", err.Error(), "retryIn", pause.String())
}

// tell sends an event to all members, once for each new text.
func (b *Bridge) tell(m *memo, pods map[string]*corev1.Pod, eventType, reason, message string) {
	for uid, p := range pods {
		if text := reason + ": " + message; m.reported[uid] != text {
			m.reported[uid] = text
			b.Pods.Event(p, eventType, reason, message)
		}
	}
}

// refresh reads the members' facts again from the newest objects.
func refresh(g lifecycle.Gang, pods map[string]*corev1.Pod) lifecycle.Gang {
	members := make([]lifecycle.Pod, 0, len(g.Members))
	g.JobID = ""
	for _, m := range g.Members {
		if p := pods[m.UID]; p != nil {
			size := m.Size
			m = facts(p)
			m.Size = size
			members = append(members, m)
			if g.JobID == "" {
				g.JobID = m.JobID
			}
		}
	}
	g.Members = members
	return g
}

// report writes the status of every member whose status differs from what the
// evidence says.
func (b *Bridge) report(ctx context.Context, g *lifecycle.Gang, m *memo, pods map[string]*corev1.Pod) {
	now := b.Clock.Now()
	for i, member := range g.Members {
		pod := pods[member.UID]
		if pod == nil || member.Finished {
			continue
		}
		ev := podstatus.Evidence{
			WaitingReason:  m.reason,
			WaitingMessage: m.message,
			Lost:           m.lost,
		}
		if m.refused != "" {
			ev.RefusedReason, ev.RefusedMessage = m.refusedReason, m.refused
		}
		if g.JobID != "" {
			for j := range m.jobs {
				if m.jobs[j].ID == g.JobID {
					ev.Job = &m.jobs[j]
				}
			}
		}
		if m.files != nil && g.JobID != "" {
			ev.End, ev.BatchLogTail = m.files.End, m.files.BatchLogTail
			if rank, ok := m.ranks[member.UID]; ok {
				if st, ok := m.files.Pods[rank]; ok && st.UID == member.UID {
					ev.File = &st
				}
			}
		}
		status := podstatus.Status(pod, ev, now)
		patch, changed, err := podstatus.Patch(pod, status)
		if err == nil && ev.File != nil && ev.File.Host != "" && pod.Annotations[wellknown.BatchNode] != ev.File.Host {
			patch, err = withHost(patch, pod, ev.File.Host)
			changed = true
		}
		if err != nil {
			b.Log.Error(err, "encode pod status", "pod", pod.Namespace+"/"+pod.Name)
			continue
		}
		if !changed {
			continue
		}
		var written *corev1.Pod
		err = b.Gate.Do(ctx, "patch-status", func(ctx context.Context) error {
			var err error
			written, err = b.Pods.PatchStatus(ctx, pod, patch)
			return err
		})
		switch {
		case err == nil:
			b.wrote(written)
			pods[member.UID] = written
			size := member.Size
			g.Members[i] = facts(written)
			g.Members[i].Size = size
		case isGone(err):
			delete(pods, member.UID)
		default:
			b.Log.Info("could not write pod status", "pod", pod.Namespace+"/"+pod.Name, "podUID", pod.UID, "error", err.Error())
			b.wake()
		}
	}
}

// withHost adds the compute host to a status patch: the API server takes
// annotations with it, which saves a write of its own.
func withHost(patch []byte, pod *corev1.Pod, host string) ([]byte, error) {
	doc := map[string]any{}
	if len(patch) > 0 {
		if err := json.Unmarshal(patch, &doc); err != nil {
			return nil, fmt.Errorf("add the host to a status patch: %w", err)
		}
	}
	meta, _ := doc["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{"uid": pod.UID}
	}
	meta["annotations"] = map[string]any{wellknown.BatchNode: host}
	doc["metadata"] = meta
	return json.Marshal(doc)
}
