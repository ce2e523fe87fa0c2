package slurmrest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

// Submit creates the job held, as spec.User, and looks that it is: a server
// that does not know the field would start it before it is recorded. A job that
// turns out not to be held is cancelled, and the outcome is unknown.
func (b *Backend) Submit(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
	fail := func(kind backends.Kind, err error) (backends.JobID, error) {
		return "", &backends.Error{Op: "submit", Kind: kind, Key: spec.Key, Err: err}
	}
	if err := slurmjob.Check(spec); err != nil {
		return fail(backends.KindInvalid, err)
	}
	if !utf8.ValidString(spec.WorkDir) {
		return fail(backends.KindInvalid, fmt.Errorf("work dir %.200q: JSON carries UTF-8 only", spec.WorkDir))
	}
	s, err := b.open(ctx, "submit", spec.User)
	if err != nil {
		return "", withKey(err, spec.Key)
	}
	s.key = spec.Key
	if err := spec.Unserved(backends.Capabilities{Licenses: true, Switches: !s.dialect.plain}); err != nil {
		return fail(backends.KindInvalid, fmt.Errorf("REST %s: %w", s.dialect.version, err))
	}
	parts := slurmjob.Describe(spec)
	id, err := s.submit(ctx, s.dialect.submission(parts, backends.LaunchScript, b.environment(spec.User, parts)))
	if err != nil {
		return "", err
	}
	if err := s.verify(ctx, id, spec, parts); err != nil {
		return fail(backends.KindUnknownOutcome, fmt.Errorf("job %s was submitted: %w", id, err))
	}
	return backends.JobID(id), nil
}

func withKey(err error, key backends.Key) error {
	var e *backends.Error
	if errors.As(err, &e) {
		e.Key = key
	}
	return err
}

// submit sends the request. A reply that names a job is success whatever errors
// it tells of: v0.0.38 says of a held job that it is held (2042).
func (s *session) submit(ctx context.Context, body map[string]any) (string, error) {
	var id, inner number
	out := request{
		method: http.MethodPost, path: s.dialect.job("submit"), body: body, effect: true,
		on: map[string]func(*json.Decoder) error{
			"job_id": func(dec *json.Decoder) error { return dec.Decode(&id) },
			"result": func(dec *json.Decoder) error {
				var r struct {
					ID number `json:"job_id"`
				}
				err := dec.Decode(&r)
				inner = r.ID
				return err
			},
		},
	}
	_, err := s.do(ctx, out)
	if id.n == 0 {
		id = inner
	}
	if inner.n != 0 && inner.n != id.n {
		return "", s.fail(backends.KindUnknownOutcome, fmt.Errorf("the reply names two jobs, %d and %d", id.n, inner.n))
	}
	if text := strconv.FormatInt(id.n, 10); slurmjob.ValidID(text) {
		return text, nil
	}
	if err == nil {
		err = s.fail(backends.KindUnknownOutcome, errors.New("the reply names neither a job nor an error"))
	}
	return "", err
}

// verify looks at a job that was just submitted.
func (s *session) verify(ctx context.Context, id string, spec backends.JobSpec, parts []slurmjob.Properties) error {
	var found []slurmjob.Component
	on, seen := jobs(func(c slurmjob.Component, ours bool) {
		if ours || c.ID == id {
			found = append(found, c)
		}
	}, spec.Owner)
	if _, err := s.do(ctx, request{method: http.MethodGet, path: s.dialect.job(id), on: on}); err != nil {
		return fmt.Errorf("look at it: %w", err)
	}
	if !*seen || len(found) == 0 {
		return errors.New("the server does not show it")
	}
	wrong := ""
	for _, c := range found {
		switch {
		case c.Leader != id:
			wrong = fmt.Sprintf("it belongs to job %s", c.Leader)
		case c.Owner != spec.Owner || c.Key != spec.Key:
			wrong = "its comment is not the one that was asked for"
		case c.Offset >= len(parts) || c.Name != parts[c.Offset].Name:
			wrong = fmt.Sprintf("its name is %.40q", c.Name)
		case c.User != spec.User:
			wrong = fmt.Sprintf("it belongs to user %.40q", c.User)
		case !c.Held():
			wrong = "it is not held"
		}
	}
	if wrong == "" {
		return nil
	}
	// It must not run; the caller finds what is left of it by its key.
	undo, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer stop()
	if err := s.cancel(undo, id); err != nil {
		return fmt.Errorf("%s, and it could not be cancelled: %w", wrong, err)
	}
	return fmt.Errorf("%s; it was cancelled", wrong)
}

