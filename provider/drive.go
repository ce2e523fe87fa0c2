package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
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
	for _, mem := range g.Members {
		b.driven[mem.UID] = g.Key
	}
	seq := b.obsSeq
	b.mu.Unlock()
	b.busy.Add(1)
	go func() {
		defer b.busy.Done()
		defer func() {
			b.mu.Lock()
			m.busy = false
			for _, mem := range g.Members {
				delete(b.driven, mem.UID)
			}
			missed := b.missed
			b.missed = false
			b.mu.Unlock()
			if missed {
				b.wake() // a pass went by while we were at it
			}
		}()
		if !b.slots.Enter(ctx, tenant(g)) {
			return
		}
		defer b.slots.Leave(tenant(g))
		work, end := drain(ctx)
		defer end()
		m.quiet = b.drive(ctx, work, g, m, pods)
		m.quietSeq, m.quietPods = seq, versions(g, pods)
	}()
}

// drainTime is how long effects under way may go on after the daemon was asked
// to end: a job that was just submitted is then recorded, and needs no search
// by the next daemon.
const drainTime = 20 * time.Second

// drain gives a context that outlives ctx by drainTime.
func drain(ctx context.Context) (work context.Context, end func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var timer *time.Timer
	var mu sync.Mutex
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		timer = time.AfterFunc(drainTime, cancel)
	})
	return work, func() {
		stop()
		cancel()
		mu.Lock()
		defer mu.Unlock()
		if timer != nil {
			timer.Stop()
		}
	}
}

// versions is the members' newest versions as one text.
func versions(g lifecycle.Gang, pods map[string]*corev1.Pod) string {
	var out strings.Builder
	for _, mem := range g.Members {
		if p := pods[mem.UID]; p != nil {
			out.WriteString(p.ResourceVersion)
		}
		out.WriteByte(' ')
	}
	return out.String()
}

// drive reports what is known, then takes step after step until there is
// nothing to do or something failed. quiet says that there was nothing to do.
//
// Once ctx has ended no further step begins; what is under way has work, which
// goes on for drainTime.
func (b *Bridge) drive(ctx, work context.Context, g lifecycle.Gang, m *memo, pods map[string]*corev1.Pod) (quiet bool) {
	g = b.refresh(g, pods)
	work = b.traced(work, &g, pods)
	if !beginning(lifecycle.Next(g, b.knowledge(m), b.Clock.Now())) {
		b.report(work, &g, m, pods)
	}
	for range maxSteps {
		if ctx.Err() != nil {
			return false
		}
		step := lifecycle.Next(g, b.knowledge(m), b.Clock.Now())
		told := m.words()
		m.lost = step.Lost
		switch {
		case step.Void == "" && m.refusedReason == wellknown.ReasonPredecessor: // it was taken for broken
			m.refusedReason, m.refused = "", ""
		case step.Void != "" && m.refused == "":
			m.refusedReason, m.refused = wellknown.ReasonPredecessor, step.Void
			b.tell(m, pods, corev1.EventTypeWarning, m.refusedReason, m.refused)
		}
		// After a failure only what needs no evidence goes on, and the members
		// keep telling the cause: a status that changed to and fro would be a
		// write each, and each write would bring the next pass.
		actions, paused := m.due(step.Actions, b.Clock.Now())
		switch {
		case paused:
		case step.Reason != "" || len(step.Actions) > 0:
			m.reason, m.message = step.Reason, step.Message
		default:
			m.reason, m.message = "", ""
		}
		if step.Reason == "EvidenceUnreadable" { // the status of a pod that ran cannot tell it
			b.tell(m, pods, corev1.EventTypeWarning, step.Reason, step.Message)
		}
		b.want(m, step.Observe)
		// Meanwhile the members tell what is under way, or why it failed last time.
		if slow(actions) && m.failures == 0 {
			b.report(work, &g, m, pods)
		}
		acted, err := b.perform(ctx, work, &g, m, pods, actions)
		if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return false // our own end is no failure: the next daemon goes on from here
		}
		if err != nil || !paused {
			b.settle(g, m, pods, err)
		}
		if err == nil && acted && onward(actions) {
			continue
		}
		if acted || m.words() != told {
			b.report(work, &g, m, pods)
		}
		if err != nil || !acted {
			return err == nil && !paused && m.unwritten == 0
		}
	}
	return false
}

// A status that the next step replaces at once is not written: for a thousand
// jobs that would be thousands of writes. The three below say which.

// beginning reports whether the step is the first of a submission.
func beginning(s lifecycle.Step) bool {
	return slices.ContainsFunc(s.Actions, func(a lifecycle.Action) bool { return a.Verb == lifecycle.WriteIntent })
}

// slow reports whether the actions wait for the batch system while the members
// have nothing else to tell, such as the images that they wait for.
func slow(actions []lifecycle.Action) bool {
	return !slices.ContainsFunc(actions, func(a lifecycle.Action) bool { return a.Verb == lifecycle.Pull }) && slices.ContainsFunc(actions, func(a lifecycle.Action) bool { return a.Verb == lifecycle.Submit })
}

// onward reports whether another step of the submission follows when these
// actions have succeeded.
func onward(actions []lifecycle.Action) bool {
	return len(actions) > 0 && !slices.ContainsFunc(actions, func(a lifecycle.Action) bool {
		switch a.Verb {
		case lifecycle.WriteIntent, lifecycle.Stage, lifecycle.Pull, lifecycle.Submit, lifecycle.Record:
			return false
		}
		return true
	})
}

