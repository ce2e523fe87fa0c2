// Package effect is the one door through which the provider changes the world.
// Production walks straight through it; a test may fail, delay or crash at
// either side of every effect by its name.
package effect

import "context"

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
