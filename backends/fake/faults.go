package fake

import (
	"errors"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Fault makes calls go wrong. The first fault that matches a call applies to
// it, in the order of injection. The one-line methods below cover the usual ones.
type Fault struct {
	// Op and Key restrict the fault; empty matches all.
	Op  Op
	Key backends.Key
	// Skip lets that many matching calls pass first.
	Skip int
	// Times is how many calls it applies to: 0 is once, or without end when
	// there is a From or To; negative is without end.
	Times int
	// From and To bound it in virtual time, From included; zero is open.
	From, To time.Time

	// Kind is the error; empty is no error (a slow or a wrong answer).
	Kind backends.Kind
	// Err is the cause in the error; nil is a general one.
	Err error
	// After carries the effect out before the error is given.
	After bool
	// Delay passes on the virtual clock before the call has its effect.
	Delay time.Duration

	// Incomplete makes Observe say that its list may lack jobs.
	Incomplete bool
	// Drop leaves jobs out of Observe's list.
	Drop func(backends.Job) bool
	// Stale makes Observe answer as things were when the fault was injected.
	Stale bool

	stale []backends.Job
}

func (f *Fault) fails() bool { return f.Kind != "" }

func (f *Fault) cause() error {
	if f.Err != nil {
		return f.Err
	}
	return errors.New("injected fault")
}

// Inject adds f.
func (s *System) Inject(f Fault) {
	s.mu.Lock()
	defer s.unlock()
	if f.Times == 0 {
		f.Times = 1
		if !f.From.IsZero() || !f.To.IsZero() {
			f.Times = -1
		}
	}
	if f.Stale {
		f.stale = s.snapshot()
	}
	s.faults = append(s.faults, &f)
}

// Fail makes the next call of op fail with kind, not done.
func (s *System) Fail(op Op, kind backends.Kind) { s.Inject(Fault{Op: op, Kind: kind}) }

// LoseReply carries the next call of op out and reports an unknown outcome.
func (s *System) LoseReply(op Op) {
	s.Inject(Fault{Op: op, Kind: backends.KindUnknownOutcome, After: true})
}

// LoseRequest reports an unknown outcome for the next call of op, which is not done.
func (s *System) LoseRequest(op Op) { s.Inject(Fault{Op: op, Kind: backends.KindUnknownOutcome}) }

// Outage makes every call fail from now for d: submits with an unknown outcome
// although nothing is done, as a client that lost its controller sees it.
func (s *System) Outage(d time.Duration) {
	from := s.Now()
	s.Inject(Fault{Op: OpSubmit, Kind: backends.KindUnknownOutcome, From: from, To: from.Add(d)})
	s.Inject(Fault{Kind: backends.KindTransient, From: from, To: from.Add(d)})
}

// Slow makes the next call of op take d of virtual time.
func (s *System) Slow(op Op, d time.Duration) { s.Inject(Fault{Op: op, Delay: d}) }

// IncompleteLists makes the next n lists lack the jobs for which drop is true
// and say so; nil drops all.
func (s *System) IncompleteLists(n int, drop func(backends.Job) bool) {
	if drop == nil {
		drop = func(backends.Job) bool { return true }
	}
	s.Inject(Fault{Op: OpObserve, Times: n, Incomplete: true, Drop: drop})
}

// StaleLists makes the next n lists show the present moment, and claim to be
// complete.
func (s *System) StaleLists(n int) { s.Inject(Fault{Op: OpObserve, Times: n, Stale: true}) }

// ClearFaults removes all faults.
func (s *System) ClearFaults() {
	s.mu.Lock()
	defer s.unlock()
	s.faults = nil
}

// Skew shifts every time that is reported, as a controller whose clock is wrong.
func (s *System) Skew(d time.Duration) {
	s.mu.Lock()
	defer s.unlock()
	s.skew = d
}

// faultFor picks the fault of one call and counts it down.
func (s *System) faultFor(op Op, key backends.Key) *Fault {
	for i, f := range s.faults {
		switch {
		case f.Op != "" && f.Op != op, f.Key != "" && f.Key != key,
			!f.From.IsZero() && s.now.Before(f.From), !f.To.IsZero() && !s.now.Before(f.To):
			continue
		case f.Skip > 0:
			f.Skip--
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
			}
		}
		// A copy: the caller reads it without the lock.
		once := *f
		return &once
	}
	return nil
}
