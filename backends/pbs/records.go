package pbs

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Records are what is left of a job that the server forgot. Each is a small file
// in a directory of the job's user, in the form of "qstat -f":
//
//   - <id>.run, written by the batch script when it starts, with a line more at
//     every terminate signal;
//   - <id>.end, written by the batch script in its place, with the exit code;
//   - <id>.cancel, written by Cancel before it asks for the end;
//   - <id>.after, written by Submit for a job that comes after others.
//
// The user may write there what he likes: a record counts only for jobs of its
// own user, and only when the queue no longer lists the job. What ended is kept
// for a day, what never ended for a month; what a job came after is not needed longer
// than its end.

// recordsParallel bounds how many users' records are read at once.
const recordsParallel = 8

// readScript prints all records, after it removed old ones. A job that ends
// meanwhile takes a file away under its hands; then it prints all once more.
// Nothing is ever written into the script: the directory is its argument.
const readScript = `cd "$1" 2>/dev/null || exit 0
find . -maxdepth 1 -type f \( -name '*.end' -o -name '*.cancel' \) -mmin +1440 -exec sh -c 'for old; do rm -f "$old" "${old%.*}.after"; done' sh {} +
find . -maxdepth 1 -type f -name '*.new' -mmin +1440 -exec rm -f {} +
find . -maxdepth 1 -type f \( -name '*.run' -o -name '*.after' \) -mtime +30 -exec rm -f {} +
for try in 1 2 3 4 5 6 7 8; do
	complaint=$(find . -maxdepth 1 -type f \( -name '*.run' -o -name '*.end' -o -name '*.cancel' -o -name '*.after' \) -exec cat {} + 2>&1 >&3) && exit 0
done 3>&1
printf '%s\n' "$complaint" >&2
exit 1
`

// writeScript puts its input into a file of the records, by renaming.
const writeScript = `umask 077
mkdir -p "$1" && cat >"$1/$2.$3.new" && mv -f "$1/$2.$3.new" "$1/$2.$3"
`

// limitLead is how much earlier than the batch script a run may have begun for the server,
// which counts the run-time limit from there.
const limitLead = 2 * time.Second

// records gives the user's directory.
func (b *Backend) records(user string) (string, error) {
	dir, err := b.config.Records(user)
	if err == nil {
		err = checkDir(dir)
	}
	if err != nil {
		return "", fmt.Errorf("directory for records of user %s: %w", user, err)
	}
	return path.Clean(dir), nil
}

// note is what the records say of one job.
type note struct {
	run, end, cancel, after *block
}

// readRecords reads the records of all users. An account that cannot be used
// hides its own jobs only; complete is false then.
func (b *Backend) readRecords(ctx context.Context, users []string) (byUser map[string]map[backends.JobID]*note, complete bool) {
	byUser, complete = map[string]map[backends.JobID]*note{}, true
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(recordsParallel)
	for _, user := range users {
		group.Go(func() error {
			notes, err := b.readUserRecords(ctx, user)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				complete = false
				return nil // the list is incomplete, which says it
			}
			byUser[user] = notes
			return nil
		})
	}
	_ = group.Wait() // no function gives an error
	return byUser, complete
}

func (b *Backend) readUserRecords(ctx context.Context, user string) (map[backends.JobID]*note, error) {
	dir, err := b.records(user)
	if err != nil {
		return nil, err
	}
	notes := map[backends.JobID]*note{}
	r := &reader{heads: []string{"Job Id: "}, emit: func(rec *block) error {
		id := backends.JobID(rec.name)
		if !idForm.MatchString(rec.name) || len(notes) >= maxHosts {
			return nil
		}
		n := notes[id]
		if n == nil {
			n = &note{}
			notes[id] = n
		}
		switch rec.get("record") {
		case "run":
			n.run = rec
		case "end":
			n.end = rec
		case "after":
			n.after = rec
		case "":
			n.cancel = rec // qstat's own words
		}
		return nil
	}}
	res, err := b.ask(ctx, "observe", command{argv: []string{"/bin/sh", "-c", readScript, "sh", dir}, user: user, stdout: r})
	if err == nil && res.Exit != 0 {
		err = fmt.Errorf("read %s: exit %d: %s", dir, res.Exit, res.Said())
	}
	if err != nil {
		return nil, err
	}
	return notes, r.close()
}

