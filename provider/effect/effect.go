// Package effect is the one door through which the provider changes the world.
// Production walks straight through it; a test may fail, delay or crash at
// either side of every effect by its name.
package effect

import (
	"context"
	"errors"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Gate performs effects. Do blocks for as long as fn does.
type Gate interface {
	// Do performs fn, the effect called name. An error that Do returns without
	// having called fn means that the effect did not happen.
	Do(ctx context.Context, name string, fn func(context.Context) error) error
}

// Open lets every effect happen.
type Open struct{}

// Do calls fn.
func (Open) Do(ctx context.Context, _ string, fn func(context.Context) error) error { return fn(ctx) }

// Class sorts the error of an effect for those who count them: it is one of a few words,
// where the text of an error could be anything, and a user's.
func Class(err error) string {
	var e *backends.Error
	switch {
	case errors.As(err, &e):
		return string(e.Kind)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "Deadline"
	}
	return "Other"
}
