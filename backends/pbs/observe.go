package pbs

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// maxHosts bounds the objects of one answer that are kept, and the hosts of a job.
const maxHosts = 100_000

// Observe lists the owner's jobs with one qstat, whatever their number. The
// answer is read as it comes and only the owner's jobs are kept of it. When
// users is empty all users' jobs are looked at.
//
// Where the server keeps ended jobs, a second qstat asks for those that have
// left the queue since. Where it forgets them, one more command a user reads
// their records; where it hides the jobs of others, qstat runs once for each user.
func (b *Backend) Observe(ctx context.Context, owner string, users []string) (backends.Observation, error) {
	fail := func(kind backends.Kind, err error) (backends.Observation, error) {
		return backends.Observation{}, &backends.Error{Op: "observe", Kind: kind, Err: err}
	}
	if err := backends.CheckOwner(owner); err != nil {
		return fail(backends.KindInvalid, err)
	}
	for _, u := range users {
		if err := checkUser(u); err != nil {
			return fail(backends.KindInvalid, err)
		}
	}
	users = slices.Clone(users)
	slices.Sort(users)
	users = slices.Compact(users)
	settings, err := b.settled(ctx, "observe")
	if err != nil {
		return backends.Observation{}, err
	}
	asked := []string{""}
	if settings.othersHidden && len(users) > 0 {
		asked = users
	}
	found := listing{dialect: b.config.Dialect, owner: owner, users: users, jobs: map[backends.JobID]backends.Job{}, complete: true}
	if settings.history && len(users) > 0 {
		err = b.listPast(ctx, asked, &settings, &found)
	} else {
		err = b.listAll(ctx, asked, &settings, &found)
	}
	if err != nil {
		return backends.Observation{}, err
	}
	if !settings.history {
		b.remember(ctx, &found)
	}
	out := backends.Observation{Complete: found.complete}
	for _, j := range found.jobs {
		if j.Owner == owner {
			out.Jobs = append(out.Jobs, j)
		}
	}
	slices.SortFunc(out.Jobs, func(a, b backends.Job) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out, nil
}

// listing gathers jobs that carry a tag of ours, of any owner.
type listing struct {
	dialect  Dialect
	owner    string // whose jobs are wanted
	users    []string
	jobs     map[backends.JobID]backends.Job
	doubtful []backends.JobID // listed more than once, or as they cannot be
	live     bool             // what is added now is of the queue alone
	complete bool
}

// listAll reads the queue, with all that the server knows of ended jobs.
func (b *Backend) listAll(ctx context.Context, asked []string, settings *server, into *listing) error {
	for _, user := range asked {
		if err := b.list(ctx, user, true, settings, into); err != nil {
			return err
		}
	}
	return b.settle(ctx, into)
}

// list reads the queue as user sees it, with the history when past is true and
// the server has one.
func (b *Backend) list(ctx context.Context, user string, past bool, settings *server, into *listing) error {
	for {
		argv := []string{"qstat", "-f"}
		if past && settings.history { // never in Torque, where -x is XML
			argv = []string{"qstat", "-x", "-f"}
		}
		wide := b.config.Dialect == Pro && !b.isNarrow()
		if wide {
			argv = append(argv, "-w")
		}
		r := &reader{heads: []string{"Job Id: "}, emit: into.add}
		res, err := b.ask(ctx, "observe", command{argv: argv, user: user, stdout: r})
		if err != nil {
			return err
		}
		complaint := transport.OneLine(string(res.Stderr))
		if past && settings.history && strings.Contains(complaint, textNoHistory) {
			// Switched off meanwhile; qstat says so and exits with 0.
			settings.history = false
			b.keep(*settings)
			continue
		}
		if res.Exit != 0 && wide && (strings.Contains(complaint, "usage:") || strings.Contains(complaint, "conflicting")) {
			// An older release: folded lines are read as well.
			b.mu.Lock()
			b.narrow = true
			b.mu.Unlock()
			continue
		}
		if res.Exit != 0 {
			return refusal("observe", argv[0], res)
		}
		if err := r.close(); err != nil {
			return &backends.Error{Op: "observe", Kind: backends.KindTransient, Err: fmt.Errorf("read the answer of qstat: %w", err)}
		}
		if strings.Contains(complaint, "qstat:") {
			into.complete = false
		}
		return nil
	}
}

func (b *Backend) isNarrow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.narrow
}

// add takes one job of the list when it is one of ours.
func (l *listing) add(r *block) error {
	owner, key, ok := backends.ParseTag(variable(r.get("variable_list"), variableTag))
	user, _, _ := strings.Cut(r.first("euser", "job_owner"), "@")
	if !ok || !idForm.MatchString(r.name) || len(l.users) > 0 && !slices.Contains(l.users, user) {
		return nil
	}
	j := backends.Job{ID: backends.JobID(r.name), Key: key, Owner: owner, User: user}
	if err := fill(&j, l.dialect, r); err != nil && owner != l.owner {
		return nil
	} else if err != nil {
		return fmt.Errorf("job %s: %w", j.ID, err)
	}
	if _, twice := l.jobs[j.ID]; twice || l.live && j.State.Terminal() {
		l.doubtful = append(l.doubtful, j.ID)
	}
	if len(l.jobs) >= maxHosts {
		return fmt.Errorf("more than %d jobs of ours", maxHosts)
	}
	l.jobs[j.ID] = j
	return nil
}

