package cronjob

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

// hourly is a CronJob made at ten past nine.
func hourly() *batch.CronJob {
	return &batch.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cj", UID: "u", CreationTimestamp: metav1.NewTime(at("2026-03-01T09:10:00Z"))},
		Spec:       batch.CronJobSpec{Schedule: "0 * * * *"},
	}
}

func job(name string, phase batch.JobPhase, ended string) *batch.Job {
	j := &batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	j.Status.State.Phase = phase
	if ended != "" {
		j.Status.State.LastTransitionTime = metav1.NewTime(at(ended))
		j.CreationTimestamp = metav1.NewTime(at(ended).Add(-time.Minute))
	}
	return j
}

func TestNext(t *testing.T) {
	t.Parallel()
	minutes := func(text string) string { return fmt.Sprintf("cj-%d", at(text).Unix()/60) }
	for name, tt := range map[string]struct {
		edit    func(*batch.CronJob)
		jobs    []*batch.Job
		now     string
		create  string // name of the Job
		deleted string // names
		notice  string
		wake    time.Duration
	}{
		"too early":           {now: "2026-03-01T09:40:00Z", wake: 20 * time.Minute},
		"on time":             {now: "2026-03-01T10:00:00Z", create: minutes("2026-03-01T10:00:00Z"), wake: time.Hour},
		"a little late":       {now: "2026-03-01T10:00:07Z", create: minutes("2026-03-01T10:00:00Z"), wake: time.Hour - 7*time.Second},
		"the last of many":    {now: "2026-03-03T18:30:00Z", create: minutes("2026-03-03T18:00:00Z"), wake: 30 * time.Minute},
		"after a year":        {now: "2027-03-03T18:30:00Z", create: minutes("2027-03-03T18:00:00Z"), wake: 30 * time.Minute},
		"made already":        {edit: scheduled("2026-03-01T10:00:00Z"), now: "2026-03-01T10:30:00Z", wake: 30 * time.Minute},
		"made, not on record": {jobs: []*batch.Job{job(minutes("2026-03-01T10:00:00Z"), batch.Running, "")}, now: "2026-03-01T10:30:00Z", wake: 30 * time.Minute},
		"suspended":           {edit: func(c *batch.CronJob) { c.Spec.Suspend = ptr.To(true) }, now: "2026-03-01T10:00:00Z"},
		"within the deadline": {edit: deadline(60), now: "2026-03-01T10:00:59Z", create: minutes("2026-03-01T10:00:00Z"), wake: time.Hour - 59*time.Second},
		"past the deadline":   {edit: deadline(60), now: "2026-03-01T10:01:01Z", notice: "MissSchedule", wake: time.Hour - 61*time.Second},
		"allow":               {jobs: []*batch.Job{job("old", batch.Running, "")}, now: "2026-03-01T10:00:00Z", create: minutes("2026-03-01T10:00:00Z"), wake: time.Hour},
		"forbid":              {edit: policy(batch.ForbidConcurrent), jobs: []*batch.Job{job("old", batch.Running, "")}, now: "2026-03-01T10:00:00Z", notice: "JobAlreadyActive", wake: time.Hour},
		"forbid, one that ended": {edit: policy(batch.ForbidConcurrent), jobs: []*batch.Job{job("old", batch.Failed, "2026-03-01T09:30:00Z")}, now: "2026-03-01T10:00:00Z",
			create: minutes("2026-03-01T10:00:00Z"), wake: time.Hour},
		"forbid, one that is suspended": {edit: policy(batch.ForbidConcurrent), jobs: []*batch.Job{job("old", batch.Aborted, "")}, now: "2026-03-01T10:00:00Z",
			create: minutes("2026-03-01T10:00:00Z"), wake: time.Hour},
		"replace": {edit: policy(batch.ReplaceConcurrent), jobs: []*batch.Job{job("old", batch.Pending, ""), job("done", batch.Completed, "2026-03-01T09:30:00Z")}, now: "2026-03-01T10:00:00Z",
			create: minutes("2026-03-01T10:00:00Z"), deleted: "old", wake: time.Hour},
		"time zone":          {edit: zone("Asia/Kolkata"), now: "2026-03-01T09:30:00Z", create: minutes("2026-03-01T09:30:00Z"), wake: time.Hour},
		"daylight saving":    {edit: daily("Europe/Berlin", "30 2 * * *"), now: "2026-03-29T12:00:00Z", create: minutes("2026-03-28T01:30:00Z"), wake: 12*time.Hour + 30*time.Minute},
		"no such zone":       {edit: zone("Mars/Base"), now: "2026-03-01T10:00:00Z", notice: "InvalidSchedule"},
		"zone in schedule":   {edit: func(c *batch.CronJob) { c.Spec.Schedule = "CRON_TZ=UTC 0 * * * *" }, now: "2026-03-01T10:00:00Z", notice: "InvalidSchedule"},
		"no schedule":        {edit: func(c *batch.CronJob) { c.Spec.Schedule = "at noon" }, now: "2026-03-01T10:00:00Z", notice: "InvalidSchedule"},
		"never":              {edit: func(c *batch.CronJob) { c.Spec.Schedule = "0 0 30 2 *" }, now: "2026-03-01T10:00:00Z", notice: "InvalidSchedule"},
		"name too long":      {edit: func(c *batch.CronJob) { c.Name = strings.Repeat("x", 60) }, now: "2026-03-01T10:00:00Z", notice: "InvalidSchedule"},
		"history by default": {edit: scheduled("2026-03-01T10:00:00Z"), now: "2026-03-01T10:30:00Z", jobs: past(5), deleted: "f0 f1 f2 f3 s0 s1", wake: 30 * time.Minute},
		"history of none": {edit: func(c *batch.CronJob) {
			scheduled("2026-03-01T10:00:00Z")(c)
			c.Spec.SuccessfulJobsHistoryLimit, c.Spec.FailedJobsHistoryLimit = ptr.To[int32](0), ptr.To[int32](0)
		}, now: "2026-03-01T10:30:00Z", jobs: past(2), deleted: "f0 f1 s0 s1", wake: 30 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cj := hourly()
			if tt.edit != nil {
				tt.edit(cj)
			}
			now := at(tt.now)
			out := Next(Input{CronJob: cj, Jobs: tt.jobs, Now: now})
			created := ""
			if out.Create != nil {
				created = out.Create.Name
				if !metav1.IsControlledBy(out.Create, cj) || out.Status.LastScheduleTime == nil {
					t.Errorf("%+v, %+v", out.Create.ObjectMeta, out.Status)
				}
				if due := at(out.Create.Annotations[batch.CronJobScheduledTimestampAnnotation]); !due.Equal(out.Status.LastScheduleTime.Time) || due.After(now) {
					t.Errorf("due %s, status %s", due, out.Status.LastScheduleTime)
				}
			}
			var deleted []string
			for _, j := range out.Delete {
				deleted = append(deleted, j.Name)
			}
			slices.Sort(deleted)
			notice := ""
			for _, n := range out.Notices {
				notice += n.Reason
			}
			if created != tt.create || strings.Join(deleted, " ") != tt.deleted || notice != tt.notice || out.RequeueAfter != tt.wake {
				t.Errorf("creates %q, deletes %q, says %q, wakes in %s; want %q, %q, %q, %s", created, deleted, notice, out.RequeueAfter, tt.create, tt.deleted, tt.notice, tt.wake)
			}
		})
	}
}

