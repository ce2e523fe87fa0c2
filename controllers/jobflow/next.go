package jobflow

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/report"
)

// Keys on a Job that a flow made, as label and as annotation; the values are
// <namespace>.<name>.
const (
	byTemplate = "volcano.sh/createdByJobTemplate"
	byFlow     = "volcano.sh/createdByJobFlow"
)

// Input is everything that a decision rests on.
type Input struct {
	Flow *flow.JobFlow
	// Jobs are those that the flow controls, by name.
	Jobs map[string]*batch.Job
	// Templates are the JobTemplates of the namespace, by name.
	Templates map[string]*flow.JobTemplate
	// Answers are the results of questions: why one is not answered yet, "" when
	// it is. A question that was not asked yet is missing.
	Answers map[Question]string
	// Pods of each Job by its name, and Clusters are the BatchClusters of the virtual
	// nodes that they are bound to, by node; only for a flow that queues its steps early.
	Pods     map[string][]*corev1.Pod
	Clusters map[string]string
	// NamespaceQueue is the queue that the namespace gives to Jobs that name none, "" when
	// it gives none; it is read with the pods.
	NamespaceQueue string
	Now            time.Time

	void map[string]bool // Jobs that are to be taken back, see voids
}

// Question is an HTTP or TCP probe of a task of a Job.
type Question struct {
	Job, Task string
	Port      int
	// Path and the header are of HTTP; TCP says that a connection is enough.
	Path, Header, Value string
	TCP                 bool
}

// Output is what is to be done, in this order: creations, the status, deletions.
type Output struct {
	Create []*batch.Job
	Delete []*batch.Job
	// Settle are Jobs that were made early and have nothing to wait for any more: their
	// annotations After and AfterJobs go.
	Settle []*batch.Job
	// Ask are questions that are open; the caller asks them, and decides again.
	Ask     []Question
	Status  flow.JobFlowStatus
	Notices []report.Notice
}

// JobName is the name of the Job of a template in a flow: <flow>-<template>.
func JobName(flowName, template string) string { return flowName + "-" + template }

// Next decides about one JobFlow. For the same input it gives the same answer.
func Next(in Input) Output {
	out := Output{}
	f := in.Flow
	in.void, out.Settle = voids(in)
	out.status(in)
	problems := Validate(f)
	for _, p := range problems {
		out.Notices = append(out.Notices, report.Notice{Warning: true, Reason: "InvalidSpec", Message: p})
	}
	old := f.Status.State.Phase
	switch {
	case f.DeletionTimestamp != nil:
		out.Status.State.Phase = flow.Terminating
		return out
	case old == flow.Succeed:
		// A flow that is done stays done, also when its Jobs are deleted.
		out.Status = *f.Status.DeepCopy()
		out.cleanUp(in)
		return out
	case len(problems) > 0:
		return out
	}
	out.takeBack(in)
	switch {
	case out.Status.State.Phase == flow.Failed:
	case out.Status.State.Phase == flow.Succeed:
	default:
		for i := range f.Spec.Flows {
			out.start(in, &f.Spec.Flows[i])
		}
	}
	if phase := out.Status.State.Phase; phase != old && (phase == flow.Failed || phase == flow.Succeed) {
		text := "all jobs completed"
		if phase == flow.Failed {
			text = "these jobs did not complete: " + strings.Join(slices.Concat(out.Status.FailedJobs, out.Status.TerminatedJobs), ", ")
		}
		out.Notices = append(out.Notices, report.Notice{Warning: phase == flow.Failed, Reason: string(phase), Message: text})
	}
	return out
}

