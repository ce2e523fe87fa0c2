package pbs

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
)

// A job that comes after others is given to PBS with "-W depend=afterok:...". The server
// puts a system hold on it beside ours, takes that off when all of them have ended with
// exit status 0, and deletes the job as soon as one of them ends in another way, is
// deleted, or is not known (PBS User's Guide, "Using Job Dependencies"; the form of the
// hold was recorded on OpenPBS 23.06.06).

// afterSince is the first major version whose server deletes what comes after a job that
// is deleted, whatever that job's exit status; earlier ones look at the status alone,
// which is 0 of one that never ran.
const afterSince = 20

// servesAfter says that jobs may come after others. Torque takes a job that was deleted
// from its queue for one that ended with 0. A version that was not read yet counts as a
// new one: Submit reads it before it does anything.
func servesAfter(dialect Dialect, version string) bool {
	if dialect != Pro {
		return false
	}
	major, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	return version == "" || err == nil && n >= afterSince
}

// checkAfter refuses what could be taken for something else in a list of dependencies.
func checkAfter(dialect Dialect, after []backends.JobID) error {
	if len(after) > 0 && dialect != Pro {
		return fmt.Errorf("after: %s and others: Torque may start a job although one before it was deleted; submit it when they have ended", after[0])
	}
	for i, id := range after {
		if !idForm.MatchString(string(id)) {
			return fmt.Errorf("after[%d]: %.40q is not a job id", i, string(id))
		}
	}
	return nil
}

// dependOn gives the options of qsub for the jobs that come before.
func dependOn(after []backends.JobID) []string {
	if len(after) == 0 {
		return nil
	}
	return []string{"-W", "depend=" + afterOK + idList(after)}
}

const afterOK = "afterok:"

func idList(ids []backends.JobID) string {
	var out []string
	for _, id := range ids {
		out = append(out, string(id))
	}
	return strings.Join(out, ":")
}

// behindOthers says that the system hold of a job is that of its dependency. One that an
// administrator put beside it cannot be told from it.
func behindOthers(r *block) bool {
	return strings.Contains(r.get("hold_types"), "s") && strings.Contains(r.get("depend"), afterOK)
}

// givenUp says that the server ended a job since what it came after did not end well: it
// still has its dependency, and nothing tells of a run.
func givenUp(r *block) bool {
	runs := r.first("run_count", "start_count")
	return strings.Contains(r.get("depend"), afterOK) && r.first("stime", "start_time", "exec_host") == "" && (runs == "" || runs == "0")
}

// deletedAtOnce says that the server, which remembers no job that ended, has deleted a
// job that it gave an id a moment ago. It does that when one that comes before has ended
// meanwhile, well or not. The job was held and has run nothing, and the next try finds
// that other one ended. Where the server does not answer, the job is taken to be there.
func (b *Backend) deletedAtOnce(ctx context.Context, spec backends.JobSpec, id backends.JobID) bool {
	res, err := b.ask(ctx, "submit", command{argv: []string{"qstat", "-f", string(id)}, user: spec.User})
	return err == nil && res.Exit != 0 && ended(res.Said())
}

// recordAfter notes what a job comes after, for servers that forget a job which they end.
// Without the note such a job is one that vanished, so that it cannot be written is no
// failure of the submission.
func (b *Backend) recordAfter(ctx context.Context, spec backends.JobSpec, id backends.JobID, records string) {
	text := fmt.Sprintf("Job Id: %s\n    record = after\n    queue = %s\n    submitted = %d\n    after = %s\n    tag = %s\n",
		id, spec.Partition, b.config.Now().Unix(), idList(spec.After), backends.Tag(spec.Owner, spec.Key))
	_, _ = b.ask(ctx, "submit", command{
		argv: []string{"/bin/sh", "-c", writeScript, "sh", records, string(id), "after"}, user: spec.User, stdin: strings.NewReader(text),
	})
}

// giveUp adds the jobs that never started since one before them ended in another way
// than well: no other record tells of them, and the queue does not list them. One of
// which all that is known ended well, or of which nothing is known, may have run.
func (l *listing) giveUp(byUser map[string]map[backends.JobID]*note) {
	for again := true; again; {
		again = false
		for _, user := range l.users {
			for id, n := range byUser[user] {
				if _, listed := l.jobs[id]; listed || n.after == nil || n.run != nil || n.end != nil || n.cancel != nil {
					continue
				}
				owner, key, ok := backends.ParseTag(n.after.get("tag"))
				if !ok || owner != l.owner {
					continue
				}
				firsts := strings.Split(n.after.get("after"), ":")
				at := slices.IndexFunc(firsts, func(first string) bool {
					j, known := l.jobs[backends.JobID(first)]
					return known && j.State.Terminal() && j.State != backends.StateCompleted
				})
				if at < 0 {
					continue
				}
				l.jobs[id] = backends.Job{ID: id, Key: key, Owner: owner, User: user, State: backends.StateCancelled, Reason: reasonDependency,
					Partition: n.after.get("queue"), Submitted: epoch(n.after.get("submitted")), Ended: l.jobs[backends.JobID(firsts[at])].Ended}
				again = true // others may come after this one
			}
		}
	}
}
