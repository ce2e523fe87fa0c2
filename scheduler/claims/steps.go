package claims

import "context"

// A claim may allow more combinations of devices than anybody can look through: ten
// requests of one device each with an attribute in common have millions on a node of
// eighteen devices. So a search ends after a number of steps, which, unlike a time, is the
// same for all who decide from the same snapshot.
const (
	// mostSteps is how long a search for devices on one node may take.
	mostSteps = 2000
	// mostWasted is how many steps all searches of a cycle that came to no end may take
	// together. After that claims that had such a search are refused, and each other gets
	// fewSteps, which are plenty for one that has room.
	mostWasted = 50_000
	fewSteps   = 200
)

// tooMany is why a node is refused whose devices were not looked through.
const tooMany = "its devices were not looked through: the resource claim allows too many combinations of them"

// steps is a context that is over after a number of steps: the allocator asks once in each.
type steps struct {
	context.Context
	left int
}

// Err counts a step.
func (s *steps) Err() error {
	if s.left--; s.left < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// patience is how many steps a search for claims of these shapes gets; 0 is no search.
func (b *base) patience(shapes string) int {
	switch {
	case b.wasted < mostWasted:
		return mostSteps
	case b.endless[shapes]:
		return 0
	}
	return fewSteps
}

// waste notes a search that came to no end.
func (b *base) waste(shapes string, took int) {
	b.wasted += took
	b.endless[shapes] = true
}