// want asks the loop for a fresh observation, once.
func (b *Bridge) want(m *memo, fresh bool) {
	b.mu.Lock()
	first := fresh && !m.wantsFresh
	m.wantsFresh = fresh
	b.mu.Unlock()
	if first {
		b.wake()
	}
}

// maxConflicts is how many lost preconditions in a row are tried again at once.
const maxConflicts = 3

// lasting is how many failures in a row are told to the user.
const lasting = 3

// backOff is how long to wait after so many failures in a row.
func backOff(failures int) time.Duration {
	return min(time.Second<<min(failures, 6), time.Minute)
}

// settle notes the outcome of a step: what to wait for, and until when.
func (b *Bridge) settle(g lifecycle.Gang, m *memo, pods map[string]*corev1.Pod, err error) {
	if err == nil {
		m.failures, m.conflicts, m.retryAt = 0, 0, time.Time{}
		return
	}
	if isConflict(err) || isGone(err) {
		// The next pass reads the new state; it waits when that is long in coming.
		if m.conflicts++; m.conflicts > maxConflicts {
			m.retryAt = b.Clock.Now().Add(backOff(m.conflicts - maxConflicts))
		} else {
			b.wake()
		}
		return
	}
	var p *pulling
	if errors.As(err, &p) {
		b.awaitImages(m, pods, p)
		return
	}
	m.failures++
	pause := backOff(m.failures)
	m.retryAt = b.Clock.Now().Add(pause)
	var w *waiting
	if asWaiting(err, &w) {
		if w.reason == queueFull {
			m.failures, m.retryAt = 0, b.Clock.Now().Add(time.Second) // it costs nothing to look
		}
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
		// What is over soon is told by the log, and that the batch system is away by
		// the node. One that answers and refuses time and again, be it by a site's
		// own rules or a limit, needs somebody who looks at the pod.
		if kind != backends.KindTransient && m.failures >= lasting && b.View().Reachable {
			b.tell(m, pods, corev1.EventTypeWarning, m.reason, m.message)
		}
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
func (b *Bridge) refresh(g lifecycle.Gang, pods map[string]*corev1.Pod) lifecycle.Gang {
	members := make([]lifecycle.Pod, 0, len(g.Members))
	g.JobID = ""
	for _, m := range g.Members {
		if p := pods[m.UID]; p != nil {
			was := m
			m = facts(p)
			m.Size, m.Grace = was.Size, b.graceOf(p)
			if m.Attempt == "" { // what the PodGroup says
				m.Attempt, m.Group, m.Untold, m.Elsewhere = was.Attempt, was.Group, was.Untold, was.Elsewhere
			}
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
	if now.Before(m.reportAt) {
		return
	}
	gone, failed, wrote := false, false, false
	unmet, behind := b.waitsFor(m)
	for _, member := range g.Members {
		pod := pods[member.UID]
		if pod == nil || member.Finished {
			continue
		}
		ev := podstatus.Evidence{
			WaitingReason:  m.reason,
			WaitingMessage: m.message,
			Lost:           m.lost,
			Images:         m.pull.Images,
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
		ev.Unmet, ev.Behind = unmet, behind
		m.witness(&ev, now)
		b.forward(m, pod, ev.File)
		same, lasting := podstatus.Same(ev)
		same = pod.ResourceVersion + " " + same
		if lasting && m.shown[member.UID] == same {
			continue // with the same evidence the same status again
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
		if !changed || m.idle[member.UID] == pod.ResourceVersion+" "+string(patch) {
			if lasting {
				m.shown[member.UID] = same
			}
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
			if written.ResourceVersion == pod.ResourceVersion {
				m.idle[member.UID] = pod.ResourceVersion + " " + string(patch)
			}
			b.wrote(written)
			pods[member.UID] = written
			wrote = true
			if facts(written).Finished {
				b.ended(ctx, g, written, ev)
			}
		case isGone(err):
			delete(pods, member.UID)
			gone = true
		default:
			b.Log.Info("could not write pod status", "pod", pod.Namespace+"/"+pod.Name, "podUID", pod.UID, "error", err.Error())
			failed = true
		}
	}
	if gone || wrote {
		// Nothing must be done to a pod that is not there; and what came back with
		// a status may hold the record of another daemon.
		*g = b.refresh(*g, pods)
	}
	if failed {
		m.unwritten++
		m.reportAt = now.Add(backOff(m.unwritten)) // the next tick after it tries again
	} else {
		m.unwritten = 0
	}
}

// forward tells what the pod's runner has to tell, once. What was there before
// this process saw the pod's first status is taken as told.
func (b *Bridge) forward(m *memo, pod *corev1.Pod, file *manifest.Status) {
	if file == nil {
		if _, seen := m.events[string(pod.UID)]; !seen && m.announced != "" { // submitted by this process
			m.events[string(pod.UID)] = 0
		}
		return
	}
	last, seen := m.events[string(pod.UID)]
	for _, e := range file.Events[:min(len(file.Events), manifest.MaxEvents)] {
		if seen && e.Number > last && (e.Type == corev1.EventTypeNormal || e.Type == corev1.EventTypeWarning) {
			b.Pods.Event(pod, e.Type, printable(e.Reason, 64), printable(e.Message, 1024))
		}
	}
	for _, e := range file.Events {
		last = max(last, e.Number)
	}
	m.events[string(pod.UID)] = last
}

// printable bounds a text that a user's program may have written.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
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
