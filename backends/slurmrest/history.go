package slurmrest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmhistory"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

const (
	// booksTimeout of one question to the accounting database is less than what a
	// tick has.
	booksTimeout = 15 * time.Second
	// idsAtOnce bounds the ids of one request, which are part of its URL.
	idsAtOnce = 500
	// emptyResult is how v0.0.38 says that no job matches: as an error.
	emptyResult = 9003
	// booksPause is how long a slurmrestd that offers no books is not asked again
	// whether it does.
	booksPause = 10 * time.Minute
)

// Recall implements backends.Recaller.
func (b *Backend) Recall(owner string, jobs []backends.JobRef) { b.history.Recall(owner, jobs) }

// books is the path of the accounting database's list of jobs: a plugin of
// slurmrestd of its own, with the versions of the other.
func (d *dialect) books() string { return "/slurmdb/" + d.version + "/jobs" }

// findBooks finds out whether slurmrestd speaks to an accounting database. One
// without the plugin is asked again after a while, as an administrator may add it;
// any other failure is one of the moment.
func (b *Backend) findBooks(ctx context.Context, s *session) {
	now := b.config.Now()
	b.mu.Lock()
	wait := b.history.On() || !b.noBooks.IsZero() && now.Sub(b.noBooks) < booksPause && !now.Before(b.noBooks)
	b.mu.Unlock()
	if wait {
		return
	}
	ctx, stop := context.WithTimeout(ctx, booksTimeout)
	defer stop()
	// A list that is empty by its time.
	err := s.booked(ctx, now.Add(time.Hour), []string{"1"}, nil)
	b.history.Switch(err == nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.noBooks = (time.Time{}); errors.Is(err, errNoPath) {
		b.noBooks = now
	}
}

// askBooks asks the accounting database as the users whose jobs they are, each
// for its own: with PrivateData it shows nobody else's. One whose token is
// refused costs the others nothing. Jobs without ids are not asked for: v0.0.38
// cannot bound the answer to some users, and what pods have on record has ids.
func (b *Backend) askBooks(ctx context.Context, q slurmhistory.Question) ([]slurmjob.Component, error) {
	if len(q.IDs) == 0 {
		return nil, nil
	}
	users := q.Users
	if len(users) == 0 {
		users = b.config.Users
	}
	ctx, stop := context.WithTimeout(ctx, booksTimeout)
	defer stop()
	var rows []slurmjob.Component
	answered := false
	var first error
	for _, user := range users {
		s, err := b.open(ctx, "observe", user)
		for ids := range slices.Chunk(q.IDs, idsAtOnce) {
			if err != nil {
				break
			}
			err = s.booked(ctx, q.Since, ids, func(c slurmjob.Component) {
				if c.User == user {
					rows = append(rows, c)
				}
			})
		}
		if err == nil {
			answered = true
			continue
		}
		if first == nil {
			first = err
		}
		if backends.KindOf(err) != backends.KindDenied {
			return nil, err
		}
	}
	if !answered {
		return nil, first
	}
	b.mu.Lock()
	cluster := b.cluster
	b.mu.Unlock()
	return lastRuns(rows, cluster), nil
}

// lastRuns leaves one row for each component: its last run, with the number of
// those before. Other clusters that keep their books in the same database have
// jobs of the same ids; cluster is ours, "" while that is not known.
func lastRuns(rows []slurmjob.Component, cluster string) []slurmjob.Component {
	slices.SortStableFunc(rows, func(a, b slurmjob.Component) int {
		return cmp.Or(a.Submitted.Compare(b.Submitted), a.Start.Compare(b.Start))
	})
	var out []slurmjob.Component
	at := map[string]int{}
	for _, r := range rows {
		if cluster != "" && r.Cluster != "" && r.Cluster != cluster {
			continue
		}
		// An id that was used again is another job by its name.
		if i, again := at[r.ID]; again && out[i].Name == r.Name {
			r.Restarts = out[i].Restarts + 1
			out[i] = r
			continue
		}
		at[r.ID] = len(out)
		out = append(out, r)
	}
	return out
}

// rawBooked is one run of a job in the books. v0.0.38 writes the state as one
// word and exit codes without what is not set, later versions a list and all. For
// a program that exited v0.0.38 tells code 0, whatever it was (measured on 22.05);
// the pods' own files know better.
type rawBooked struct {
	ID        number `json:"job_id"`
	Name      text   `json:"name"`
	Cluster   text   `json:"cluster"`
	User      text   `json:"user"`
	Partition text   `json:"partition"`
	Nodes     text   `json:"nodes"`
	Comment   struct {
		Job text `json:"job"`
	} `json:"comment"`
	Het struct {
		ID     number `json:"job_id"`
		Offset number `json:"job_offset"`
	} `json:"het"`
	State struct {
		Current words `json:"current"`
		Reason  text  `json:"reason"`
	} `json:"state"`
	Time struct {
		Submitted number `json:"submission"`
		Start     number `json:"start"`
		End       number `json:"end"`
	} `json:"time"`
	Exit struct {
		Status words  `json:"status"`
		Code   number `json:"return_code"`
		Signal struct {
			ID  number `json:"id"`
			Old number `json:"signal_id"`
		} `json:"signal"`
	} `json:"exit_code"`
}

// booked asks as the session's user for jobs by their ids and gives their rows to f.
func (s *session) booked(ctx context.Context, since time.Time, ids []string, f func(slurmjob.Component)) error {
	values := url.Values{"start_time": {s.dialect.since(since)}, "skip_steps": {"true"}, "step": {strings.Join(ids, ",")}}
	seen := false
	_, err := s.do(ctx, request{method: http.MethodGet, path: s.dialect.books() + "?" + values.Encode(), on: map[string]func(*json.Decoder) error{
		"jobs": func(dec *json.Decoder) error {
			seen = true
			return each(dec, func() error {
				var raw rawBooked
				if err := dec.Decode(&raw); err != nil {
					return err
				}
				row, err := raw.row()
				if err == nil && f != nil {
					f(row)
				}
				return err
			})
		},
	}})
	var said *slurmError
	if errors.As(err, &said) && said.has(emptyResult) {
		return nil
	}
	if err == nil && !seen {
		err = s.fail(backends.KindTransient, errors.New("the reply has no list of jobs"))
	}
	return err
}

// since writes a time: seconds since the epoch, which v0.0.38 takes with a mark
// and in no other form that does not depend on the server's time zone.
func (d *dialect) since(t time.Time) string {
	n := strconv.FormatInt(t.Unix(), 10)
	if d.plain {
		return "uts" + n
	}
	return n
}

func (r rawBooked) row() (slurmjob.Component, error) {
	c := slurmjob.Component{
		ID: strconv.FormatInt(r.ID.n, 10), Name: r.Name.v, User: r.User.v, Partition: r.Partition.v,
		Word: slurmjob.Word(r.State.Current.v), Reason: slurmjob.Present(r.State.Reason.v), Nodes: slurmjob.Present(r.Nodes.v),
		Cluster: r.Cluster.v,
	}
	if c.Nodes == "None assigned" {
		c.Nodes = ""
	}
	var errs []error
	for name, seen := range map[string]bool{
		"job_id": slurmjob.ValidID(c.ID), "name": r.Name.seen, "user": r.User.seen, "nodes": r.Nodes.seen, "state.current": c.Word != "",
		"exit_code": r.Exit.Status.seen,
	} {
		if !seen {
			errs = append(errs, fmt.Errorf("%s is missing", name))
		}
	}
	c.Leader = c.ID
	if r.Het.ID.set && r.Het.ID.n > 0 {
		c.Leader = strconv.FormatInt(r.Het.ID.n, 10)
		offset, err := r.Het.Offset.amount("het.job_offset")
		if err == nil && offset > 1<<20 {
			err = fmt.Errorf("het.job_offset: %d", offset)
		}
		errs = append(errs, err)
		c.Offset = int(offset)
	}
	for name, t := range map[string]struct {
		from number
		into *time.Time
	}{"time.submission": {r.Time.Submitted, &c.Submitted}, "time.start": {r.Time.Start, &c.Start}, "time.end": {r.Time.End, &c.End}} {
		at, err := t.from.when(name)
		errs = append(errs, err)
		*t.into = at
	}
	signal := r.Exit.Signal.ID
	if !signal.seen {
		signal = r.Exit.Signal.Old
	}
	for _, part := range []struct {
		name string
		from number
		into *int
	}{{"exit_code.return_code", r.Exit.Code, &c.ExitCode}, {"exit_code.signal", signal, &c.Signal}} {
		if !part.from.seen { // of what has not ended so
			continue
		}
		n, err := part.from.amount(part.name)
		if err == nil && n > 255 {
			n = 0 // "none"
		}
		errs = append(errs, err)
		*part.into = int(n)
	}
	if owner, key, ours := backends.ParseTag(r.Comment.Job.v); ours {
		c.Owner, c.Key = owner, key
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("job %d: %w", r.ID.n, err)
	}
	return c, nil
}
