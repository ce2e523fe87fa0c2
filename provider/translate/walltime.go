package translate

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// deadlineMargin is added to a pod's activeDeadlineSeconds and grace, so that the
// pod's own deadline is met before the batch system kills the job.
const deadlineMargin = time.Minute

// walltime is the longest run time that a member asks for, or else what is
// expected of the gang where that counts, or else the default.
func (g *gang) walltime(members []Member) time.Duration {
	limit, whose := g.limit()
	var asked time.Duration
	for _, m := range members {
		p := g.pod(m)
		if w := p.walltime(limit, whose); w > asked {
			asked = w
		}
	}
	if asked == 0 {
		asked = g.expected(members, limit)
	}
	if d := g.in.Cluster.Spec.Walltime.Default; asked == 0 && d != nil && d.Duration > 0 {
		asked = d.Duration
		if limit > 0 && asked > limit {
			asked = limit
		}
	}
	if asked == 0 && limit > 0 {
		// The partition's default holds, unless it exceeds what is allowed.
		if d := g.in.Partition.DefaultWalltime; d == 0 || d > limit {
			asked = limit
		}
	}
	return min(asked, backends.MaxWalltime)
}

// expected is the time limit that follows from how long the gang is expected to
// run; 0 when that is not known or does not count. Nobody asked for so much, so what
// is more than the limit is cut rather than refused.
func (g *gang) expected(members []Member, limit time.Duration) time.Duration {
	e := &g.in.Cluster.Spec.Walltime.Estimates
	if e.Limit == hpcv1alpha1.EstimatesNone {
		return 0
	}
	var longest time.Duration
	whose := ""
	for _, m := range members {
		run, from := expectedRun(m.Pod.Annotations)
		if from == wellknown.RunLearnt && e.Limit != hpcv1alpha1.EstimatesLearnt {
			continue
		}
		if run > longest {
			longest, whose = run, from
		}
	}
	if longest == 0 {
		return 0
	}
	out := min(e.LimitOf(longest), backends.MaxWalltime)
	if limit > 0 {
		out = min(out, limit)
	}
	out = out.Round(time.Second)
	g.note("the batch job is given %s: the run time that is %s, %s, and a margin (spec.walltime.estimates of BatchCluster %s)", out, whose, longest, g.in.Cluster.Name)
	return out
}

// expectedRun is how long a pod's gang is expected to run as the scheduler says, or
// else the pod itself; 0 when nobody does.
func expectedRun(a map[string]string) (run time.Duration, from string) {
	from = a[wellknown.ExpectedRunFrom]
	if s, err := strconv.ParseInt(a[wellknown.ExpectedRun], 10, 64); err == nil && s > 0 && (from == wellknown.RunDeclared || from == wellknown.RunLearnt) {
		return time.Duration(min(s, int64(backends.MaxWalltime/time.Second))) * time.Second, from
	}
	if d, err := time.ParseDuration(a[wellknown.RunningEstimate]); err == nil && d > 0 {
		return min(d, backends.MaxWalltime), wellknown.RunDeclared
	}
	return 0, ""
}

// limit is the strictest bound, and whose it is.
func (g *gang) limit() (time.Duration, string) {
	var limit time.Duration
	var whose string
	try := func(d time.Duration, name string) {
		if d > 0 && (limit == 0 || d < limit) {
			limit, whose = d, name
		}
	}
	if m := g.in.Cluster.Spec.Walltime.Max; m != nil {
		try(m.Duration, "spec.walltime.max of BatchCluster "+g.in.Cluster.Name)
	}
	try(g.in.Account.MaxWalltime, fmt.Sprintf("spec.accounts[%d].maxWalltime of BatchCluster %s", g.in.Account.Rule, g.in.Cluster.Name))
	try(g.in.Partition.MaxWalltime, "the time limit of partition "+g.in.Node.Partition)
	return limit, whose
}

