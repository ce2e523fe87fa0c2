package slurm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/groupcommit"
)

// Submit creates the job held, as spec.User.
func (b *Backend) Submit(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
	fail := func(kind backends.Kind, err error) (backends.JobID, error) {
		return "", &backends.Error{Op: "submit", Kind: kind, Key: spec.Key, Err: err}
	}
	if err := slurmjob.Check(spec); err != nil {
		return fail(backends.KindInvalid, err)
	}
	select {
	case b.submits <- struct{}{}:
		defer func() { <-b.submits }()
	case <-ctx.Done():
		return fail(backends.KindTransient, fmt.Errorf("wait for other submissions: %w", ctx.Err()))
	}
	res, started, err := b.run(ctx, command{
		argv: sbatchArgs(spec), user: spec.User, stdin: strings.NewReader(backends.LaunchScript),
		timeout: b.config.SubmitTimeout,
	})
	switch {
	case err != nil && !started:
		return fail(notDone(err), err)
	case err != nil:
		return fail(backends.KindUnknownOutcome, err)
	case res.Exit != 0:
		return fail(submitKind(res), fmt.Errorf("sbatch exited with %d: %s", res.Exit, res.Said()))
	}
	id, err := parseSubmitted(string(res.Stdout))
	if err != nil {
		return fail(backends.KindUnknownOutcome, err)
	}
	return id, nil
}

// parseSubmitted reads the answer of sbatch --parsable: "id" or "id;cluster".
// A site's submit filter may print lines of its own before it.
func parseSubmitted(out string) (backends.JobID, error) {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	last := lines[len(lines)-1]
	id, cluster, more := strings.Cut(last, ";")
	if !slurmjob.ValidID(id) || more && !clusterForm.MatchString(cluster) {
		return "", fmt.Errorf("sbatch answered %.200q, want a job id", last)
	}
	return backends.JobID(id), nil
}

// effect is a command on jobs that may name several at once, and for which a
// repeat is harmless.
type effect struct {
	op   string
	argv []string // what stands before the ids
	sep  string   // "," joins the ids to one argument; "" makes each an argument
	done []string // complaints that mean success
}

func release() effect {
	return effect{op: "release", argv: []string{"scontrol", "release"}, sep: ",", done: []string{
		// Released all the same (measured on 22.05): the job waits for a partition
		// that has room for it, and Observe tells the reason.
		"Requested partition configuration not available now",
	}}
}

func cancel() effect { return effect{op: "cancel", argv: []string{"scancel"}} }

// Release releases the job, all its components when it is heterogeneous. Jobs of
// one user that are released at the same time share a command.
func (b *Backend) Release(ctx context.Context, job backends.JobRef) error {
	return b.together(ctx, b.releases, "release", job)
}

// Cancel ends the job. A running job gets SIGTERM in the batch script and all
// tasks at once, and SIGKILL after the cluster's KillWait. Jobs of one user that
// are cancelled at the same time share a command.
func (b *Backend) Cancel(ctx context.Context, job backends.JobRef) error {
	return b.together(ctx, b.cancels, "cancel", job)
}

// together hands a job to the effect that others may share.
func (b *Backend) together(ctx context.Context, shared *groupcommit.Committer[backends.JobRef], op string, job backends.JobRef) error {
	fail := func(kind backends.Kind, err error) error {
		return &backends.Error{Op: op, Kind: kind, Key: job.Key, Err: err}
	}
	if !slurmjob.ValidID(string(job.ID)) {
		return fail(backends.KindInvalid, fmt.Errorf("%.40q is not a job id", string(job.ID)))
	}
	// As root the command would reach any user's job.
	if err := slurmjob.CheckUser(job.User); err != nil {
		return fail(backends.KindInvalid, err)
	}
	err := shared.Do(ctx, job.User, job)
	var own *backends.Error
	switch {
	case err == nil || errors.As(err, &own):
		return err
	case errors.Is(err, transport.ErrNotStarted):
		return fail(notDone(err), err)
	default:
		return fail(backends.KindUnknownOutcome, err)
	}
}

// effects runs e for several jobs of one user. When the one command for all of
// them complains, it does not say reliably of which; then each is asked alone,
// which is harmless for those that were done.
func (b *Backend) effects(e effect) func(context.Context, string, []backends.JobRef) []error {
	return func(ctx context.Context, user string, jobs []backends.JobRef) []error {
		errs := make([]error, len(jobs))
		if len(jobs) > 1 {
			if b.effect(ctx, e, user, jobs...) == nil {
				return errs
			}
		}
		for i, job := range jobs {
			errs[i] = b.effect(ctx, e, user, job)
		}
		return errs
	}
}

// effect runs one command as the jobs' user. A complaint that says that there is
// nothing left to do is success, as are those in e.done.
func (b *Backend) effect(ctx context.Context, e effect, user string, jobs ...backends.JobRef) error {
	fail := func(kind backends.Kind, err error) error {
		return &backends.Error{Op: e.op, Kind: kind, Key: jobs[0].Key, Err: err}
	}
	ids := make([]string, len(jobs))
	for i, job := range jobs {
		ids[i] = string(job.ID)
	}
	if e.sep != "" {
		ids = []string{strings.Join(ids, e.sep)}
	}
	res, started, err := b.run(ctx, command{argv: slices.Concat(e.argv, ids), user: user, timeout: b.config.QueryTimeout})
	switch {
	case err != nil && !started:
		return fail(notDone(err), err)
	case err != nil:
		return fail(backends.KindUnknownOutcome, err)
	}
	text := res.Said()
	if res.Exit == 0 {
		return nil
	}
	if len(jobs) == 1 && (slurmjob.Ended(text) || slices.ContainsFunc(e.done, func(m string) bool { return strings.Contains(text, m) })) {
		return nil
	}
	return fail(slurmjob.Classify(text), fmt.Errorf("%s exited with %d: %s", e.argv[0], res.Exit, text))
}
