package pbs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// A server that keeps history lists with -x the ended jobs of all users, two
// weeks of them by default: far too many to read each time. So the queue alone
// is listed, and of the history only those jobs are asked for, by their ids, that
// were in the queue before. What has ended is remembered. Jobs that ended unseen,
// before this daemon began or behind its back, are found by qselect, whose answer
// has but the ids of the mapped users' jobs, at first and then once in a while.

const (
	// selectEvery is the time between two looks for jobs that ended unseen.
	selectEvery = time.Hour
	// askedAtOnce bounds the ids on one command line.
	askedAtOnce = 250
)

// past is what is known of the mapped users' jobs, of all owners.
type past struct {
	mu       sync.Mutex
	users    []string // for whom it holds
	selected time.Time
	open     map[backends.JobID]string // jobs that had not ended, and their users
	ended    map[backends.JobID]backends.Job
}

// expect says that a job will be in the queue.
func (p *past) expect(id backends.JobID, user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[backends.JobID]string{}
	}
	p.open[id] = user
}

// due reports whether jobs that ended unseen are to be looked for.
func (p *past) due(users []string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.selected.IsZero() || now.Sub(p.selected) >= selectEvery || now.Before(p.selected) || !slices.Equal(users, p.users)
}

// sought lists the jobs to be asked for by id: those that should be in the queue
// and are not, and those that are selected and not known.
func (p *past) sought(l *listing, selected map[backends.JobID]string) map[backends.JobID]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[backends.JobID]string{}
	for id, user := range p.open {
		if _, listed := l.jobs[id]; !listed && slices.Contains(l.users, user) {
			out[id] = user
		}
	}
	for id, user := range selected {
		_, listed := l.jobs[id]
		if _, known := p.ended[id]; !listed && !known {
			out[id] = user
		}
	}
	return out
}

// add takes what was found, adds what is remembered to it, and forgets what the
// server has forgotten. sought are the jobs that were asked for; selected are
// all of the users', or nil when that is not known.
func (p *past) add(l *listing, sought, selected map[backends.JobID]string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[backends.JobID]string{}
	}
	if p.ended == nil {
		p.ended = map[backends.JobID]backends.Job{}
	}
	for id := range sought {
		delete(p.open, id)
	}
	if selected != nil {
		p.users, p.selected = l.users, now
		for id := range p.ended {
			if _, there := selected[id]; !there {
				delete(p.ended, id)
			}
		}
	}
	for id, j := range l.jobs {
		if j.State.Terminal() {
			p.ended[id] = j
			delete(p.open, id)
			continue
		}
		p.open[id] = j.User
		delete(p.ended, id)
	}
	for id, j := range p.ended {
		if slices.Contains(l.users, j.User) {
			l.jobs[id] = j
		}
	}
}

// known is what is remembered of a job that has ended.
func (p *past) known(id backends.JobID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.ended[id]
	return ok
}

// listPast reads the queue, and of the history what it has to. settings.history
// is false afterwards when it was switched off meanwhile.
func (b *Backend) listPast(ctx context.Context, asked []string, settings *server, l *listing) error {
	now := b.config.Now()
	var selected map[backends.JobID]string
	if b.past.due(l.users, now) {
		var err error
		if selected, err = b.selectAll(ctx, asked, l.users); err != nil {
			if ctx.Err() != nil {
				return err
			}
			// No qselect, say: all there is must do.
			for _, user := range asked {
				if err := b.list(ctx, user, true, settings, l); err != nil {
					return err
				}
			}
			if err := b.settle(ctx, l); err != nil || !settings.history {
				return err
			}
			all := map[backends.JobID]string{}
			for id, j := range l.jobs {
				all[id] = j.User
			}
			b.past.add(l, nil, all, now)
			return nil
		}
	}
	l.live = true
	for _, user := range asked {
		if err := b.list(ctx, user, false, settings, l); err != nil {
			return err
		}
	}
	l.live = false
	for id := range l.jobs {
		if b.past.known(id) {
			l.doubtful = append(l.doubtful, id) // nothing that has ended comes back
		}
	}
	if err := b.settle(ctx, l); err != nil {
		return err
	}
	sought := b.past.sought(l, selected)
	if err := b.askByID(ctx, sought, settings, l); err != nil || !settings.history {
		return err
	}
	b.past.add(l, sought, selected, now)
	return nil
}

// selectAll gives the ids of all jobs of users, ended ones with them, and as
// whom to ask for each.
func (b *Backend) selectAll(ctx context.Context, asked, users []string) (map[backends.JobID]string, error) {
	out := map[backends.JobID]string{}
	for _, as := range asked {
		of := as
		if as == "" {
			of = strings.Join(users, ",")
		}
		res, err := b.ask(ctx, "observe", command{argv: []string{"qselect", "-x", "-u", of}, user: as})
		switch {
		case err != nil:
			return nil, err
		case res.Exit != 0 || len(strings.TrimSpace(string(res.Stderr))) > 0:
			return nil, refusal("observe", "qselect", res)
		}
		for line := range strings.Lines(string(res.Stdout)) {
			if id := strings.TrimSpace(line); idForm.MatchString(id) {
				if len(out) >= maxHosts {
					return nil, &backends.Error{Op: "observe", Kind: backends.KindTransient, Err: fmt.Errorf("qselect lists more than %d jobs", maxHosts)}
				}
				out[backends.JobID(id)] = as
			}
		}
	}
	return out, nil
}

// askByID reads what the server knows of these jobs. One that it does not know
// is not listed.
func (b *Backend) askByID(ctx context.Context, sought map[backends.JobID]string, settings *server, l *listing) error {
	as := map[string][]string{}
	for id, user := range sought {
		if !settings.othersHidden {
			user = ""
		}
		as[user] = append(as[user], string(id))
	}
	for user, ids := range as {
		slices.Sort(ids)
		for some := range slices.Chunk(ids, askedAtOnce) {
			if err := b.askSome(ctx, user, some, settings, l); err != nil || !settings.history {
				return err
			}
		}
	}
	return nil
}

func (b *Backend) askSome(ctx context.Context, user string, ids []string, settings *server, l *listing) error {
	r := &reader{heads: []string{"Job Id: "}, emit: func(j *block) error {
		if !slices.Contains(ids, j.name) {
			return nil // a value of another job that looks like one
		}
		return l.add(j)
	}}
	res, err := b.ask(ctx, "observe", command{argv: append([]string{"qstat", "-x", "-f"}, ids...), user: user, stdout: r})
	if err != nil {
		return err
	}
	complaint := string(res.Stderr)
	if strings.Contains(complaint, textNoHistory) {
		settings.history = false
		b.keep(*settings)
		return nil
	}
	for line := range strings.Lines(complaint) {
		if strings.Contains(line, "qstat:") && !strings.Contains(line, textUnknownJob) {
			return refusal("observe", "qstat", res)
		}
	}
	if res.Exit != 0 && !strings.Contains(complaint, textUnknownJob) {
		return refusal("observe", "qstat", res)
	}
	if err := r.close(); err != nil {
		return &backends.Error{Op: "observe", Kind: backends.KindTransient, Err: fmt.Errorf("read the answer of qstat: %w", err)}
	}
	return b.settle(ctx, l)
}
