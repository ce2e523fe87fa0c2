package slurmjob

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/hostlist"
)

// MaxHosts bounds the hosts of one answer.
const MaxHosts = 100_000

// Component is what Slurm lists as a job: a job of one component, or one
// component of a heterogeneous one.
type Component struct {
	ID, Leader string // equal for a plain job
	Name       string // the job name; not every list has it
	Cluster    string // Slurm's name of the cluster; not every list has it
	Offset     int    // within the heterogeneous job
	Owner      string
	Key        backends.Key
	User       string
	Partition  string
	Word       string // the state, see StateOf
	Reason     string // "" when there is none
	// Unprioritised: the priority is 0, as Slurm gives it to a job that is held.
	Unprioritised bool
	Restarts      int
	Nodes         string // a host list
	Submitted     time.Time
	Start         time.Time // zero, or expected while pending
	End           time.Time // zero, or expected until terminal
	Preempted     time.Time // zero, or when its grace began
	ExitCode      int
	Signal        int
}

// state is what Slurm's word means for the component. One that ends by itself in
// the grace of a preemption shows as failed (seen with 22.05); only the time says
// why it ended. A requeue takes that time back.
func (c Component) state() backends.State {
	s := StateOf(c.Word)
	if s == backends.StateFailed && !c.Preempted.IsZero() && !c.Preempted.Before(c.Start) {
		return backends.StatePreempted
	}
	return s
}

// Fold makes one job of the components of each.
func Fold(rows []Component) ([]backends.Job, error) {
	byLeader := map[string][]Component{}
	for _, r := range rows {
		byLeader[r.Leader] = append(byLeader[r.Leader], r)
	}
	jobs := make([]backends.Job, 0, len(byLeader))
	budget := MaxHosts
	for _, parts := range byLeader {
		slices.SortFunc(parts, func(a, b Component) int { return a.Offset - b.Offset })
		j, err := job(parts, &budget)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b backends.Job) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return jobs, nil
}

// job makes a Job of its components in their order. The batch script belongs to
// the first, so that one tells how the job ended.
func job(parts []Component, hosts *int) (backends.Job, error) {
	first := parts[0]
	j := backends.Job{
		ID: backends.JobID(first.Leader), Key: first.Key, Owner: first.Owner, User: first.User, Partition: first.Partition,
		Submitted: first.Submitted, ExitCode: first.ExitCode, Signal: first.Signal,
	}
	slowest := first
	seen := map[string]bool{}
	for _, p := range parts {
		if rank(p.state()) < rank(slowest.state()) {
			slowest = p
		}
		// A component that lost its host explains more than the script's end.
		if s := p.state(); s.Terminal() && s != backends.StateCompleted && slowest.state() == backends.StateCompleted {
			slowest = p
		}
		j.Restarts = max(j.Restarts, p.Restarts)
		j.Held = j.Held || p.Held()
		names, err := hostlist.Expand(p.Nodes, *hosts)
		if err != nil {
			return backends.Job{}, fmt.Errorf("job %s: %w", p.ID, err)
		}
		*hosts -= len(names)
		for _, n := range names {
			if !seen[n] {
				seen[n] = true
				j.Hosts = append(j.Hosts, n)
			}
		}
	}
	j.State, j.Reason = slowest.state(), slowest.Reason
	if j.Reason == "" && j.State != backends.StateCompleted {
		for _, p := range parts {
			if p.Reason != "" {
				j.Reason = p.Reason
				break
			}
		}
	}
	for _, p := range parts {
		times(&j, p)
	}
	j.Held = j.Held && j.State == backends.StatePending
	return j, nil
}

// times fills in the times that make sense in the job's state: Slurm gives an
// end for a job that only has a limit, and a start for one that only waits.
func times(j *backends.Job, p Component) {
	switch {
	case j.State == backends.StatePending:
		j.Never = j.Never || never(p.Reason)
		if p.Start.After(j.Estimated) {
			j.Estimated = p.Start
		}
		return
	case j.State.Terminal() && p.End.After(j.Ended):
		j.Ended = p.End
	}
	// One that ended without a host never started.
	if p.Nodes != "" && p.Start.After(j.Started) {
		j.Started = p.Start
	}
}

// Present gives "" for the words with which Slurm says that there is nothing.
func Present(v string) string {
	switch v {
	case "N/A", "(null)", "None", "Unknown", "NONE", "n/a", "INVALID", "NOT_SET":
		return ""
	}
	return v
}

// ParseExit reads a wait status ("768", to 22.05) or "code:signal" (from 23.02).
func ParseExit(v string) (code, signal int, err error) {
	if v = Present(v); v == "" {
		return 0, 0, nil
	}
	if c, s, ok := strings.Cut(v, ":"); ok {
		if code, err = strconv.Atoi(c); err == nil {
			signal, err = strconv.Atoi(s)
		}
	} else {
		var status uint64
		status, err = strconv.ParseUint(v, 10, 32)
		code, signal = int(status>>8&0xff), int(status&0x7f)
	}
	if err != nil || code < 0 || signal < 0 {
		return 0, 0, fmt.Errorf("the exit code %.40q", v)
	}
	return code, signal, nil
}
