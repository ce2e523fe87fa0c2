package staging

import (
	"errors"
	"fmt"

	"github.com/isthmus-hpc/isthmus/backends"
)

// ErrNotFound is wrapped when the gang, member or log does not exist.
var ErrNotFound = errors.New("not found")

// Error is every error of a Client. Its kind is never UnknownOutcome, because
// every verb may be repeated.
type Error struct {
	Verb string
	User string
	Key  backends.Key // empty for collect
	Kind backends.Kind
	Err  error
}

func (e *Error) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("%s as %s: %s: %v", e.Verb, e.User, e.Kind, e.Err)
	}
	return fmt.Sprintf("%s gang %s as %s: %s: %v", e.Verb, e.Key, e.User, e.Kind, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// As lets backends.KindOf see the kind, so that a caller sorts the errors of
// all effects in one way.
func (e *Error) As(target any) bool {
	t, ok := target.(**backends.Error)
	if ok {
		*t = &backends.Error{Op: e.Verb, Kind: e.Kind, Key: e.Key, Err: e.Err}
	}
	return ok
}