// start makes the Job of one step when it is time.
func (o *Output) start(in Input, step *flow.Flow) {
	name := JobName(in.Flow.Name, step.Name)
	if in.Jobs[name] != nil || slices.Contains(o.Status.CompletedJobs, name) {
		return
	}
	var first behind
	if !o.ready(in, step) {
		if !queuesEarly(in.Flow) {
			return
		}
		b, waits, never := o.early(in, step)
		switch {
		case waits:
			return
		case never != "":
			o.notEarly(name, never)
			return
		}
		first = b
	}
	template := in.Templates[step.Name]
	if template == nil {
		o.Notices = append(o.Notices, report.Notice{Warning: true, Reason: "JobTemplateNotFound",
			Message: fmt.Sprintf("job %s waits for a JobTemplate named %s in namespace %s", name, step.Name, in.Flow.Namespace)})
		return
	}
	spec, err := patched(&template.Spec, step.Patch)
	if err != nil {
		o.Notices = append(o.Notices, report.Notice{Warning: true, Reason: "InvalidPatch", Message: fmt.Sprintf("job %s: %s", name, err)})
		return
	}
	if ttl := spec.TTLSecondsAfterFinished; ttl != nil && *ttl < leastTTL {
		spec.TTLSecondsAfterFinished = ptr.To[int32](leastTTL)
	}
	marks := map[string]string{byTemplate: template.Namespace + "." + template.Name, byFlow: in.Flow.Namespace + "." + in.Flow.Name}
	labels, annotations := map[string]string{}, map[string]string{}
	for k, v := range marks {
		annotations[k] = v
		if len(validation.IsValidLabelValue(v)) == 0 {
			labels[k] = v
		}
	}
	if queuesEarly(in.Flow) {
		annotations[wellknown.QueueEarly] = "true"
	}
	job := &batch.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: in.Flow.Namespace, Name: name, Labels: labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(in.Flow, flow.SchemeGroupVersion.WithKind("JobFlow"))},
		},
		Spec: *spec,
	}
	if len(first.attempts) > 0 {
		if why := in.queueBehind(job, first); why != "" {
			o.notEarly(name, why)
			return
		}
	}
	o.Create = append(o.Create, job)
}

func (o *Output) notEarly(name, why string) {
	o.Notices = append(o.Notices, report.Notice{Reason: "NotQueuedEarly", Message: fmt.Sprintf("job %s is made once what it depends on has completed: %s", name, why)})
}

// takeBack deletes the Jobs that are void.
func (o *Output) takeBack(in Input) {
	for _, name := range slices.Sorted(maps.Keys(in.void)) {
		job := in.Jobs[name]
		if job.DeletionTimestamp != nil {
			continue
		}
		o.Delete = append(o.Delete, job)
		o.Notices = append(o.Notices, report.Notice{Reason: "TakenBack", Message: fmt.Sprintf("job %s was queued early, and what it depends on did not complete as it was: it has not started, and is made again when it is time", name)})
	}
}

// leastTTL is how many seconds a Job of a flow stays at least after its end, so that
// the flow sees how it ended.
const leastTTL = 60

// ready says that what a step depends on is there: its targets have completed,
// or, when it has a probe, answer it.
func (o *Output) ready(in Input, step *flow.Flow) bool {
	d := step.DependsOn
	if d == nil {
		return true
	}
	all := true
	for _, target := range d.Targets {
		name := JobName(in.Flow.Name, target)
		switch job := in.Jobs[name]; {
		case slices.Contains(o.Status.CompletedJobs, name):
		case job == nil, d.Probe == nil:
			all = false
		default:
			all = o.probed(in, step, job, d.Probe) && all
		}
	}
	return all
}

func (o *Output) probed(in Input, step *flow.Flow, job *batch.Job, p *flow.Probe) bool {
	var waits []string
	for _, s := range p.TaskStatusList {
		have, need := job.Status.TaskStatusCount[s.TaskName].Phase[phaseOf(s.Phase)], least(job, s.TaskName)
		if have < need {
			waits = append(waits, fmt.Sprintf("task %s has %d pods that are %s, and needs %d", s.TaskName, have, s.Phase, need))
		}
	}
	open := false
	ask := func(q Question) {
		q.Job = job.Name
		switch answer, asked := in.Answers[q]; {
		case !asked:
			o.Ask = append(o.Ask, q)
			open = true
		case answer != "":
			waits = append(waits, answer)
		}
	}
	for _, h := range p.HttpGetList {
		ask(Question{Task: h.TaskName, Port: h.Port, Path: h.Path, Header: h.HTTPHeader.Name, Value: h.HTTPHeader.Value})
	}
	for _, s := range p.TcpSocketList {
		ask(Question{Task: s.TaskName, Port: s.Port, TCP: true})
	}
	if len(waits) > 0 {
		o.Notices = append(o.Notices, report.Notice{Reason: "WaitingForProbe",
			Message: fmt.Sprintf("job %s waits for job %s: %s", JobName(in.Flow.Name, step.Name), job.Name, strings.Join(waits, "; "))})
	}
	return !open && len(waits) == 0
}

