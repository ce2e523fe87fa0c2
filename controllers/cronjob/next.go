package cronjob

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/report"
)

// Input is everything that a decision rests on.
type Input struct {
	CronJob *batch.CronJob
	// Jobs are those that the CronJob controls.
	Jobs []*batch.Job
	Now  time.Time
}

// Output is what is to be done, in this order: deletions, the creation, the
// status.
type Output struct {
	Delete []*batch.Job
	Create *batch.Job // nil for none
	Status batch.CronJobStatus
	// RequeueAfter is how long until time alone changes the answer; 0 is never.
	RequeueAfter time.Duration
	Notices      []report.Notice
}

// The defaults of the CRD, for objects that were stored without it.
const (
	successfulLimit = 3
	failedLimit     = 1
)

// maxName leaves room for the time: the pods of the Job are labelled with its name.
const maxName = validation.LabelValueMaxLength - 11

// Next decides about one CronJob. For the same input it gives the same answer.
func Next(in Input) (out Output) {
	cj := in.CronJob
	out.Status = *cj.Status.DeepCopy()
	jobs := slices.Clone(in.Jobs)
	slices.SortFunc(jobs, func(a, b *batch.Job) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	out.history(cj, jobs)
	defer func() { out.Status.Active = active(jobs, out.Delete, out.Create) }()
	if cj.DeletionTimestamp != nil {
		return out
	}
	schedule, err := parse(cj)
	if err != nil {
		out.warn("InvalidSchedule", err.Error())
		return out
	}
	if ptr.Deref(cj.Spec.Suspend, false) {
		return out
	}
	out.wake(schedule.Next(in.Now).Sub(in.Now))
	due, deadline := lastDue(cj, schedule, in.Now)
	if due.IsZero() {
		return out
	}
	if !deadline.IsZero() && in.Now.After(deadline) {
		out.warn("MissSchedule", fmt.Sprintf("missed the time %s by more than startingDeadlineSeconds (%d)", due.Format(time.RFC3339), *cj.Spec.StartingDeadlineSeconds))
		return out
	}
	job := newJob(cj, due)
	if slices.ContainsFunc(jobs, func(j *batch.Job) bool { return j.Name == job.Name }) {
		out.Status.LastScheduleTime = ptr.To(metav1.NewTime(due)) // made before the status could be written
		return out
	}
	running := slices.DeleteFunc(slices.Clone(jobs), func(j *batch.Job) bool { return ended(j) || j.DeletionTimestamp != nil })
	switch {
	case len(running) == 0:
	case cj.Spec.ConcurrencyPolicy == batch.ForbidConcurrent:
		// The time is not over: when the Job ends before the next one, and in time
		// for the deadline, it is made up for.
		out.Notices = append(out.Notices, report.Notice{Reason: "JobAlreadyActive",
			Message: fmt.Sprintf("Job %s still runs at %s, and concurrencyPolicy is Forbid", running[0].Name, due.Format(time.RFC3339))})
		return out
	case cj.Spec.ConcurrencyPolicy == batch.ReplaceConcurrent:
		out.Delete = append(out.Delete, running...)
	}
	out.Create = job
	out.Status.LastScheduleTime = ptr.To(metav1.NewTime(due))
	return out
}

func (o *Output) warn(reason, message string) {
	o.Notices = append(o.Notices, report.Notice{Warning: true, Reason: reason, Message: message})
}

func (o *Output) wake(after time.Duration) {
	o.RequeueAfter = max(after, time.Millisecond)
}

// parse reads schedule and time zone. Without a zone, times are UTC.
func parse(cj *batch.CronJob) (cron.Schedule, error) {
	text := cj.Spec.Schedule
	if strings.Contains(text, "TZ=") {
		return nil, fmt.Errorf("spec.schedule: Invalid value: %q: must not hold a time zone; set spec.timeZone", text)
	}
	zone := time.UTC
	if name := ptr.Deref(cj.Spec.TimeZone, ""); name != "" {
		z, err := time.LoadLocation(name)
		if err != nil || name == "Local" {
			return nil, fmt.Errorf("spec.timeZone: Invalid value: %q: is no time zone of the IANA database", name)
		}
		zone = z
	}
	s, err := cron.ParseStandard(text)
	if err != nil {
		return nil, fmt.Errorf("spec.schedule: Invalid value: %q: %w", text, err)
	}
	if len(cj.Name) > maxName {
		return nil, fmt.Errorf("metadata.name: Invalid value: %q: must have at most %d characters, since Jobs are named after it and their time", cj.Name, maxName)
	}
	if s.Next(time.Unix(0, 0)).IsZero() {
		return nil, errors.New("spec.schedule: Invalid value: there is no time that it names")
	}
	return zoned{s, zone}, nil
}

// Validate says what is wrong with the schedule, the time zone or the name of a
// CronJob: the first thing that is.
func Validate(cj *batch.CronJob) error {
	_, err := parse(cj)
	return err
}

type zoned struct {
	cron.Schedule
	zone *time.Location
}

// Next is the next time in the schedule's zone.
func (z zoned) Next(t time.Time) time.Time { return z.Schedule.Next(t.In(z.zone)) }

// lastDue is the last time of the schedule that is due and has no Job, zero when
// there is none. Of several that were missed only the last is made up for, as
// Kubernetes does it.
func lastDue(cj *batch.CronJob, s cron.Schedule, now time.Time) (due, deadline time.Time) {
	since := cj.CreationTimestamp.Time
	if last := cj.Status.LastScheduleTime; last != nil {
		since = last.Time
	}
	// The search starts near: a schedule of seconds that slept for a year is not
	// counted through.
	for _, back := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 32 * 24 * time.Hour, 367 * 24 * time.Hour, now.Sub(since)} {
		from := now.Add(-back)
		if from.Before(since) {
			from = since
		}
		for t := s.Next(from); !t.IsZero() && !t.After(now); t = s.Next(t) {
			due = t
		}
		if !due.IsZero() || from.Equal(since) {
			break
		}
	}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil && !due.IsZero() {
		deadline = due.Add(time.Duration(*d) * time.Second)
	}
	return due, deadline
}

