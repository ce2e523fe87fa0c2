package provider

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
)

// awaited is what the pods say of a gang that another comes after.
type awaited struct {
	attempt   string
	name      string
	succeeded bool
	broken    string // why it will not succeed, or nobody can tell
	missing   string // which of its pods our view lacks
	gone      bool   // what is missing is so for good
	alone     string // why nothing is queued behind it
	key       backends.Key
	job       backends.JobID // recorded on all its pods, else ""
}

// attempts are the pods of each gang attempt, by namespace and attempt.
type attempts map[[2]string][]*corev1.Pod

// attemptsIn sorts the pods, unless none of them comes after others.
func attemptsIn(index map[string]*corev1.Pod) attempts {
	for _, p := range index {
		if p.Annotations[wellknown.After] == "" {
			continue
		}
		return sorted(maps.Values(index))
	}
	return nil
}

func sorted(pods iter.Seq[*corev1.Pod]) attempts {
	all := attempts{}
	for p := range pods {
		if attempt := p.Annotations[wellknown.GangAttempt]; attempt != "" {
			at := [2]string{p.Namespace, attempt}
			all[at] = append(all[at], p)
		}
	}
	return all
}

// missingGrace is how long pods that others come after have to be absent from our view
// before the API server itself is asked. There is one watch a node, and that of their
// node may lag, or show nothing, while that of ours does not. It is longer than what
// the sweep takes to find that the view as a whole is wrong.
const missingGrace = releasedGrace + lifecycle.LostGrace

// absence is of an attempt that others come after, and of which pods are missing.
type absence struct {
	since time.Time
	gone  bool // the API server itself has said so
}

// lookForMissing notes which attempts lack pods in our view, and asks the API server about
// those that have for their grace. Pass alone calls it.
func (b *Bridge) lookForMissing(ctx context.Context, index map[string]*corev1.Pod, all attempts) {
	now := b.Clock.Now()
	missing, ask, braked := map[[2]string]absence{}, false, b.Brake() != ""
	for _, p := range index {
		if p.Annotations[wellknown.After] == "" || facts(p).Finished {
			continue
		}
		for attempt := range strings.SplitSeq(p.Annotations[wellknown.After], ",") {
			at := [2]string{p.Namespace, attempt}
			if _, done := missing[at]; done || await(p.Namespace, attempt, all).missing == "" {
				continue
			}
			a, known := b.missing[at]
			if !known || braked { // our view as a whole is wrong: nothing is gone for good
				a = absence{since: now}
			}
			missing[at] = a
			ask = ask || a.overdue(now)
		}
	}
	b.missing = missing
	if !ask {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readDeadline)
	defer cancel()
	pods, err := b.Pods.ListLive(ctx)
	if err != nil || len(pods) == 0 { // those that wait are not in it either
		b.Log.Info("what others come after is missing, and the API server does not say whether it is gone", "pods", len(pods), "error", errText(err))
		return
	}
	live := sorted(slices.Values(pods))
	for at, a := range missing {
		if a.overdue(now) {
			missing[at] = absence{since: now, gone: await(at[0], at[1], live).missing != ""}
		}
	}
}

func (a absence) overdue(now time.Time) bool { return !a.gone && now.Sub(a.since) >= missingGrace }

// awaitedBy looks up what a gang comes after among all pods of the cluster's nodes.
// What was known of it, which is in before, is not forgotten with its pods.
func (b *Bridge) awaitedBy(g lifecycle.Gang, index map[string]*corev1.Pod, all attempts, before []awaited) []awaited {
	if all == nil {
		return nil
	}
	var out []awaited
	seen := map[string]bool{}
	for _, mem := range g.Members {
		p := index[mem.UID]
		if p == nil || p.Annotations[wellknown.After] == "" {
			continue
		}
		for attempt := range strings.SplitSeq(p.Annotations[wellknown.After], ",") {
			if !seen[attempt] {
				seen[attempt] = true
				a := await(p.Namespace, attempt, all)
				if a.missing != "" {
					a.gone = b.missing[[2]string{p.Namespace, attempt}].gone
					i := slices.IndexFunc(before, func(was awaited) bool { return was.attempt == attempt })
					if i >= 0 && a.job == "" {
						a.name, a.key, a.job = before[i].name, before[i].key, before[i].job
					}
				}
				out = append(out, a)
			}
		}
	}
	return out
}

