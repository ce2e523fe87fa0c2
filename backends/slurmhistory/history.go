// Package slurmhistory remembers how jobs ended that Slurm's controller no longer
// knows (MinJobAge): it asks the accounting database for those that were listed,
// or are on record, and are not any more. How it is asked is the caller's matter:
// the backends slurm (sacct) and slurmrest (slurmrestd) share what to ask and what
// to make of the answer.
package slurmhistory

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

const (
	// lookBack is how old the jobs are that the first observation asks the
	// accounting database for.
	lookBack = 72 * time.Hour
	// giveUp is how long a job that left the queue is looked for in the
	// accounting database, which lags behind or is away.
	giveUp = 10 * time.Minute
	// keepEnded is how long a job that ended is listed.
	keepEnded = 2 * time.Hour
	// restPause is the time between two tries of a database that does not answer.
	restPause = time.Minute
	// askAtOnce bounds the jobs of one question.
	askAtOnce = 5000
)

// Question is what the database is asked.
type Question struct {
	// Since bounds the age of the jobs: without it the database would also tell of
	// older jobs of these ids, which are used again after a while.
	Since time.Time
	// IDs are the leaders of the jobs; empty asks for all jobs of Users.
	IDs []string
	// Users are those the jobs belong to; empty is all.
	Users []string
}

// Ask puts a question to the accounting database. A requeued job has one row:
// its last run, with the number of the runs before as Restarts. Rows of jobs that
// were not asked for are passed over.
type Ask func(ctx context.Context, q Question) ([]slurmjob.Component, error)

// History is safe for concurrent use. It begins switched off.
type History struct {
	now func() time.Time
	ask Ask
	on  atomic.Bool

	mu     sync.Mutex
	owners map[string]*past
	// rest is until when a database that failed is left alone.
	rest time.Time
}

// New gives a history that asks with ask; now is the clock.
func New(now func() time.Time, ask Ask) *History {
	return &History{now: now, ask: ask, owners: map[string]*past{}}
}

// Switch says whether there is a database.
func (h *History) Switch(on bool) { h.on.Store(on) }

// On reports whether there is a database.
func (h *History) On() bool { return h.on.Load() }

// past is what is remembered of one owner's jobs.
type past struct {
	loaded bool
	live   map[backends.JobID]seen
	ended  map[backends.JobID]found
}

// seen is a job that has not ended as it was last listed, or one on record that
// was never listed. missing is since when it is not.
type seen struct {
	job     backends.Job
	missing time.Time
}

type found struct {
	job   backends.Job
	until time.Time
}

// Recall implements backends.Recaller.
func (h *History) Recall(owner string, jobs []backends.JobRef) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.of(owner)
	for _, ref := range jobs {
		_, live := p.live[ref.ID]
		if _, ended := p.ended[ref.ID]; live || ended || !slurmjob.ValidID(string(ref.ID)) {
			continue
		}
		p.live[ref.ID] = seen{job: backends.Job{
			ID: ref.ID, Key: ref.Key, Owner: owner, User: ref.User, Submitted: h.now().Add(-lookBack),
		}}
	}
}

// of gives the past of an owner. The lock must be held.
func (h *History) of(owner string) *past {
	p := h.owners[owner]
	if p == nil {
		p = &past{live: map[backends.JobID]seen{}, ended: map[backends.JobID]found{}}
		h.owners[owner] = p
	}
	return p
}

// Complete adds to a complete list the jobs that have left it, as the
// accounting database tells of them: one question for all. What it does not
// know (yet) is asked again with the next list. A database that does not answer
// changes nothing. It blocks as long as Ask does.
func (h *History) Complete(ctx context.Context, owner string, users []string, jobs []backends.Job) []backends.Job {
	if !h.on.Load() {
		return jobs
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	p := h.of(owner)
	p.note(jobs, now)
	if q, any := p.question(users, now); any && (now.After(h.rest) || h.rest.Sub(now) > restPause) {
		rows, err := h.ask(ctx, q)
		if err != nil {
			h.rest = now.Add(restPause)
		} else {
			p.answer(rows, owner, now)
			p.loaded = true
		}
	}
	listed := map[backends.JobID]bool{}
	for _, j := range jobs {
		listed[j.ID] = true
	}
	for id, f := range p.ended {
		if !listed[id] {
			jobs = append(jobs, f.job)
		}
	}
	slices.SortFunc(jobs, func(a, b backends.Job) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return jobs
}

// note takes in what the controller lists now.
func (p *past) note(jobs []backends.Job, now time.Time) {
	listed := map[backends.JobID]bool{}
	for _, j := range jobs {
		listed[j.ID] = true
		// What the controller tells last counts: it may have requeued one that ended.
		if j.State.Terminal() {
			delete(p.live, j.ID)
			p.ended[j.ID] = found{job: j, until: now.Add(keepEnded)}
		} else {
			delete(p.ended, j.ID)
			p.live[j.ID] = seen{job: j}
		}
	}
	for id, s := range p.live {
		switch {
		case listed[id]:
		case s.missing.IsZero():
			s.missing = now
			p.live[id] = s
		case now.Sub(s.missing) > giveUp || now.Before(s.missing):
			delete(p.live, id)
		}
	}
	for id, f := range p.ended {
		if now.After(f.until) {
			delete(p.ended, id)
		}
	}
}

// question says what to ask, if anything. The first question of all is for the
// jobs of the last days: a daemon that was away does not know which it missed.
func (p *past) question(users []string, now time.Time) (q Question, any bool) {
	if !p.loaded {
		return Question{Since: now.Add(-lookBack), Users: users}, true
	}
	q.Since = now
	of := map[string]bool{}
	for id, s := range p.live {
		if !s.missing.IsZero() && len(q.IDs) < askAtOnce {
			q.IDs = append(q.IDs, string(id))
			of[s.job.User] = true
			if s.job.Submitted.Before(q.Since) {
				q.Since = s.job.Submitted
			}
		}
	}
	slices.Sort(q.IDs)
	if !of[""] {
		q.Users = slices.Sorted(maps.Keys(of))
	}
	return q, len(q.IDs) > 0
}

// answer takes in what the database told. A row whose comment it does not keep
// is ours when we know its id and its name is that job's key.
func (p *past) answer(rows []slurmjob.Component, owner string, now time.Time) {
	ours := rows[:0]
	for _, r := range rows {
		s, missed := p.live[backends.JobID(r.Leader)]
		switch {
		case r.Owner == owner: // the database keeps comments (AccountingStoreFlags)
		case r.Owner == "" && missed && (r.Name == string(s.job.Key) || strings.HasPrefix(r.Name, string(s.job.Key)+".")):
			r.Owner, r.Key = owner, s.job.Key
		default:
			continue
		}
		ours = append(ours, r)
	}
	jobs, err := slurmjob.Fold(ours)
	if err != nil {
		return // nothing of it can be relied on
	}
	for _, j := range jobs {
		s, known := p.live[j.ID]
		_, told := p.ended[j.ID]
		if !j.State.Terminal() || known && s.missing.IsZero() || told {
			continue // it lags behind, or the controller has told it
		}
		j.Restarts = max(j.Restarts, s.job.Restarts)
		delete(p.live, j.ID)
		p.ended[j.ID] = found{job: j, until: now.Add(keepEnded)}
	}
}
