package pbs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Submit creates the job held, as spec.User.
func (b *Backend) Submit(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
	fail := func(kind backends.Kind, err error) (backends.JobID, error) {
		return "", &backends.Error{Op: "submit", Kind: kind, Key: spec.Key, Err: err}
	}
	if err := check(b.config.Dialect, spec); err != nil {
		return fail(backends.KindInvalid, err)
	}
	records, err := b.records(spec.User)
	if err != nil {
		return fail(backends.KindInvalid, err)
	}
	// Torque takes -l select for a resource that it does not know, and PBS
	// takes nodes= for something else than we mean.
	settings, err := b.settled(ctx, "submit")
	if err != nil {
		return fail(backends.KindTransient, unwrapped(err))
	}
	if len(spec.After) > 0 && !b.Capabilities().After {
		return fail(backends.KindInvalid, fmt.Errorf("after: %s and others: this version of PBS may start a job although one before it was deleted; submit it when they have ended", spec.After[0]))
	}
	gpuType, err := b.gpuTypeFor(ctx, spec)
	if err != nil {
		return fail(backends.KindTransient, unwrapped(err))
	}
	args, err := qsubArgs(b.config.Dialect, spec, records, gpuType)
	if err != nil {
		return fail(backends.KindInvalid, err)
	}
	res, started, err := b.run(ctx, command{
		argv: args, user: spec.User, stdin: strings.NewReader(script), timeout: b.config.SubmitTimeout,
	})
	switch {
	case err != nil && !started:
		return fail(backends.KindTransient, err)
	case err != nil:
		return fail(backends.KindUnknownOutcome, err)
	case res.Exit != 0:
		return fail(submitKind(res), fmt.Errorf("qsub exited with %d: %s", res.Exit, res.Said()))
	}
	id, err := parseSubmitted(string(res.Stdout))
	if err != nil {
		return fail(backends.KindUnknownOutcome, err)
	}
	if len(spec.After) > 0 && !settings.history {
		if b.deletedAtOnce(ctx, spec, id) {
			return fail(backends.KindTransient, fmt.Errorf("the server deleted job %s at once: it does not know, or lets nothing come after, one of %s", id, idList(spec.After)))
		}
		b.recordAfter(ctx, spec, id, records)
	}
	b.past.expect(id, spec.User)
	return id, nil
}

// unwrapped takes the cause out of an error of another operation.
func unwrapped(err error) error {
	var e *backends.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// parseSubmitted reads qsub's answer, the id. A site's filter or hook may print
// lines of its own before it.
func parseSubmitted(out string) (backends.JobID, error) {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	last := lines[len(lines)-1]
	if !idForm.MatchString(last) {
		return "", fmt.Errorf("qsub answered %.200q, want a job id", last)
	}
	return backends.JobID(last), nil
}

// Release takes the user's hold off the job. A hold that an administrator or
// the system put on it stays, and Observe tells.
func (b *Backend) Release(ctx context.Context, job backends.JobRef) error {
	return b.effect(ctx, "release", job, "qrls", "-h", "u", string(job.ID))
}

// Cancel ends the job. A running job gets SIGTERM in all its processes at once,
// and SIGKILL after the queue's kill_delay, 10 s by default.
func (b *Backend) Cancel(ctx context.Context, job backends.JobRef) error {
	fail := func(err error) error {
		return &backends.Error{Op: "cancel", Kind: backends.KindTransient, Key: job.Key, Err: unwrapped(err)}
	}
	if err := checkRef(job); err != nil {
		return &backends.Error{Op: "cancel", Kind: backends.KindInvalid, Key: job.Key, Err: err}
	}
	settings, err := b.settled(ctx, "cancel")
	if err != nil {
		return fail(err)
	}
	if !settings.history {
		// The server will not say afterwards that it was cancelled.
		gone, err := b.recordCancel(ctx, job)
		if err != nil {
			return fail(err)
		}
		if gone {
			return nil
		}
	}
	return b.effect(ctx, "cancel", job, "qdel", string(job.ID))
}

func checkRef(job backends.JobRef) error {
	if !idForm.MatchString(string(job.ID)) {
		return fmt.Errorf("%.40q is not a job id", string(job.ID))
	}
	// As root the command would reach any user's job.
	return checkUser(job.User)
}

// effect runs a command on a job as the job's user. A complaint that says that
// there is nothing left to do is success.
func (b *Backend) effect(ctx context.Context, op string, job backends.JobRef, argv ...string) error {
	fail := func(kind backends.Kind, err error) error {
		return &backends.Error{Op: op, Kind: kind, Key: job.Key, Err: err}
	}
	if err := checkRef(job); err != nil {
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
	text := res.Said()
	if ended(text) {
		return nil
	}
	return fail(classify(text), fmt.Errorf("%s exited with %d: %s", argv[0], res.Exit, text))
}