// await reads one attempt. Whoever writes an annotation decides about pods of his own
// namespace only.
func await(namespace, attempt string, all attempts) awaited {
	pods := all[[2]string{namespace, attempt}]
	if len(pods) == 0 {
		return awaited{attempt: attempt, name: fmt.Sprintf("gang attempt %.40q", attempt), missing: "it has no pods on this cluster, or none any more"}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	first := facts(pods[0])
	a := awaited{attempt: attempt, name: "pod " + pods[0].Name, key: first.Intent, job: first.JobID}
	if job := pods[0].Labels[batch.JobNameKey]; job != "" {
		a.name = "Job " + job
	}
	succeeded := 0
	for _, p := range pods {
		f := facts(p)
		switch {
		case p.Status.Phase == corev1.PodFailed:
			a.broken = fmt.Sprintf("pod %s failed", p.Name)
		case f.Deleting:
			a.broken = fmt.Sprintf("pod %s is being deleted", p.Name)
		case f.Attempt != first.Attempt || f.Attempt == "": // other nodes, or no gang
			a.broken = fmt.Sprintf("pod %s is not of one gang with pod %s", p.Name, pods[0].Name)
		case p.Status.Phase == corev1.PodSucceeded:
			succeeded++
		}
		if f.Intent != a.key || f.JobID != a.job {
			a.job = ""
		}
		if p.Annotations[wellknown.QueueEarly] != "true" {
			// Its launcher lets a program that is told to end do so with 0.
			a.alone = fmt.Sprintf("pod %s lacks the annotation %s: \"true\", without which nothing is queued behind it", p.Name, wellknown.QueueEarly)
		}
		if a.broken != "" {
			return a
		}
	}
	switch {
	case len(pods) > first.Size:
		a.broken = fmt.Sprintf("it has %d pods, more than the %d of its gang", len(pods), first.Size)
		return a
	case len(pods) < first.Size:
		a.missing = fmt.Sprintf("%d of its %d pods are there", len(pods), first.Size)
		return a
	}
	a.succeeded = succeeded == len(pods)
	return a
}

// predecessors adds what the batch system says. Only a complete observation counts:
// it tells of both jobs at one time.
func predecessors(awaits []awaited, v View, able bool) []lifecycle.Predecessor {
	out := make([]lifecycle.Predecessor, 0, len(awaits))
	for _, a := range awaits {
		p := lifecycle.Predecessor{Name: a.name, State: lifecycle.Open}
		job := listed(a, v)
		switch {
		case a.broken != "":
			p.State, p.Why = lifecycle.Broken, a.broken
		case a.missing != "" && job != nil && !job.State.Terminal():
			p.Why = fmt.Sprintf("%s, but its batch job %s has not ended", a.missing, a.job)
		case a.missing != "" && !a.gone:
			p.Why = fmt.Sprintf("%s; it is given up when that stays so for %d minutes", a.missing, int(missingGrace.Minutes()))
		case a.missing != "":
			p.State, p.Why = lifecycle.Broken, a.missing
		case a.succeeded:
			p.State = lifecycle.Succeeded
		case a.alone != "":
			p.Why = a.alone
		case a.job == "":
			p.Why = "its batch job is not submitted yet"
		case job == nil:
			p.Why = fmt.Sprintf("its batch job %s is not listed", a.job)
		case job.State.Terminal():
			p.Why = fmt.Sprintf("its batch job %s ended: %s", a.job, job.State)
		case !able:
			p.Why = fmt.Sprintf("its batch job %s has not ended, and here no job is made to wait for another", a.job)
		default:
			p.State, p.JobID = lifecycle.Submitted, a.job
		}
		out = append(out, p)
	}
	return out
}

func listed(a awaited, v View) *backends.Job {
	if !v.Complete || !v.Reachable {
		return nil
	}
	for i, j := range v.Jobs[a.key] {
		if j.ID == a.job {
			return &v.Jobs[a.key][i]
		}
	}
	return nil
}

// waitsFor says which predecessor did not succeed and does not go on, and for which jobs
// the gang's own waits; "" when there is none.
func (b *Bridge) waitsFor(m *memo) (unmet, jobs string) {
	if len(m.awaits) == 0 {
		return "", ""
	}
	var words []string
	for _, p := range b.knowledge(m).After {
		switch p.State {
		case lifecycle.Open, lifecycle.Broken:
			if unmet == "" {
				unmet = p.Words()
			}
		case lifecycle.Submitted:
			words = append(words, fmt.Sprintf("batch job %s of %s", p.JobID, p.Name))
		}
	}
	return unmet, strings.Join(words, ", ")
}
