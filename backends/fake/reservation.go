package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/isthmus-hpc/isthmus/backends"
)

// OpReserve is each call of a backends.Reserver.
const OpReserve Op = "reserve"

var _ backends.Reserver = (*System)(nil)

func reserveError(kind backends.Kind, format string, args ...any) error {
	return &backends.Error{Op: string(OpReserve), Kind: kind, Err: fmt.Errorf(format, args...)}
}

// Reservations is backends.Reserver.
func (s *System) Reservations(ctx context.Context, owner string) ([]backends.Reservation, error) {
	var out []backends.Reservation
	err := s.call(ctx, OpReserve, "", func(*Fault) error {
		for _, name := range slices.Sorted(maps.Keys(s.reservations)) {
			r := s.reservations[name]
			if !backends.OwnsReservation(owner, name) || !r.End.After(s.now) {
				continue
			}
			r.Hosts, r.Users, r.Active = slices.Clone(r.Hosts), slices.Clone(r.Users), !r.Start.After(s.now)
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Reserve is backends.Reserver; Config.NoReservations denies it.
func (s *System) Reserve(ctx context.Context, owner string, r backends.Reservation) error {
	return s.call(ctx, OpReserve, "", func(*Fault) error {
		if err := r.Validate(owner); err != nil {
			return reserveError(backends.KindInvalid, "%w", err)
		}
		if s.cfg.NoReservations {
			return reserveError(backends.KindDenied, "Access/permission denied")
		}
		have, there := s.reservations[r.Name]
		if there && len(r.Unlike(have, s.now)) == 0 {
			return nil
		}
		for _, h := range r.Hosts {
			if s.hostAt(h) < 0 {
				return reserveError(backends.KindInvalid, "host %s does not exist", h)
			}
		}
		if r.Start.Before(s.now) {
			r.Start = s.now
		}
		if there && !have.Start.After(s.now) {
			r.Start = have.Start
		}
		for name, o := range s.reservations {
			if name != r.Name && o.Start.Before(r.End) && r.Start.Before(o.End) && slices.ContainsFunc(o.Hosts, func(h string) bool { return slices.Contains(r.Hosts, h) }) {
				return reserveError(backends.KindTransient, "Requested nodes are busy: reservation %s", name)
			}
		}
		r.Start, r.End = r.Start.Round(0), r.End.Round(0)
		r.Hosts, r.Users = slices.Clone(r.Hosts), slices.Clone(r.Users)
		s.reservations[r.Name] = r
		if r.Start.After(s.now) {
			s.plan(r.Start.Sub(s.now), reservationTurns, &job{})
		}
		s.plan(r.End.Sub(s.now), reservationTurns, &job{})
		return nil
	})
}

// Join is backends.Reserver.
func (s *System) Join(ctx context.Context, owner, name string, jobs []backends.JobRef) error {
	return s.call(ctx, OpReserve, "", func(*Fault) error {
		r, ok := s.reservations[name]
		switch {
		case !backends.OwnsReservation(owner, name):
			return reserveError(backends.KindInvalid, "name: %q is not a name of owner %q", name, owner)
		case s.cfg.NoReservations:
			return reserveError(backends.KindDenied, "Access/permission denied")
		case !ok:
			return reserveError(backends.KindTransient, "Requested reservation is invalid: %q", name)
		}
		for _, ref := range jobs {
			if j := s.find(ref); j != nil && j.state == backends.StatePending && slices.Contains(r.Users, j.spec.User) {
				j.spec.Reservation = name
			}
		}
		return nil
	})
}

// Unreserve is backends.Reserver.
func (s *System) Unreserve(ctx context.Context, owner, name string) error {
	return s.call(ctx, OpReserve, "", func(*Fault) error {
		if !backends.OwnsReservation(owner, name) {
			return reserveError(backends.KindInvalid, "name: %q is not a name of owner %q", name, owner)
		}
		if s.cfg.NoReservations {
			return reserveError(backends.KindDenied, "Access/permission denied")
		}
		for _, j := range s.jobs {
			if j.spec.Reservation == name {
				j.spec.Reservation = ""
			}
		}
		delete(s.reservations, name)
		return nil
	})
}

// endReservations forgets those that are over. As in Slurm, what waits in one waits
// for an administrator from then on.
func (s *System) endReservations() {
	for name, r := range s.reservations {
		if r.End.After(s.now) {
			continue
		}
		delete(s.reservations, name)
		for _, j := range s.pending {
			if j.spec.Reservation == name {
				j.adminHeld = true
			}
		}
	}
}

// keptFrom reports whether a reservation keeps a job off a host now. Those of
// reservations may run anywhere else.
func (s *System) keptFrom(host string, spec *backends.JobSpec) bool {
	name := s.reservedBy(host)
	return name != "" && name != spec.Reservation
}

// reservedBy is the reservation that has a host now, "" for none.
func (s *System) reservedBy(host string) string {
	for name, r := range s.reservations {
		if !r.Start.After(s.now) && r.End.After(s.now) && slices.Contains(r.Hosts, host) {
			return name
		}
	}
	return ""
}

// refuseReserved says why a job may not use the reservation that it names. Where
// none can be made, any name will do.
func (s *System) refuseReserved(spec *backends.JobSpec) error {
	if spec.Reservation == "" || !s.cfg.Capabilities.Reserve {
		return nil
	}
	r, ok := s.reservations[spec.Reservation]
	refuse := func(kind backends.Kind, format string, args ...any) error {
		return &backends.Error{Op: string(OpSubmit), Kind: kind, Key: spec.Key, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case !ok || !r.End.After(s.now):
		return refuse(backends.KindInvalid, "Requested reservation is invalid: %q", spec.Reservation)
	case !slices.Contains(r.Users, spec.User):
		return refuse(backends.KindDenied, "reservation %q is not for user %s", spec.Reservation, spec.User)
	}
	return nil
}