func scheduled(text string) func(*batch.CronJob) {
	return func(c *batch.CronJob) { c.Status.LastScheduleTime = ptr.To(metav1.NewTime(at(text))) }
}

func deadline(seconds int64) func(*batch.CronJob) {
	return func(c *batch.CronJob) { c.Spec.StartingDeadlineSeconds = &seconds }
}

func policy(p batch.ConcurrencyPolicy) func(*batch.CronJob) {
	return func(c *batch.CronJob) { c.Spec.ConcurrencyPolicy = p }
}

func zone(name string) func(*batch.CronJob) {
	return func(c *batch.CronJob) { c.Spec.TimeZone = &name }
}

// daily is a schedule in a zone whose last time is one that the clock skips on
// the day when summer time begins.
func daily(name, schedule string) func(*batch.CronJob) {
	return func(c *batch.CronJob) {
		c.Spec.TimeZone, c.Spec.Schedule = &name, schedule
		c.CreationTimestamp = metav1.NewTime(at("2026-03-20T00:00:00Z"))
	}
}

// past is n successful and n failed Jobs.
func past(n int) []*batch.Job {
	var out []*batch.Job
	for i := range n {
		out = append(out, job(fmt.Sprint("s", i), batch.Completed, fmt.Sprintf("2026-03-01T0%d:00:00Z", i)),
			job(fmt.Sprint("f", i), batch.Failed, fmt.Sprintf("2026-03-01T0%d:30:00Z", i)))
	}
	return out
}