// status is what the Jobs add up to.
func (o *Output) status(in Input) {
	st := (*status)(&o.Status)
	f := in.Flow
	previous := map[string]flow.JobStatus{}
	for _, s := range f.Status.JobStatusList {
		previous[s.Name] = s
	}
	st.Conditions = map[string]flow.Condition{}
	for i := range f.Spec.Flows {
		name := JobName(f.Name, f.Spec.Flows[i].Name)
		job := in.Jobs[name]
		if job == nil || in.void[name] {
			st.remember(in, &f.Spec.Flows[i], previous[name])
			continue
		}
		phase := job.Status.State.Phase
		switch phase {
		case batch.Pending, "":
			st.PendingJobs = append(st.PendingJobs, name)
		case batch.Completed:
			st.CompletedJobs = append(st.CompletedJobs, name)
		case batch.Failed:
			st.FailedJobs = append(st.FailedJobs, name)
		case batch.Terminated, batch.Aborted:
			st.TerminatedJobs = append(st.TerminatedJobs, name)
		case batch.Running, batch.Restarting, batch.Completing, batch.Terminating, batch.Aborting:
			st.RunningJobs = append(st.RunningJobs, name)
		default:
			st.UnKnowJobs = append(st.UnKnowJobs, name)
		}
		st.JobStatusList = append(st.JobStatusList, ofJob(job, previous[name]))
		st.Conditions[name] = flow.Condition{Phase: phase, CreateTimestamp: job.CreationTimestamp,
			RunningDuration: job.Status.RunningDuration, TaskStatusCount: job.Status.TaskStatusCount}
	}
	if len(st.Conditions) == 0 {
		st.Conditions = nil
	}
	// A Job that was suspended may be resumed: it does not fail the flow.
	failed := len(st.FailedJobs) > 0 || slices.ContainsFunc(st.TerminatedJobs, func(name string) bool {
		return in.Jobs[name] == nil || in.Jobs[name].Status.State.Phase == batch.Terminated
	})
	switch {
	case failed:
		st.State.Phase = flow.Failed
	case len(f.Spec.Flows) > 0 && len(st.CompletedJobs) == len(f.Spec.Flows):
		st.State.Phase = flow.Succeed
	case len(st.RunningJobs)+len(st.CompletedJobs) > 0:
		st.State.Phase = flow.Running
	default:
		st.State.Phase = flow.Pending
	}
}

// status is a flow's, in the making.
type status flow.JobFlowStatus

// remember keeps what is on record of a Job that is gone. One that completed has
// completed, whoever deleted it. One that failed and was deleted is made anew, unless
// it had a time to live: then nobody asked for another try.
func (st *status) remember(in Input, step *flow.Flow, before flow.JobStatus) {
	name := JobName(in.Flow.Name, step.Name)
	switch before.State {
	case batch.Completed:
		st.CompletedJobs = append(st.CompletedJobs, name)
	case batch.Failed, batch.Terminated:
		if !expires(in, step) {
			return
		}
		if before.State == batch.Failed {
			st.FailedJobs = append(st.FailedJobs, name)
		} else {
			st.TerminatedJobs = append(st.TerminatedJobs, name)
		}
	default:
		return
	}
	st.JobStatusList = append(st.JobStatusList, before)
	if c, ok := in.Flow.Status.Conditions[name]; ok {
		st.Conditions[name] = c
	}
}