// settle asks once more for each job that was listed twice: the values of
// another user's job can hold line ends, and so look like a job of ours.
func (b *Backend) settle(ctx context.Context, l *listing) error {
	doubtful := slices.Compact(slices.Sorted(slices.Values(l.doubtful)))
	l.doubtful = nil
	for _, id := range doubtful {
		delete(l.jobs, id)
		argv := []string{"qstat", "-f", string(id)}
		if b.config.Dialect == Pro {
			if s, err := b.settled(ctx, "observe"); err == nil && s.history {
				argv = []string{"qstat", "-x", "-f", string(id)}
			}
		}
		res, err := b.ask(ctx, "observe", command{argv: argv})
		if err != nil {
			return err
		}
		if res.Exit != 0 {
			if ended(res.Said()) {
				continue
			}
			return refusal("observe", argv[0], res)
		}
		// Only this one job is in the answer, so what comes first is the server's.
		all, err := read(string(res.Stdout), "Job Id: ")
		if err == nil && len(all) > 0 && all[0].name == string(id) {
			err = l.add(all[0])
		}
		if err != nil {
			return &backends.Error{Op: "observe", Kind: backends.KindTransient, Err: fmt.Errorf("read what qstat says of job %s: %w", id, err)}
		}
	}
	return nil
}

// remember adds what the records tell of jobs that the queue no longer lists.
func (b *Backend) remember(ctx context.Context, l *listing) {
	byUser, complete := b.readRecords(ctx, l.users)
	l.complete = l.complete && complete
	defer l.giveUp(byUser)
	for _, user := range l.users {
		for id, n := range byUser[user] {
			if seen, listed := l.jobs[id]; listed {
				// Torque lists ended jobs for a while, and does not say which were cancelled.
				if seen.State.Terminal() && seen.User == user && (n.cancel != nil) && seen.State != backends.StateTimeout {
					seen.State, seen.Reason = backends.StateCancelled, ""
					l.jobs[id] = seen
				}
				continue
			}
			if j, ok := n.job(b.config.Dialect, id, user, l.owner); ok {
				l.jobs[id] = j
			}
		}
	}
}

// fill reads a job of qstat.
func fill(j *backends.Job, dialect Dialect, r *block) error {
	letter := r.get("job_state")
	if letter == "" {
		return fmt.Errorf("the state is missing")
	}
	j.Partition = r.get("queue")
	j.Submitted = parseTime(r.first("ctime", "qtime"))
	runs, err := count(r.first("run_count", "start_count"))
	if err != nil {
		return err
	}
	state, live := stateOf(letter)
	if live && state == backends.StatePending {
		j.State, j.Restarts = state, runs
		j.Reason = transport.OneLine(r.get("comment"))
		j.Never = never(j.Reason)
		if letter == "H" {
			if held, reason := holdReason(r.get("hold_types"), behindOthers(r)); reason != "" {
				j.Held, j.Reason = held, reason
			}
		}
		j.Estimated = parseTime(r.get("estimated.start_time"))
		if j.Estimated.IsZero() {
			j.Estimated = epoch(r.get("estimated.start_time"))
		}
		return nil
	}
	j.Restarts = max(0, runs-1)
	j.Started = parseTime(r.first("stime", "start_time"))
	if j.Hosts, err = execHosts(r.get("exec_host")); err != nil {
		return err
	}
	if live {
		j.State = state
		if state == backends.StateUnknown {
			j.Reason = "state " + letter
		}
		return nil
	}
	o := ending(dialect, r)
	j.State, j.ExitCode, j.Signal, j.Reason = o.state, o.exit, o.signal, o.reason
	if j.Ended = parseTime(r.first("obittime", "comp_time")); j.Ended.Before(j.Started) || j.Ended.IsZero() {
		// The obituary may be an earlier run's.
		if j.Ended = epoch(r.get("history_timestamp")); j.Ended.IsZero() {
			j.Ended = parseTime(r.get("mtime"))
		}
	}
	return nil
}

// count reads a number of runs; a missing one is 0.
func count(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%.40q is not a count", text)
	}
	return n, nil
}

// parseTime reads "Tue Nov 24 03:19:13 2026", which the commands write in the
// time zone of their environment, UTC here; zero when it is none.
func parseTime(text string) time.Time {
	t, err := time.Parse(time.ANSIC, strings.TrimSpace(text))
	if err != nil {
		return time.Time{}
	}
	return t
}

// execHosts gives the distinct hosts of "n1/0*4+n2/1*4" or "n1/0-3+n1/4", in
// their order.
func execHosts(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	var hosts []string
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, "+") {
		name, _, _ := strings.Cut(part, "/")
		if name == "" || strings.ContainsAny(name, " \t\n,") {
			return nil, fmt.Errorf("%.80q in the list of hosts", part)
		}
		if seen[name] {
			continue
		}
		if len(hosts) >= maxHosts {
			return nil, fmt.Errorf("more than %d hosts", maxHosts)
		}
		seen[name] = true
		hosts = append(hosts, name)
	}
	return hosts, nil
}
