package machine

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// The reasons that a status may show beside the names of Volcano's events. They
// and their sentences are the whole of what a user reads about a job.
const (
	reasonInvalid    = "InvalidSpec"
	reasonQueued     = "PodGroupPending"
	reasonScheduling = "PodsNotScheduled"
	reasonStarting   = "PodsNotRunning"
	reasonReplacing  = "WaitingForOldPods"
	reasonTaken      = "NameTaken"

	reasonTooMuch     = "RetriesUsedUp"
	reasonTasksFailed = "TasksFailed"
	reasonMinSuccess  = "MinSuccessReached"
	reasonSucceeded   = "PodsSucceeded"
	reasonPending     = "PodsPending"
	reasonDepends     = "WaitingForTasks"
	reasonDependLost  = "DependencyFailed"
)

// transit is the table of transitions that follow from the counts alone.
func (p *pass) transit(c counts) (batch.JobPhase, Reason) {
	job, st := p.job, &p.out.Status
	least := int64(job.Spec.MinAvailable)
	total := totalReplicas(job)
	switch phase := st.State.Phase; phase {
	case batch.Pending:
		if int64(c.running)+int64(c.succeeded)+int64(c.failed) >= least {
			return batch.Running, Reason{}
		}
		if why, lost := p.dependencyLost(c); lost {
			return batch.Failed, why
		}
	case batch.Running:
		return p.running(c, total, least)
	case batch.Restarting:
		if st.RetryCount >= job.Spec.MaxRetry {
			return batch.Failed, Reason{reasonTooMuch,
				withCause(fmt.Sprintf("the job was restarted as often as maxRetry (%d) allows", job.Spec.MaxRetry), st.State.Message)}
		}
		if total-int64(c.terminating) >= least {
			return batch.Pending, Reason{}
		}
	case batch.Aborting, batch.Completing, batch.Terminating:
		if c.terminating == 0 && c.pending == 0 && c.running == 0 {
			return map[batch.JobPhase]batch.JobPhase{
				batch.Aborting: batch.Aborted, batch.Completing: batch.Completed, batch.Terminating: batch.Terminated,
			}[phase], Reason{st.State.Reason, st.State.Message}
		}
	}
	return st.State.Phase, Reason{}
}

func withCause(text, cause string) string {
	if cause == "" {
		return text
	}
	return text + "; the last time because " + cause
}

// running judges a running job; the order of the questions is part of the API.
func (p *pass) running(c counts, total, least int64) (batch.JobPhase, Reason) {
	job := p.job
	if total == 0 {
		return batch.Running, Reason{} // scaled to zero
	}
	minSuccess := job.Spec.MinSuccess
	if minSuccess != nil && c.succeeded >= *minSuccess {
		return batch.Completed, Reason{reasonMinSuccess, fmt.Sprintf("%d pods succeeded, minSuccess is %d", c.succeeded, *minSuccess)}
	}
	if int64(c.succeeded)+int64(c.failed) >= total {
		if least >= sumOfTaskMins(job) {
			for i := range job.Spec.Tasks {
				task := &job.Spec.Tasks[i]
				if c.succeededOf[task.Name] < *task.MinAvailable {
					return batch.Failed, Reason{reasonTasksFailed, p.failure(fmt.Sprintf(
						"task %s: %d of %d pods succeeded, minAvailable is %d", task.Name, c.succeededOf[task.Name], task.Replicas, *task.MinAvailable))}
				}
			}
		}
		if minSuccess != nil {
			return batch.Failed, Reason{reasonTasksFailed, p.failure(fmt.Sprintf("%d pods succeeded, minSuccess is %d", c.succeeded, *minSuccess))}
		}
		if int64(c.succeeded) >= least {
			return batch.Completed, Reason{reasonSucceeded, fmt.Sprintf("%d of %d pods succeeded", c.succeeded, total)}
		}
		return batch.Failed, Reason{reasonTasksFailed, p.failure(fmt.Sprintf("%d of %d pods succeeded, minAvailable is %d", c.succeeded, total, least))}
	}
	if why, lost := p.dependencyLost(c); lost {
		return batch.Failed, why
	}
	if int64(c.pending) > total-least {
		return batch.Pending, Reason{reasonPending, fmt.Sprintf("%d of %d pods are pending again, minAvailable is %d", c.pending, total, least)}
	}
	return batch.Running, Reason{}
}

// dependencyLost says that nothing runs and that the task which is next waits for
// what cannot come any more: nobody would ever create its pods.
func (p *pass) dependencyLost(c counts) (Reason, bool) {
	if c.pending+c.running+c.terminating+c.unknown > 0 {
		return Reason{}, false
	}
	for i := range p.job.Spec.Tasks {
		if name := p.job.Spec.Tasks[i].Name; p.release.lost[name] {
			return Reason{reasonDependLost, p.failure(p.release.wait[name] + ", which will not come")}, true
		}
	}
	return Reason{}, false
}