// newJob is the Job of a time: <cronjob>-<minutes since 1970>.
func newJob(cj *batch.CronJob, due time.Time) *batch.Job {
	t := cj.Spec.JobTemplate.DeepCopy()
	annotations := map[string]string{}
	maps.Copy(annotations, t.Annotations)
	annotations[batch.CronJobScheduledTimestampAnnotation] = due.Format(time.RFC3339)
	return &batch.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       cj.Namespace,
			Name:            fmt.Sprintf("%s-%d", cj.Name, due.Unix()/60),
			Labels:          t.Labels,
			Annotations:     annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, batch.SchemeGroupVersion.WithKind("CronJob"))},
		},
		Spec: t.Spec,
	}
}

// ended says that nothing of a Job runs or will run by itself. A suspended one is
// ended for the schedule, and kept, since its user may resume it.
func ended(j *batch.Job) bool {
	switch j.Status.State.Phase {
	case batch.Completed, batch.Failed, batch.Terminated, batch.Aborted:
		return true
	}
	return false
}

// history notes the last success and drops finished Jobs above the limits,
// oldest first.
func (o *Output) history(cj *batch.CronJob, jobs []*batch.Job) {
	var good, bad []*batch.Job
	for _, j := range jobs {
		if j.DeletionTimestamp != nil {
			continue
		}
		switch j.Status.State.Phase {
		case batch.Completed:
			good = append(good, j)
			at := j.Status.State.LastTransitionTime
			if last := o.Status.LastSuccessfulTime; !at.IsZero() && (last == nil || last.Before(&at)) {
				o.Status.LastSuccessfulTime = &at
			}
		case batch.Failed, batch.Terminated:
			bad = append(bad, j)
		}
	}
	drop := func(list []*batch.Job, limit int32) {
		if n := len(list) - int(max(0, limit)); n > 0 {
			o.Delete = append(o.Delete, list[:n]...)
		}
	}
	drop(good, ptr.Deref(cj.Spec.SuccessfulJobsHistoryLimit, successfulLimit))
	drop(bad, ptr.Deref(cj.Spec.FailedJobsHistoryLimit, failedLimit))
}

// active lists the Jobs that run, by name.
func active(jobs, deleted []*batch.Job, created *batch.Job) []corev1.ObjectReference {
	var out []corev1.ObjectReference
	for _, j := range jobs {
		if !ended(j) && j.DeletionTimestamp == nil && !slices.Contains(deleted, j) {
			out = append(out, reference(j))
		}
	}
	if created != nil {
		out = append(out, reference(created))
	}
	slices.SortFunc(out, func(a, b corev1.ObjectReference) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func reference(j *batch.Job) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: batch.SchemeGroupVersion.String(), Kind: "Job", Namespace: j.Namespace, Name: j.Name, UID: j.UID}
}
