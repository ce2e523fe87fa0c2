package backends

import (
	"errors"
	"fmt"
)

// Kind is the class of a failure; it alone decides what the caller does next.
type Kind string

// The kinds.
const (
	// KindTransient: not done, trying again later may work (controller down).
	KindTransient Kind = "Transient"
	// KindThrottled: not done, because of a rate or count limit; try later.
	KindThrottled Kind = "Throttled"
	// KindInvalid: not done, and never will be as asked (unknown partition).
	KindInvalid Kind = "Invalid"
	// KindDenied: not done; the account may not (access denied, bad credentials).
	KindDenied Kind = "Denied"
	// KindUnknownOutcome: it may have been done. Never repeat blindly: observe.
	KindUnknownOutcome Kind = "UnknownOutcome"
)

// Error is every error of a Backend.
type Error struct {
	Op   string // "submit", "release", "cancel", "observe", "inventory", "reserve"
	Kind Kind
	Key  Key // may be empty
	Err  error
}

func (e *Error) Error() string {
	if e.Key != "" {
		return fmt.Sprintf("%s %s: %s: %v", e.Op, e.Key, e.Kind, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.Op, e.Kind, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf gives the kind of err: UnknownOutcome for an error that is not an
// *Error, since nothing is known of it. It is "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindUnknownOutcome
}