// failure adds how the first failed pod ended.
func (p *pass) failure(text string) string {
	var first *happening
	for i := range p.members {
		m := &p.members[i]
		for _, h := range ofPod(m) {
			if len(h.codes) > 0 && (first == nil || h.at.Before(first.at)) {
				first = &h
			}
		}
	}
	if first == nil {
		return text
	}
	return text + "; " + first.text
}

// explain sets the reason and message of the state and the notices.
func (p *pass) explain(why Reason, moved bool) {
	st, old := &p.out.Status, &p.in.Job.Status
	switch {
	case len(p.in.Problems) > 0:
		why = Reason{reasonInvalid, p.problems()}
	case p.in.Trouble != nil && active(st.State.Phase):
		why = *p.in.Trouble
	case !moved && !active(st.State.Phase):
		why = Reason{st.State.Reason, st.State.Message}
	case why == Reason{} && (st.State.Phase == batch.Pending || len(p.in.Taken) > 0 && active(st.State.Phase)):
		why = p.waiting()
	}
	st.State.Reason, st.State.Message = why.Reason, why.Message
	if moved && old.State.Phase != "" {
		bad := st.State.Phase == batch.Failed || st.State.Phase == batch.Restarting ||
			killing(st.State.Phase) && st.State.Phase != batch.Completing
		text := fmt.Sprintf("the job is %s", st.State.Phase)
		if why.Message != "" {
			text += ": " + why.Message
		}
		p.out.Notices = append(p.out.Notices, Notice{Warning: bad, Reason: Reason{string(st.State.Phase), text}})
	}
	worth := len(p.in.Problems) > 0 || p.in.Trouble != nil || why.Reason == reasonTaken || p.keptOut()
	if worth && (old.State.Reason != why.Reason || old.State.Message != why.Message) {
		p.out.Notices = append(p.out.Notices, Notice{Warning: true, Reason: why})
	}
}

func (p *pass) problems() string {
	const most = 5
	var parts []string
	for i, err := range p.in.Problems {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(p.in.Problems)-most))
			break
		}
		parts = append(parts, err.Error())
	}
	return strings.Join(parts, "; ") + ". No pods are created until the job is corrected"
}

// waiting says what an unfinished job waits for.
func (p *pass) waiting() Reason {
	pg := p.in.PodGroup
	if len(p.in.Taken) > 0 {
		names := make([]string, 0, len(p.in.Taken))
		for name := range p.in.Taken {
			names = append(names, name)
		}
		slices.Sort(names)
		return Reason{reasonTaken, fmt.Sprintf("%d of the pods cannot be created until others of the same name are gone: %s is %s",
			len(names), names[0], p.in.Taken[names[0]])}
	}
	if p.keptOut() {
		return *p.in.QueueTrouble
	}
	if pg == nil || pg.DeletionTimestamp != nil || versionOf(pg.Annotations) != p.out.Status.Version {
		return Reason{reasonQueued, fmt.Sprintf("the PodGroup is being created in queue %s", p.job.Spec.Queue)}
	}
	if !admitted(pg) {
		return Reason{reasonQueued, withHint(fmt.Sprintf("waits for scheduler %s to admit PodGroup %s to queue %s",
			p.job.Spec.SchedulerName, pg.Name, p.job.Spec.Queue), pg)}
	}
	var old, unbound, bound int
	for i := range p.members {
		switch m := &p.members[i]; {
		case m.terminating():
			old++
		case m.pod.Spec.NodeName == "":
			unbound++
		case !m.finished():
			bound++
		}
	}
	switch {
	case unbound > 0:
		return Reason{reasonScheduling, withHint(fmt.Sprintf("%d pods wait to be scheduled", unbound), pg)}
	case old > 0:
		return Reason{reasonReplacing, fmt.Sprintf("%d earlier pods are still ending", old)}
	case p.release.first(p.job) != "":
		return Reason{reasonDepends, p.release.first(p.job)}
	case bound > 0:
		return Reason{reasonStarting, "the pods are scheduled and wait to run"}
	}
	return Reason{reasonScheduling, withHint("the pods are being created", pg)}
}

// withHint adds what the scheduler says about the PodGroup.
func withHint(text string, pg *scheduling.PodGroup) string {
	for i := len(pg.Status.Conditions) - 1; i >= 0; i-- {
		c := &pg.Status.Conditions[i]
		if c.Type == scheduling.PodGroupUnschedulableType && c.Status == "True" && c.Message != "" {
			return text + ": " + c.Message
		}
	}
	return text
}

// samePodGroup compares a PodGroup's spec with what it is to be. Sub-groups that
// the job does not ask for are somebody else's.
func samePodGroup(have, want *scheduling.PodGroupSpec) bool {
	h := *have
	if len(want.SubGroupPolicy) == 0 {
		h.SubGroupPolicy = nil
	}
	return equality.Semantic.DeepEqual(&h, want)
}
