package backendtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/fake"
)

// mutant is a good backend with one method spoilt.
type mutant struct {
	*fake.System
	submit  func(context.Context, backends.JobSpec) (backends.JobID, error)
	release func(context.Context, backends.JobRef) error
	cancel  func(context.Context, backends.JobRef) error
	observe func(context.Context, string, []string) (backends.Observation, error)
	end     func(ctx context.Context, owner, name string) error
}

func (m *mutant) Unreserve(ctx context.Context, owner, name string) error {
	if m.end != nil {
		return m.end(ctx, owner, name)
	}
	return m.System.Unreserve(ctx, owner, name)
}

func (m *mutant) Submit(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
	if m.submit != nil {
		return m.submit(ctx, spec)
	}
	return m.System.Submit(ctx, spec)
}

func (m *mutant) Release(ctx context.Context, ref backends.JobRef) error {
	if m.release != nil {
		return m.release(ctx, ref)
	}
	return m.System.Release(ctx, ref)
}

func (m *mutant) Cancel(ctx context.Context, ref backends.JobRef) error {
	if m.cancel != nil {
		return m.cancel(ctx, ref)
	}
	return m.System.Cancel(ctx, ref)
}

func (m *mutant) Observe(ctx context.Context, owner string, users []string) (backends.Observation, error) {
	if m.observe != nil {
		return m.observe(ctx, owner, users)
	}
	return m.System.Observe(ctx, owner, users)
}

// mutants maps a mistake to the case that must find it.
func mutants() map[string]struct {
	caught string
	spoil  func(*mutant)
} {
	type entry = struct {
		caught string
		spoil  func(*mutant)
	}
	edit := func(change func(*backends.Job)) func(*mutant) {
		return func(m *mutant) {
			m.observe = func(ctx context.Context, owner string, users []string) (backends.Observation, error) {
				got, err := m.System.Observe(ctx, owner, users)
				for i := range got.Jobs {
					change(&got.Jobs[i])
				}
				return got, err
			}
		}
	}
	return map[string]entry{
		"submit releases": {"held job never runs", func(m *mutant) {
			m.submit = func(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
				id, err := m.System.Submit(ctx, spec)
				if err == nil {
					err = m.System.Release(ctx, backends.JobRef{ID: id})
				}
				return id, err
			}
		}},
		"submit forgets what a job comes after": {"a job after others", func(m *mutant) {
			m.submit = func(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
				spec.After = nil
				return m.System.Submit(ctx, spec)
			}
		}},
		"submit remembers one that a job comes after": {"a job after others", func(m *mutant) {
			m.submit = func(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
				spec.After = spec.After[:min(1, len(spec.After))]
				return m.System.Submit(ctx, spec)
			}
		}},
		"submit finds the key again": {"one key, two jobs", func(m *mutant) {
			seen := map[backends.Key]backends.JobID{}
			m.submit = func(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
				if id, ok := seen[spec.Key]; ok {
					return id, nil
				}
				id, err := m.System.Submit(ctx, spec)
				seen[spec.Key] = id
				return id, err
			}
		}},
		"release twice fails": {"release is safe to repeat", func(m *mutant) {
			done := map[backends.JobID]bool{}
			m.release = func(ctx context.Context, ref backends.JobRef) error {
				if done[ref.ID] {
					return errors.New("it is not held")
				}
				done[ref.ID] = true
				return m.System.Release(ctx, ref)
			}
		}},
		"cancel forgets running jobs": {"cancel a running job, terminate signal first", func(m *mutant) {
			m.cancel = func(ctx context.Context, ref backends.JobRef) error {
				if j, ok := m.Job(ref.ID); ok && j.State == backends.StateRunning {
					m.Finish(ref.ID, 0, 9)
				}
				return m.System.Cancel(ctx, ref)
			}
		}},
		"cancel of an unknown job fails": {"cancel an unknown job", func(m *mutant) {
			m.cancel = func(ctx context.Context, ref backends.JobRef) error {
				if _, ok := m.Job(ref.ID); !ok {
					return errors.New("no such job")
				}
				return m.System.Cancel(ctx, ref)
			}
		}},
		"observe lists every owner": {"observe lists one owner only", func(m *mutant) {
			m.observe = func(context.Context, string, []string) (backends.Observation, error) {
				return backends.Observation{Jobs: m.Jobs(), Complete: true}, nil
			}
		}},
		"observe in reverse": {"observe is ordered and costs one query", func(m *mutant) {
			m.observe = func(ctx context.Context, owner string, users []string) (backends.Observation, error) {
				got, err := m.System.Observe(ctx, owner, users)
				slices.Reverse(got.Jobs)
				return got, err
			}
		}},
		"observe ignores the context": {"an ended context is an error", func(m *mutant) {
			m.observe = func(ctx context.Context, owner string, users []string) (backends.Observation, error) {
				return m.System.Observe(context.WithoutCancel(ctx), owner, users)
			}
		}},
		"the exit code is lost": {"exit code", edit(func(j *backends.Job) { j.ExitCode = 0 })},
		"the signal is lost":    {"signal", edit(func(j *backends.Job) { j.Signal = 0 })},
		"the key is lost":       {"submit echoes in observe", edit(func(j *backends.Job) { j.Key = "" })},
		"the reason is lost":    {"gang waits whole", edit(func(j *backends.Job) { j.Reason = "" })},
		"held is not told":      {"held job never runs", edit(func(j *backends.Job) { j.Held = false })},
		"timeout reads failed": {"run-time limit", edit(func(j *backends.Job) {
			if j.State == backends.StateTimeout {
				j.State = backends.StateFailed
			}
		})},
		"licences are forgotten": {"licences", func(m *mutant) {
			m.submit = func(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
				spec.Licenses = nil
				return m.System.Submit(ctx, spec)
			}
		}},
		"a reservation outlives its end": {"reservations", func(m *mutant) {
			m.end = func(context.Context, string, string) error { return nil }
		}},
		"a wrong partition looks transient": {"unknown partition is invalid", func(m *mutant) {
			m.submit = func(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
				id, err := m.System.Submit(ctx, spec)
				if backends.KindOf(err) == backends.KindInvalid {
					err = &backends.Error{Op: "submit", Kind: backends.KindTransient, Key: spec.Key, Err: err}
				}
				return id, err
			}
		}},
	}
}