// Release releases the job, all its components when it is heterogeneous.
func (b *Backend) Release(ctx context.Context, job backends.JobRef) error {
	return b.effect(ctx, "release", job, func(s *session) error { return s.release(ctx, string(job.ID)) })
}

// Cancel ends the job. A running job gets SIGTERM in the batch script and all
// tasks at once, and SIGKILL after the cluster's KillWait.
func (b *Backend) Cancel(ctx context.Context, job backends.JobRef) error {
	return b.effect(ctx, "cancel", job, func(s *session) error { return s.cancel(ctx, string(job.ID)) })
}

func (b *Backend) effect(ctx context.Context, op string, job backends.JobRef, do func(*session) error) error {
	fail := func(err error) error {
		return &backends.Error{Op: op, Kind: backends.KindInvalid, Key: job.Key, Err: err}
	}
	if !slurmjob.ValidID(string(job.ID)) {
		return fail(fmt.Errorf("%.40q is not a job id", string(job.ID)))
	}
	if err := slurmjob.CheckUser(job.User); err != nil {
		return fail(err)
	}
	s, err := b.open(ctx, op, job.User)
	if err != nil {
		return withKey(err, job.Key)
	}
	s.key = job.Key
	return do(s)
}

// release sets the priority that a held job lacks. That the job has ended, or
// waits for a partition that has no room now (2015), is success.
func (s *session) release(ctx context.Context, id string) error {
	// From v0.0.39 on there is one result for each component.
	return s.each(ctx, request{method: http.MethodPost, path: s.dialect.job(id), body: map[string]any{"hold": false}}, "results",
		func(dec *json.Decoder) (e apiError, err error) {
			err = dec.Decode(&e)
			return e, err
		})
}

// cancel asks for the signal that scancel sends by default, to all components.
func (s *session) cancel(ctx context.Context, id string) error {
	// From v0.0.41 on there is a status of each job that got the signal.
	return s.each(ctx, request{method: http.MethodDelete, path: s.dialect.job(id)}, "status",
		func(dec *json.Decoder) (apiError, error) {
			var status struct {
				Error struct {
					Code    number `json:"code"`
					String  text   `json:"string"`
					Message text   `json:"message"`
				} `json:"error"`
			}
			err := dec.Decode(&status)
			return apiError{Code: status.Error.Code, Text: status.Error.String, Description: status.Error.Message}, err
		})
}

// each sends an effect whose reply may tell, in a list, of errors one by one.
func (s *session) each(ctx context.Context, r request, list string, read func(*json.Decoder) (apiError, error)) error {
	var failed []apiError
	r.effect = true
	r.on = map[string]func(*json.Decoder) error{list: func(dec *json.Decoder) error {
		return each(dec, func() error {
			e, err := read(dec)
			if e.number() != 0 {
				failed = append(failed, e)
			}
			return err
		})
	}}
	_, err := s.do(ctx, r)
	if err == nil && len(failed) > 0 {
		err = s.refused(ctx, r, http.StatusOK, failed)
	}
	var said *slurmError
	if !errors.As(err, &said) || len(said.numbers) == 0 {
		return err
	}
	for _, n := range said.numbers {
		if !done(n) {
			return err
		}
	}
	s.accepted()
	return nil
}

// done reports whether an error says that there is nothing left to do.
func done(n int) bool { return slurmjob.EndedNumber(n) || n == 2015 }
