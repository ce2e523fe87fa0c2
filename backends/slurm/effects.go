package slurm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Submit creates the job held, as spec.User.
func (b *Backend) Submit(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
	fail := func(kind backends.Kind, err error) (backends.JobID, error) {
		return "", &backends.Error{Op: "submit", Kind: kind, Key: spec.Key, Err: err}
	}
	if err := check(spec); err != nil {
		return fail(backends.KindInvalid, err)
	}
	res, started, err := b.run(ctx, command{
		argv: sbatchArgs(spec), user: spec.User, stdin: strings.NewReader(backends.LaunchScript),
		timeout: b.config.SubmitTimeout,
	})
	switch {
	case err != nil && !started:
		return fail(backends.KindTransient, err)
	case err != nil:
		return fail(backends.KindUnknownOutcome, err)
	case res.Exit != 0:
		return fail(submitKind(res), fmt.Errorf("sbatch exited with %d: %s", res.Exit, said(res)))
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
	if !idForm.MatchString(id) || more && !clusterForm.MatchString(cluster) {
		return "", fmt.Errorf("sbatch answered %.200q, want a job id", last)
	}
	return backends.JobID(id), nil
}

// Release releases the job, all its components when it is heterogeneous.
func (b *Backend) Release(ctx context.Context, job backends.JobRef) error {
	return b.effect(ctx, "release", job, []string{
		// Released all the same (measured on 22.05): the job waits for a partition
		// that has room for it, and Observe tells the reason.
		"Requested partition configuration not available now",
	}, "scontrol", "release", string(job.ID))
}

// Cancel ends the job. A running job gets SIGTERM in the batch script and all
// tasks at once, and SIGKILL after the cluster's KillWait.
func (b *Backend) Cancel(ctx context.Context, job backends.JobRef) error {
	return b.effect(ctx, "cancel", job, nil, "scancel", string(job.ID))
}

// effect runs a command on a job as the job's user. A complaint that says that
// there is nothing left to do is success, as are those in done.
func (b *Backend) effect(ctx context.Context, op string, job backends.JobRef, done []string, argv ...string) error {
	fail := func(kind backends.Kind, err error) error {
		return &backends.Error{Op: op, Kind: kind, Key: job.Key, Err: err}
	}
	if !idForm.MatchString(string(job.ID)) {
		return fail(backends.KindInvalid, fmt.Errorf("%.40q is not a job id", string(job.ID)))
	}
	// As root the command would reach any user's job.
	if err := checkUser(job.User); err != nil {
		return fail(backends.KindInvalid, err)
	}
	res, started, err := b.run(ctx, command{argv: argv, user: job.User, timeout: b.config.QueryTimeout})
	switch {
	case err != nil && !started:
		return fail(backends.KindTransient, err)
	case err != nil:
		return fail(backends.KindUnknownOutcome, err)
	case res.Exit == 0:
		return nil
	}
	text := said(res)
	if ended(text) || slices.ContainsFunc(done, func(m string) bool { return strings.Contains(text, m) }) {
		return nil
	}
	return fail(classify(text), fmt.Errorf("%s exited with %d: %s", argv[0], res.Exit, text))
}