// walltime is what one pod asks for; 0 when it names nothing.
func (p *pod) walltime(limit time.Duration, whose string) time.Duration {
	tooLong := func(field, value string, d time.Duration) {
		p.refuse(field, value, fmt.Sprintf("%s is more than %s, %s", d, limit, whose))
	}
	if text, has := p.Pod.Annotations[wellknown.Walltime]; has {
		field := "metadata.annotations[" + wellknown.Walltime + "]"
		d, err := ParseWalltime(text)
		switch {
		case err != nil:
			p.refuse(field, text, err.Error())
		case limit > 0 && d > limit:
			tooLong(field, text, d)
		case d > backends.MaxWalltime:
			p.refuse(field, text, fmt.Sprintf("more than %s", backends.MaxWalltime))
		default:
			return d
		}
		return 0
	}
	if s := p.Pod.Spec.ActiveDeadlineSeconds; s != nil {
		const field = "spec.activeDeadlineSeconds"
		if *s <= 0 || *s > int64(backends.MaxWalltime/time.Second) {
			p.refuse(field, strconv.FormatInt(*s, 10), fmt.Sprintf("must be between 1 and %d", int64(backends.MaxWalltime/time.Second)))
			return 0
		}
		d := time.Duration(*s) * time.Second
		if limit > 0 && d > limit {
			tooLong(field, strconv.FormatInt(*s, 10), d)
			return 0
		}
		d += deadlineMargin + time.Duration(p.graceSeconds(p.Member))*time.Second
		if limit > 0 {
			d = min(d, limit)
		}
		return d
	}
	return 0
}

// grace is the longest termination grace period of the members.
func (g *gang) grace(members []Member) time.Duration {
	var longest time.Duration
	for _, m := range members {
		longest = max(longest, time.Duration(g.graceSeconds(m))*time.Second)
	}
	return longest
}

// graceSeconds is what a pod gets: no more than the administrator gives.
func (g *gang) graceSeconds(m Member) int64 {
	asked := graceSeconds(m)
	most := g.in.Cluster.Spec.Walltime.Grace
	if most == nil || most.Duration <= 0 || asked <= int64(most.Duration/time.Second) {
		return asked
	}
	g.note("a termination grace of %d s is capped to %s (spec.walltime.grace of BatchCluster %s)", asked, most.Duration, g.in.Cluster.Name)
	return int64(most.Duration / time.Second)
}

// graceSeconds bounds a pod's grace to what a job may have.
func graceSeconds(m Member) int64 {
	s := m.Pod.Spec.TerminationGracePeriodSeconds
	if s == nil {
		return 30
	}
	return min(max(*s, 0), int64(backends.MaxGrace/time.Second))
}

var errWalltime = errors.New(`not a run time: write a duration such as "90m" or "36h", or days-hours:minutes:seconds such as "1-12:00:00"`)

// ParseWalltime reads a run time: a Go duration, or one of Slurm's forms
// minutes, minutes:seconds, hours:minutes:seconds, days-hours,
// days-hours:minutes and days-hours:minutes:seconds. It must be positive; a
// part of a second counts as a whole one.
func ParseWalltime(s string) (time.Duration, error) {
	if len(s) == 0 || len(s) > 32 {
		return 0, errWalltime
	}
	if strings.ContainsAny(s, "hmsuµn") {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return 0, errWalltime
		}
		if r := d % time.Second; r > 0 {
			if d += time.Second - r; d < 0 {
				return 0, errWalltime
			}
		}
		return d, nil
	}
	dayText, rest, hasDays := strings.Cut(s, "-")
	if !hasDays {
		dayText, rest = "0", s
	}
	parts := strings.Split(rest, ":")
	units := map[bool][][]int64{
		true:  {{3600}, {3600, 60}, {3600, 60, 1}},
		false: {{60}, {60, 1}, {3600, 60, 1}},
	}[hasDays]
	if len(parts) > len(units) {
		return 0, errWalltime
	}
	days, ok := number(dayText)
	if !ok {
		return 0, errWalltime
	}
	seconds := days * 86400
	for i, part := range parts {
		n, ok := number(part)
		if !ok {
			return 0, errWalltime
		}
		seconds += n * units[len(parts)-1][i]
	}
	if seconds <= 0 || seconds > int64(math.MaxInt64/time.Second) {
		return 0, errWalltime
	}
	return time.Duration(seconds) * time.Second, nil
}

// number reads up to six digits, so that no sum of them overflows.
func number(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 6 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