func TestStatus(t *testing.T) {
	t.Parallel()
	cj := hourly()
	out := Next(Input{CronJob: cj, Now: at("2026-03-01T10:00:00Z"), Jobs: append(past(2), job("b", batch.Running, ""), job("a", batch.Pending, ""))})
	var names []string
	for _, a := range out.Status.Active {
		names = append(names, a.Name)
	}
	if got := strings.Join(names, " "); got != "a b "+out.Create.Name {
		t.Errorf("active %s", got)
	}
	if last := out.Status.LastSuccessfulTime; last == nil || !last.Equal(ptr.To(metav1.NewTime(at("2026-03-01T01:00:00Z")))) {
		t.Errorf("last success %v", last)
	}
}

// Over any run of passes, crashes and clocks: no time has two Jobs, none is
// before its time, and under Forbid and Replace no two run.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cj := hourly()
		cj.Spec.Schedule = rapid.SampledFrom([]string{"* * * * *", "*/7 * * * *", "0 * * * *", "@every 90s"}).Draw(t, "schedule")
		cj.Spec.ConcurrencyPolicy = rapid.SampledFrom([]batch.ConcurrencyPolicy{batch.AllowConcurrent, batch.ForbidConcurrent, batch.ReplaceConcurrent}).Draw(t, "policy")
		now := cj.CreationTimestamp.Time
		var jobs []*batch.Job
		made := map[string]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "seconds")) * time.Second)
			for _, j := range jobs {
				if !ended(j) && rapid.Bool().Draw(t, "ends") {
					j.Status.State = batch.JobState{Phase: rapid.SampledFrom([]batch.JobPhase{batch.Completed, batch.Failed}).Draw(t, "how"), LastTransitionTime: metav1.NewTime(now)}
				}
			}
			out := Next(Input{CronJob: cj, Jobs: jobs, Now: now})
			if rapid.IntRange(0, 5).Draw(t, "crash") == 0 {
				continue
			}
			jobs = slices.DeleteFunc(jobs, func(j *batch.Job) bool { return slices.Contains(out.Delete, j) })
			if c := out.Create; c != nil {
				if made[c.Name] && slices.ContainsFunc(jobs, func(j *batch.Job) bool { return j.Name == c.Name }) {
					t.Fatalf("%s is made twice", c.Name)
				}
				made[c.Name] = true
				c.CreationTimestamp = metav1.NewTime(now)
				jobs = append(jobs, c)
			}
			running := 0
			for _, j := range jobs {
				if !ended(j) {
					running++
				}
			}
			if running > 1 && cj.Spec.ConcurrencyPolicy != batch.AllowConcurrent {
				t.Fatalf("%d run under %s", running, cj.Spec.ConcurrencyPolicy)
			}
			if rapid.IntRange(0, 5).Draw(t, "crash before the status") != 0 {
				cj.Status = out.Status
			}
		}
	})
}