// job makes a Job of what the records of one of user's jobs say. ok is false
// when they do not tell that it ended: a job that vanished without a word is
// not listed, and the caller has its own rule for that.
func (n *note) job(dialect Dialect, id backends.JobID, user, owner string) (j backends.Job, ok bool) {
	j = backends.Job{ID: id, User: user, State: backends.StateCancelled}
	last := n.end
	if last == nil {
		last = n.run
	}
	text := ""
	if last != nil {
		text = last.get("tag")
	} else if n.cancel != nil {
		text = variable(n.cancel.get("variable_list"), variableTag)
	}
	if j.Owner, j.Key, ok = backends.ParseTag(text); !ok || j.Owner != owner {
		return backends.Job{}, false
	}
	if n.cancel != nil {
		var seen backends.Job
		if fill(&seen, dialect, n.cancel) == nil {
			j.Partition, j.Submitted, j.Started, j.Hosts, j.Restarts = seen.Partition, seen.Submitted, seen.Started, seen.Hosts, seen.Restarts
			if seen.State == backends.StatePending {
				j.Started, j.Hosts = time.Time{}, nil
			}
		}
		if j.Ended = epoch(n.cancel.get("cancelled")); j.Ended.IsZero() {
			j.Ended = parseTime(n.cancel.get("mtime"))
		}
	}
	if last == nil {
		return j, true
	}
	j.Partition, j.Started = last.get("queue"), epoch(last.get("start"))
	j.Hosts, _ = execHosts(strings.Trim(last.get("hosts"), "+")) // a wrong list is the user's own
	if j.Submitted.IsZero() {
		j.Submitted = j.Started
	}
	limit, _ := strconv.ParseInt(last.get("limit"), 10, 64)
	term := epoch(last.get("term"))
	overran := limit > 0 && !term.IsZero() && !term.Before(j.Started.Add(time.Duration(limit)*time.Second-limitLead))
	if n.end == nil {
		// The shell was killed too.
		switch {
		case n.cancel != nil:
			j.Signal = 9
		case overran:
			j.State, j.Signal, j.Reason = backends.StateTimeout, 9, "the run-time limit was reached"
		default:
			return backends.Job{}, false
		}
		if j.Ended.Before(term) {
			j.Ended = term
		}
		if j.Ended.Before(j.Started) {
			j.Ended = j.Started
		}
		return j, true
	}
	status, err := strconv.Atoi(last.get("exit_status"))
	if err != nil {
		return backends.Job{}, false
	}
	o := outcomeOf(dialect, status)
	j.State, j.ExitCode, j.Signal, j.Reason, j.Ended = o.state, o.exit, o.signal, o.reason, epoch(last.get("end"))
	switch {
	case n.cancel != nil:
		j.State, j.Reason = backends.StateCancelled, ""
	case overran:
		j.State, j.Reason = backends.StateTimeout, "the run-time limit was reached"
	}
	return j, true
}

// recordCancel notes that the job is about to be cancelled, and what the server
// says of it. gone is true when the server does not know the job any more.
func (b *Backend) recordCancel(ctx context.Context, job backends.JobRef) (gone bool, err error) {
	res, err := b.ask(ctx, "cancel", command{argv: []string{"qstat", "-f", string(job.ID)}, user: job.User})
	if err != nil {
		return false, err
	}
	if res.Exit != 0 {
		if text := res.Said(); !ended(text) {
			return false, refusal("cancel", "qstat", res)
		}
		return true, nil
	}
	all, err := read(string(res.Stdout), "Job Id: ")
	if err != nil || len(all) != 1 {
		return false, errors.Join(fmt.Errorf("read what qstat says of job %s: %d jobs", job.ID, len(all)), err)
	}
	if _, live := stateOf(all[0].get("job_state")); !live {
		return true, nil
	}
	dir, err := b.records(job.User)
	if err != nil {
		return false, err
	}
	// The id as the server and the batch script write it.
	id := all[0].name
	if !idForm.MatchString(id) {
		return false, fmt.Errorf("qstat calls job %s %.60q", job.ID, id)
	}
	text := string(res.Stdout)
	text = strings.TrimRight(text, "\n") + fmt.Sprintf("\n    cancelled = %d\n", b.config.Now().Unix())
	res, err = b.ask(ctx, "cancel", command{
		argv: []string{"/bin/sh", "-c", writeScript, "sh", dir, id, "cancel"}, user: job.User, stdin: strings.NewReader(text),
	})
	if err == nil && res.Exit != 0 {
		err = fmt.Errorf("write the record of job %s into %s: exit %d: %s", job.ID, dir, res.Exit, res.Said())
	}
	return false, err
}

// epoch reads seconds since the epoch; zero when they are none.
func epoch(text string) time.Time {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > 1<<40 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}