const mutantVariable = "BACKENDTEST_MUTANT"

// TestSuiteFindsMistakes runs the suite against each mutant in a process of its
// own, since a failure is what is wanted there.
func TestSuiteFindsMistakes(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range mutants() {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestMutant$", "-test.v")
			cmd.Env = append(os.Environ(), mutantVariable+"="+name)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("the suite passes (%v)", err)
			}
			if want := "--- FAIL: TestMutant/" + strings.ReplaceAll(m.caught, " ", "_"); !strings.Contains(string(out), want) {
				t.Fatalf("the suite fails without %q:\n%s", want, out)
			}
			if !strings.Contains(string(out), "what a user loses: ") {
				t.Error("the failure does not say what a user loses")
			}
		})
	}
}

// TestMutant is the suite against the mutant that the environment names, or
// against the unspoilt backend.
func TestMutant(t *testing.T) {
	spoil := mutants()[os.Getenv(mutantVariable)].spoil
	backendtest.Run(t, func(*testing.T) backendtest.Harness {
		programs, traces := map[string]backendtest.Program{}, map[string]*backendtest.Trace{}
		cfg := fake.Uniform(2, 4, 1000, "", 0)
		cfg.MinJobAge = time.Hour
		cfg.Program = func(spec backends.JobSpec) fake.Behaviour {
			p, trace := programs[spec.WorkDir], traces[spec.WorkDir]
			return fake.Behaviour{
				Forever: p.UntilTerm, ExitCode: p.ExitCode, Signal: p.Signal, IgnoreTerm: p.IgnoreTerm,
				OnStart: func(fake.Run) { trace.Starts++ }, OnTerm: func(fake.Run) { trace.Terms++ },
			}
		}
		m := &mutant{System: fake.New(cfg)}
		if spoil != nil {
			spoil(m)
		}
		return backendtest.Harness{
			Backend: m, Owner: "mine", OtherOwner: "other", User: "alice", Partition: "main", Slots: 8,
			Place: func(_ *testing.T, name string, p backendtest.Program) string {
				dir := fmt.Sprintf("/sim/p%d/%s", len(programs), name)
				programs[dir], traces[dir] = p, &backendtest.Trace{}
				return dir
			},
			Trace: func(_ *testing.T, dir string) backendtest.Trace { return *traces[dir] },
			Wait:  func() { m.Advance(time.Second) }, Rounds: 100,
			Singleton: true, Walltime: time.Minute,
		}
	})
}
