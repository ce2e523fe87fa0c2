package binder

import (
	"fmt"
	"testing"
	"time"
)

// TestStatusesWaitForBindings follows a burst: one status at a time while bindings
// wait, none for longer than the patience, and all once nothing waits.
func TestStatusesWaitForBindings(t *testing.T) {
	l, start := newLater(), time.Unix(1000, 0)
	for i := range 10 {
		l.add(fmt.Sprint(i), start)
	}
	l.add("3", start.Add(time.Second)) // keeps its place
	for _, step := range []struct {
		busy  bool
		after time.Duration
		want  string
		left  bool
	}{
		{true, 0, "[0]", true},
		{true, patience - 1, "[1]", true},
		{true, patience, "[2 3 4 5 6 7 8 9]", false},
		{true, patience, "[]", false},
	} {
		got, left := l.take(step.busy, start.Add(step.after))
		if fmt.Sprint(got) != step.want || left != step.left {
			t.Errorf("after %s: %v, others left %t; want %s, %t", step.after, got, left, step.want, step.left)
		}
	}
	l.add("a", start)
	l.add("b", start)
	if got, left := l.take(false, start); fmt.Sprint(got) != "[a b]" || left {
		t.Errorf("with nothing to bind: %v, others left %t", got, left)
	}
	if len(l.since) != 0 {
		t.Errorf("%d are kept although none waits", len(l.since))
	}
}
