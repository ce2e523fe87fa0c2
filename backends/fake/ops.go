package fake

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Op names an operation of the Backend, as in backends.Error.
type Op string

// The operations.
const (
	OpSubmit    Op = "submit"
	OpRelease   Op = "release"
	OpCancel    Op = "cancel"
	OpObserve   Op = "observe"
	OpInventory Op = "inventory"
)

var _ backends.Backend = (*System)(nil)

// call runs effect as one call of op, with the faults that apply.
func (s *System) call(ctx context.Context, op Op, key backends.Key, effect func(*Fault) error) error {
	fail := func(kind backends.Kind, err error) error {
		return &backends.Error{Op: string(op), Kind: kind, Key: key, Err: err}
	}
	s.mu.Lock()
	s.audit.calls[op]++
	f := s.faultFor(op, key)
	s.unlock()
	if f != nil && f.Delay > 0 {
		s.Advance(f.Delay)
	}
	if err := ctx.Err(); err != nil {
		return fail(backends.KindTransient, err)
	}
	if f != nil && f.fails() && !f.After {
		return fail(f.Kind, f.cause())
	}
	s.mu.Lock()
	err := effect(f)
	if err == nil {
		s.audit.done[op]++
		s.schedule()
	}
	s.unlock()
	if err == nil && f != nil && f.fails() {
		return fail(f.Kind, f.cause())
	}
	return err
}

