package slurmrest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

// rawJob is one job of a list. All fields must be there: one that is called
// otherwise in a version to come must not read as empty.
type rawJob struct {
	ID        number `json:"job_id"`
	Leader    number `json:"het_job_id"`
	Offset    number `json:"het_job_offset"`
	Name      text   `json:"name"`
	Cluster   text   `json:"cluster"`
	Comment   text   `json:"comment"`
	User      text   `json:"user_name"`
	Partition text   `json:"partition"`
	State     words  `json:"job_state"`
	Priority  number `json:"priority"`
	Reason    text   `json:"state_reason"`
	Restarts  number `json:"restart_cnt"`
	Nodes     text   `json:"nodes"`
	Submitted number `json:"submit_time"`
	Start     number `json:"start_time"`
	End       number `json:"end_time"`
	Preempted number `json:"preempt_time"`
	Exit      exit   `json:"exit_code"`
}

// jobs reads the list of jobs and tells of each whether it is the owner's. seen
// tells afterwards whether there was a list at all.
func jobs(f func(c slurmjob.Component, ours bool), owner string) (on map[string]func(*json.Decoder) error, seen *bool) {
	seen = new(bool)
	return map[string]func(*json.Decoder) error{"jobs": func(dec *json.Decoder) error {
		*seen = true
		return each(dec, func() error {
			var raw rawJob
			if err := dec.Decode(&raw); err != nil {
				return err
			}
			if !raw.Comment.seen || !raw.User.seen {
				return errors.New("comment or user_name is missing")
			}
			tagged, key, ok := backends.ParseTag(raw.Comment.v)
			if !ok || tagged != owner {
				// What is not ours need not make sense.
				f(slurmjob.Component{ID: strconv.FormatInt(raw.ID.n, 10), User: raw.User.v, Cluster: raw.Cluster.v}, false)
				return nil
			}
			c, err := raw.component()
			if err != nil {
				return fmt.Errorf("job %d: %w", raw.ID.n, err)
			}
			c.Owner, c.Key = owner, key
			f(c, true)
			return nil
		})
	}}, seen
}

func (r rawJob) component() (slurmjob.Component, error) {
	c := slurmjob.Component{
		ID: strconv.FormatInt(r.ID.n, 10), Name: r.Name.v, User: r.User.v, Partition: r.Partition.v, Cluster: r.Cluster.v,
		Word: slurmjob.Word(r.State.v), Reason: slurmjob.Present(r.Reason.v), Nodes: slurmjob.Present(r.Nodes.v),
		ExitCode: r.Exit.code, Signal: r.Exit.signal,
		Unprioritised: r.Priority.set && r.Priority.n == 0,
	}
	var errs []error
	for name, seen := range map[string]bool{
		"name": r.Name.seen, "partition": r.Partition.seen, "priority": r.Priority.seen, "state_reason": r.Reason.seen,
		"nodes": r.Nodes.seen, "exit_code": r.Exit.seen, "job_state": c.Word != "", "user_name": c.User != "",
	} {
		if !seen {
			errs = append(errs, fmt.Errorf("%s is missing", name))
		}
	}
	if !slurmjob.ValidID(c.ID) {
		errs = append(errs, errors.New("job_id is missing"))
	}
	count := func(name string, n number) int64 {
		v, err := n.amount(name)
		if err == nil && v > 1<<32 {
			err = fmt.Errorf("%s: %d", name, v)
		}
		errs = append(errs, err)
		return v
	}
	c.Leader = c.ID
	if l := count("het_job_id", r.Leader); l != 0 {
		c.Leader = strconv.FormatInt(l, 10)
		c.Offset = int(count("het_job_offset", r.Offset))
	}
	c.Restarts = int(count("restart_cnt", r.Restarts))
	for name, t := range map[string]struct {
		from number
		into *time.Time
	}{"submit_time": {r.Submitted, &c.Submitted}, "start_time": {r.Start, &c.Start}, "end_time": {r.End, &c.End}, "preempt_time": {r.Preempted, &c.Preempted}} {
		at, err := t.from.when(name)
		errs = append(errs, err)
		*t.into = at
	}
	return c, errors.Join(errs...)
}

// Observe lists the owner's jobs. One query does when it shows jobs of more
// than one user: then Slurm hides nobody's (PrivateData). Else each user's are
// asked for. The list is incomplete when a user could not be asked whom nobody
// else sees.
func (b *Backend) Observe(ctx context.Context, owner string, users []string) (backends.Observation, error) {
	fail := func(kind backends.Kind, err error) (backends.Observation, error) {
		return backends.Observation{}, &backends.Error{Op: "observe", Kind: kind, Err: err}
	}
	if err := errors.Join(backends.CheckOwner(owner), checkUsers(users)); err != nil {
		return fail(backends.KindInvalid, err)
	}
	if len(users) == 0 {
		users = b.config.Users
	}
	if len(users) == 0 {
		return fail(backends.KindInvalid, errors.New("no user is known as whom slurmrestd could be asked"))
	}
	users = slices.Clone(users)
	slices.Sort(users)
	found := map[string]slurmjob.Component{}
	var denied error
	asked := 0
	users = slices.Compact(users)
	for _, user := range users {
		others, err := b.list(ctx, owner, user, found)
		switch {
		case backends.KindOf(err) == backends.KindDenied:
			if denied == nil {
				denied = err
			}
			continue
		case err != nil:
			return backends.Observation{}, err
		}
		asked++
		if others {
			denied = nil
			break
		}
	}
	if asked == 0 {
		return backends.Observation{}, denied
	}
	rows := make([]slurmjob.Component, 0, len(found))
	for _, c := range found {
		rows = append(rows, c)
	}
	jobs, err := slurmjob.Fold(rows)
	if err != nil {
		return fail(backends.KindTransient, fmt.Errorf("read the list of jobs: %w", err))
	}
	if denied == nil {
		jobs = b.history.Complete(ctx, owner, users, jobs)
	}
	return backends.Observation{Jobs: jobs, Complete: denied == nil}, nil
}

// list adds what one user sees to found; others says that it holds jobs of
// other users.
func (b *Backend) list(ctx context.Context, owner, user string, found map[string]slurmjob.Component) (others bool, err error) {
	s, err := b.open(ctx, "observe", user)
	if err != nil {
		return false, err
	}
	mine := map[string]slurmjob.Component{}
	at := ""
	on, seen := jobs(func(c slurmjob.Component, ours bool) {
		at = c.Cluster
		others = others || c.User != user
		if ours {
			mine[c.ID] = c
		}
	}, owner)
	if _, err := s.do(ctx, request{method: http.MethodGet, path: s.dialect.path("jobs"), on: on}); err != nil {
		return false, err
	}
	if !*seen {
		return false, s.fail(backends.KindTransient, errors.New("the reply has no list of jobs"))
	}
	for id, c := range mine {
		found[id] = c
	}
	if at != "" {
		b.mu.Lock()
		b.cluster = at
		b.mu.Unlock()
	}
	return others, nil
}
