package provider

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
)

// awaited is what the pods say of a gang that another comes after.
type awaited struct {
	name      string
	succeeded bool
	broken    string // why it will not succeed, or nobody can tell
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
		all := attempts{}
		for _, p := range index {
			if attempt := p.Annotations[wellknown.GangAttempt]; attempt != "" {
				at := [2]string{p.Namespace, attempt}
				all[at] = append(all[at], p)
			}
		}
		return all
	}
	return nil
}

// awaitedBy looks up what a gang comes after among all pods of the cluster's nodes.
func awaitedBy(g lifecycle.Gang, index map[string]*corev1.Pod, all attempts) []awaited {
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
				out = append(out, await(p.Namespace, attempt, all))
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
		return awaited{name: fmt.Sprintf("gang attempt %.40q", attempt), broken: "it has no pods on this cluster, or none any more"}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	first := facts(pods[0])
	a := awaited{name: "pod " + pods[0].Name, key: first.Intent, job: first.JobID}
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
		if a.broken != "" {
			return a
		}
	}
	if len(pods) != first.Size {
		a.broken = fmt.Sprintf("%d of its %d pods are there", len(pods), first.Size)
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
		case a.succeeded:
			p.State = lifecycle.Succeeded
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