// expires says that the Job of a step is removed by itself some time after its end.
func expires(in Input, step *flow.Flow) bool {
	if step.Patch != nil && step.Patch.TTLSecondsAfterFinished != nil {
		return true
	}
	template := in.Templates[step.Name]
	return template != nil && template.Spec.TTLSecondsAfterFinished != nil
}

// maxHistories bounds the history of one Job.
const maxHistories = 32

// ofJob is a Job's line in the status; its history grows when its phase changes.
func ofJob(job *batch.Job, before flow.JobStatus) flow.JobStatus {
	st := before
	st.Name, st.State, st.RestartCount = job.Name, job.Status.State.Phase, job.Status.RetryCount
	st.StartTimestamp = job.CreationTimestamp
	st.EndTimestamp = metav1.Time{}
	since := job.Status.State.LastTransitionTime
	switch job.Status.State.Phase {
	case batch.Completed, batch.Failed, batch.Terminated:
		st.EndTimestamp = since
	}
	n := len(st.RunningHistories)
	if job.Status.State.Phase != "" && (n == 0 || st.RunningHistories[n-1].State != job.Status.State.Phase) {
		st.RunningHistories = slices.Clone(st.RunningHistories)
		if n > 0 {
			st.RunningHistories[n-1].EndTimestamp = since
		}
		st.RunningHistories = append(st.RunningHistories, flow.JobRunningHistory{StartTimestamp: since, State: job.Status.State.Phase})
		if extra := len(st.RunningHistories) - maxHistories; extra > 0 {
			st.RunningHistories = st.RunningHistories[extra:]
		}
	}
	return st
}

// cleanUp deletes the Jobs of a flow that succeeded, when it says so. It waits
// until the success is on record.
func (o *Output) cleanUp(in Input) {
	if in.Flow.Spec.JobRetainPolicy != flow.Delete {
		return
	}
	for i := range in.Flow.Spec.Flows {
		if job := in.Jobs[JobName(in.Flow.Name, in.Flow.Spec.Flows[i].Name)]; job != nil && job.DeletionTimestamp == nil {
			o.Delete = append(o.Delete, job)
		}
	}
}

// Validate says what in a flow can never work.
func Validate(f *flow.JobFlow) []string {
	var out []string
	if v, ok := f.Annotations[wellknown.QueueEarly]; ok && v != "true" && v != "false" {
		out = append(out, fmt.Sprintf("metadata.annotations[%s]: Unsupported value: %q: supported values: \"true\", \"false\"", wellknown.QueueEarly, v))
	}
	known := map[string]int{}
	for i := range f.Spec.Flows {
		step := &f.Spec.Flows[i]
		if _, twice := known[step.Name]; twice {
			out = append(out, fmt.Sprintf("spec.flows[%d].name: Duplicate value: %q", i, step.Name))
		}
		known[step.Name] = i
		for _, msg := range validation.IsDNS1123Subdomain(JobName(f.Name, step.Name)) {
			out = append(out, fmt.Sprintf("spec.flows[%d].name: Invalid value: %q: the Job would be named %s: %s", i, step.Name, JobName(f.Name, step.Name), msg))
		}
	}
	for i := range f.Spec.Flows {
		d := f.Spec.Flows[i].DependsOn
		if d == nil {
			continue
		}
		for j, target := range d.Targets {
			if _, ok := known[target]; !ok {
				out = append(out, fmt.Sprintf("spec.flows[%d].dependsOn.targets[%d]: Not found: %q", i, j, target))
			}
		}
	}
	for i := range f.Spec.Flows {
		seen, todo := map[int]bool{}, []int{i}
		for len(todo) > 0 {
			d := f.Spec.Flows[todo[0]].DependsOn
			todo = todo[1:]
			if d == nil {
				continue
			}
			for _, target := range d.Targets {
				if next, ok := known[target]; ok && !seen[next] {
					seen[next] = true
					todo = append(todo, next)
				}
			}
		}
		if seen[i] {
			return append(out, fmt.Sprintf("spec.flows[%d].dependsOn: Invalid value: %q: the step depends on itself, directly or through others", i, f.Spec.Flows[i].Name))
		}
	}
	return out
}
