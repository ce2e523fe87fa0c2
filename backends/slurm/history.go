package slurm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
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
	// sacctTimeout is less than what a tick has, and restPause the time between
	// two tries of a database that does not answer.
	sacctTimeout, restPause = 15 * time.Second, time.Minute
	// askAtOnce bounds the jobs of one question.
	askAtOnce = 5000
)

// history knows how jobs ended that the controller no longer knows (MinJobAge):
// it asks sacct for those that were listed and are not any more.
type history struct {
	now func() time.Time

	known atomic.Bool // whether there is a database was read
	on    atomic.Bool

	mu     sync.Mutex
	owners map[string]*past
	// rest is until when a database that failed is left alone.
	rest time.Time
}

// past is what is remembered of one owner's jobs.
type past struct {
	loaded bool
	live   map[backends.JobID]seen
	ended  map[backends.JobID]found
}

// seen is a job that has not ended as it was last listed. missing is since when
// it is not.
type seen struct {
	job     backends.Job
	missing time.Time
}

type found struct {
	job   backends.Job
	until time.Time
}

// readAccounting finds out, once, whether the cluster keeps books.
func (b *Backend) readAccounting(ctx context.Context) error {
	if b.history.known.Load() {
		return nil
	}
	out, _, err := b.query(ctx, "inventory", "scontrol", "show", "config")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(line, "=")
		if strings.TrimSpace(name) == "AccountingStorageType" {
			b.history.on.Store(strings.TrimSpace(value) == "accounting_storage/slurmdbd")
			b.history.known.Store(true)
			return nil
		}
	}
	return &backends.Error{Op: "inventory", Kind: backends.KindTransient, Err: errors.New("scontrol show config tells no AccountingStorageType")}
}

// withHistory adds to a complete list the jobs that have left it, as the
// accounting database tells of them: one question for all. What it does not
// know (yet) is asked again with the next list. A database that does not answer
// changes nothing.
func (b *Backend) withHistory(ctx context.Context, owner string, users []string, jobs []backends.Job) []backends.Job {
	h := &b.history
	if !h.on.Load() {
		return jobs
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	p := h.owners[owner]
	if p == nil {
		p = &past{live: map[backends.JobID]seen{}, ended: map[backends.JobID]found{}}
		h.owners[owner] = p
	}
	p.note(jobs, now)
	if args := p.question(users, now); args != nil && (now.After(h.rest) || h.rest.Sub(now) > restPause) {
		rows, err := b.askSacct(ctx, args)
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

// question gives the arguments that select jobs, nil when there is nothing to
// ask. The first question of all is for the jobs of the last days: a daemon that
// was away does not know which it missed.
func (p *past) question(users []string, now time.Time) []string {
	// In UTC, as the command is told to read it.
	since := func(t time.Time) string { return "--starttime=" + t.UTC().Format("2006-01-02T15:04:05") }
	if !p.loaded {
		args := []string{since(now.Add(-lookBack)), "--allusers"}
		if len(users) > 0 {
			args = append(args, "--user="+strings.Join(users, ","))
		}
		return args
	}
	var ids []string
	oldest := now
	for id, s := range p.live {
		if !s.missing.IsZero() && len(ids) < askAtOnce {
			ids = append(ids, string(id))
			if s.job.Submitted.Before(oldest) {
				oldest = s.job.Submitted
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	// Without a start the database would also tell of older jobs of these ids,
	// which are used again after a while.
	return []string{since(oldest), "--allusers", "--jobs=" + strings.Join(ids, ",")}
}

// answer takes in what the database told.
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

// sacctFields are what is asked of each job, in this order.
func sacctFields() []string {
	return []string{"JobIDRaw", "JobID", "JobName", "User", "Partition", "State", "ExitCode", "Submit", "Start", "End", "NodeList", "Comment"}
}

// askSacct runs sacct once. With --duplicates a requeued job has a row for each
// of its runs; the last tells how it ended, their number how often it started.
func (b *Backend) askSacct(ctx context.Context, selection []string) ([]slurmjob.Component, error) {
	var nonce [12]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, fmt.Errorf("make a separator: %w", err)
	}
	sep := separator(hex.EncodeToString(nonce[:]))
	argv := append([]string{
		"sacct", "--noheader", "--parsable", "--allocations", "--duplicates", "--noconvert", "--delimiter=" + sep,
		"--format=" + strings.Join(sacctFields(), ","),
	}, selection...)
	ctx, stop := context.WithTimeout(ctx, sacctTimeout)
	defer stop()
	out, _, err := b.query(ctx, "observe", argv...)
	if err != nil {
		return nil, err
	}
	return parseSacct(out, sep)
}

// parseSacct reads the whole answer; jobs that cannot be ours are passed over.
func parseSacct(out, sep string) ([]slurmjob.Component, error) {
	names := sacctFields()
	var rows []slurmjob.Component
	last := map[string]int{} // the row of each id
	for n := 0; out != ""; n++ {
		var v []string
		for range names {
			value, rest, ok := strings.Cut(out, sep)
			if !ok {
				return nil, fmt.Errorf("job %d ends after %d of %d fields", n+1, len(v), len(names))
			}
			v = append(v, value)
			out = rest
		}
		rest, ok := strings.CutPrefix(out, "\n")
		if !ok {
			return nil, fmt.Errorf("job %d does not end with its line", n+1)
		}
		out = rest
		c, ok, err := parseBooked(v)
		if err != nil {
			return nil, fmt.Errorf("job %.20q: %w", v[0], err)
		}
		if !ok {
			continue
		}
		if at, again := last[c.ID]; again {
			c.Restarts = rows[at].Restarts + 1
			rows[at] = c
			continue
		}
		last[c.ID] = len(rows)
		rows = append(rows, c)
	}
	return rows, nil
}

// parseBooked reads one row of sacct.
func parseBooked(v []string) (c slurmjob.Component, ok bool, err error) {
	leader, offset, het := strings.Cut(v[1], "+")
	if !slurmjob.ValidID(v[0]) || !slurmjob.ValidID(leader) {
		return c, false, nil // a job array's task, or a step
	}
	// "CANCELLED by 1000".
	word, _, _ := strings.Cut(v[5], " ")
	c = slurmjob.Component{
		ID: v[0], Leader: leader, Name: v[2], User: v[3], Partition: v[4], Word: strings.TrimSuffix(word, "+"), Nodes: slurmjob.Present(v[10]),
	}
	if het {
		if _, err := fmt.Sscanf(offset, "%d", &c.Offset); err != nil || c.Offset < 0 {
			return c, false, fmt.Errorf("the component number %.20q", offset)
		}
	}
	if c.Nodes == "None assigned" {
		c.Nodes = ""
	}
	if owner, key, ours := slurmjob.ParseTag(v[11]); ours {
		c.Owner, c.Key = owner, key
	}
	for i, at := range map[int]*time.Time{7: &c.Submitted, 8: &c.Start, 9: &c.End} {
		if *at, err = parseTime(v[i]); err != nil {
			return c, false, err
		}
	}
	c.ExitCode, c.Signal, err = slurmjob.ParseExit(v[6])
	return c, true, err
}