// Submit is backends.Backend.
func (s *System) Submit(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
	var id backends.JobID
	err := s.call(ctx, OpSubmit, spec.Key, func(*Fault) error {
		refuse := func(kind backends.Kind, format string, args ...any) error {
			return &backends.Error{Op: string(OpSubmit), Kind: kind, Key: spec.Key, Err: fmt.Errorf(format, args...)}
		}
		if spec.Host != "" {
			return refuse(backends.KindInvalid, "host: %q: hosts are left out instead", spec.Host)
		}
		if err := spec.Validate(); err != nil {
			return refuse(backends.KindInvalid, "check the job: %w", err)
		}
		if err := spec.Unserved(s.cfg.Capabilities); err != nil {
			return refuse(backends.KindInvalid, "check the job: %w", err)
		}
		for name, n := range spec.Licenses {
			if total := s.cfg.Licenses[name]; n > total {
				return refuse(backends.KindInvalid, "licenses: %q: %d, and there are %d", name, n, total)
			}
		}
		if len(spec.Components) > 1 && !s.cfg.Capabilities.Heterogeneous {
			return refuse(backends.KindInvalid, "components: only plain jobs are supported")
		}
		if len(s.cfg.Users) > 0 && !slices.Contains(s.cfg.Users, spec.User) {
			return refuse(backends.KindDenied, "user %s has no account", spec.User)
		}
		if err := s.refuseReserved(&spec); err != nil {
			return err
		}
		if len(spec.After) > 0 && !s.cfg.Capabilities.After {
			return refuse(backends.KindInvalid, "after: jobs cannot wait for others")
		}
		p := s.partition(spec.Partition)
		if p == nil {
			return refuse(backends.KindInvalid, "partition: %q does not exist", spec.Partition)
		}
		s.jobNo++
		j := &job{
			id: s.newID(), no: s.jobNo, spec: cloneSpec(spec), partition: p, priority: p.Priority,
			state: backends.StatePending, held: true, reason: "JobHeldUser", submitted: s.now,
		}
		for _, first := range spec.After {
			if known := s.jobs[first]; known != nil { // one that is not, counts as met, as in Slurm
				j.awaits = append(j.awaits, known)
			}
		}
		id = j.id
		s.jobs[id] = j
		s.enqueue(j)
		s.audit.log(s, j, "submit")
		return nil
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

func cloneSpec(spec backends.JobSpec) backends.JobSpec {
	spec.Components, spec.Licenses = slices.Clone(spec.Components), maps.Clone(spec.Licenses)
	spec.After = slices.Clone(spec.After)
	for i := range spec.Components {
		spec.Components[i].GPUs = maps.Clone(spec.Components[i].GPUs)
	}
	return spec
}

// Release is backends.Backend. Releasing an unknown id is an error of kind
// Invalid, and so is an id that by now names a job of another key or user.
func (s *System) Release(ctx context.Context, ref backends.JobRef) error {
	return s.call(ctx, OpRelease, ref.Key, func(*Fault) error {
		j := s.find(ref)
		if j == nil {
			return &backends.Error{Op: string(OpRelease), Kind: backends.KindInvalid, Key: ref.Key, Err: fmt.Errorf("job %s of user %s is unknown", ref.ID, ref.User)}
		}
		if j.held {
			j.held, j.released = false, true
			s.audit.log(s, j, "release")
		}
		return nil
	})
}

// find gives the job that ref means, nil when there is none: ids are reused.
func (s *System) find(ref backends.JobRef) *job {
	j := s.jobs[ref.ID]
	if j == nil || ref.Key != "" && ref.Key != j.spec.Key || ref.User != "" && ref.User != j.spec.User {
		return nil
	}
	return j
}

// Cancel is backends.Backend.
func (s *System) Cancel(ctx context.Context, ref backends.JobRef) error {
	return s.call(ctx, OpCancel, ref.Key, func(*Fault) error {
		if j := s.find(ref); j != nil {
			s.audit.log(s, j, "cancel")
			if j.requeue {
				// It is on its way back into the queue: now it is not.
				j.requeue, j.cause = false, backends.StateCancelled
			}
			s.terminate(j, backends.StateCancelled, "Cancelled", j.spec.Grace)
		}
		return nil
	})
}

// Observe is backends.Backend. An empty users lists jobs of all users.
func (s *System) Observe(ctx context.Context, owner string, users []string) (backends.Observation, error) {
	var got backends.Observation
	err := s.call(ctx, OpObserve, "", func(f *Fault) error {
		jobs := s.snapshot()
		got.Complete = true
		if f != nil {
			if f.stale != nil {
				jobs = f.stale
			}
			got.Complete = !f.Incomplete
		}
		for _, j := range jobs {
			if j.Owner != owner || len(users) > 0 && !slices.Contains(users, j.User) {
				continue
			}
			if f != nil && f.Drop != nil && f.Drop(j) {
				continue
			}
			j.Hosts = slices.Clone(j.Hosts)
			got.Jobs = append(got.Jobs, j)
		}
		return nil
	})
	if err != nil {
		return backends.Observation{}, err
	}
	return got, nil
}

// snapshot lists all jobs, ordered by id.
func (s *System) snapshot() []backends.Job {
	jobs := make([]backends.Job, 0, len(s.jobs))
	for _, j := range s.jobs {
		jobs = append(jobs, s.view(j))
	}
	slices.SortFunc(jobs, func(a, b backends.Job) int { return cmp.Compare(a.ID, b.ID) })
	return jobs
}

func (s *System) view(j *job) backends.Job {
	shown := func(t time.Time) time.Time {
		if t.IsZero() {
			return t
		}
		return t.Add(s.skew)
	}
	v := backends.Job{
		ID: j.id, Key: j.spec.Key, Owner: j.spec.Owner, User: j.spec.User, Partition: j.partition.Name,
		State: j.state, Reason: j.reason, Never: j.never, Restarts: j.restarts,
		Held:      j.state == backends.StatePending && (j.held || j.adminHeld),
		Submitted: shown(j.submitted), Started: shown(j.started), Ended: shown(j.ended),
		ExitCode: j.exit, Signal: j.signal,
	}
	seen := map[int]bool{}
	for _, t := range j.tasks {
		if !seen[t.Host] {
			seen[t.Host] = true
			v.Hosts = append(v.Hosts, s.hosts[t.Host].Name)
		}
	}
	slices.Sort(v.Hosts)
	return v
}

// Inventory is backends.Backend.
func (s *System) Inventory(ctx context.Context) (backends.Inventory, error) {
	inv := backends.Inventory{System: "fake", Version: "1"}
	err := s.call(ctx, OpInventory, "", func(*Fault) error {
		if len(s.reservations) > 0 {
			inv.Reservations = map[string][]string{}
		}
		for i := range s.hosts {
			h := &s.hosts[i]
			left := h.left()
			v := backends.Host{
				Name: h.Name, Addr: "127.0.0.1", State: "IDLE", Usable: !h.down, Why: h.why,
				CPUs: h.CPUs, MemoryMiB: h.MemoryMiB, GPUs: maps.Clone(h.GPUs), Features: slices.Clone(h.Features),
				Allocated: backends.Amounts{CPUs: h.CPUs - left.CPUs, MemoryMiB: h.MemoryMiB - left.MemoryMiB},
			}
			for kind, n := range h.GPUs {
				if v.Allocated.GPUs == nil {
					v.Allocated.GPUs = map[string]int64{}
				}
				v.Allocated.GPUs[kind] = n - left.GPUs[kind]
			}
			switch {
			case h.down:
				v.State = "DOWN"
			case s.reservedBy(h.Name) != "":
				name := s.reservedBy(h.Name)
				v.State, v.Usable, v.Reserved, v.Why = "RESERVED", false, true, "reserved by "+name
				inv.Reservations[name] = append(inv.Reservations[name], h.Name)
			case v.Allocated.CPUs > 0:
				v.State = "MIXED"
			}
			inv.Hosts = append(inv.Hosts, v)
		}
		for _, name := range slices.Sorted(maps.Keys(s.cfg.Licenses)) {
			inv.Licenses = append(inv.Licenses, backends.License{Name: name, Total: s.cfg.Licenses[name], Used: s.licenses[name]})
		}
		for _, p := range s.cfg.Partitions {
			v := backends.Partition{
				Name: p.Name, Up: true, Default: p.Default, Hosts: slices.Sorted(slices.Values(p.Hosts)),
				MaxWalltime: p.MaxWalltime, DefaultWalltime: p.DefaultWalltime,
			}
			if len(p.Hosts) == 0 {
				for i := range s.hosts {
					v.Hosts = append(v.Hosts, s.hosts[i].Name)
				}
			}
			inv.Partitions = append(inv.Partitions, v)
		}
		slices.SortFunc(inv.Partitions, func(a, b backends.Partition) int { return cmp.Compare(a.Name, b.Name) })
		return nil
	})
	if err != nil {
		return backends.Inventory{}, err
	}
	return inv, nil
}

// Capabilities is backends.Backend.
func (s *System) Capabilities() backends.Capabilities { return s.cfg.Capabilities }
