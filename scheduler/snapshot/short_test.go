package snapshot

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// TestWholeIsReadAsItWasTold: what a message tells of a gang's minimum is what it was, and
// other messages tell nothing.
func TestWholeIsReadAsItWasTold(t *testing.T) {
	for _, w := range []*Whole{{Min: 1}, {Min: 3, Tasks: []TaskMinimum{{Task: `a "b", c`, Min: 2}, {Task: "w", Min: 1}}}} {
		if got := ReadWhole(w.Words()); !reflect.DeepEqual(got, w) {
			t.Errorf("%q is read as %+v, want %+v", w.Words(), got, w)
		}
	}
	many := &Whole{Min: 100}
	for i := range 100 {
		many.Tasks = append(many.Tasks, TaskMinimum{Task: fmt.Sprintf("task-%d", i), Min: 1})
	}
	if got := many.Words() + (*Whole)(nil).Words(); got != "" {
		t.Errorf("of none, and of one with 100 tasks, it is said %q", got)
	}
	told := (&Whole{Min: 2}).Words()
	for _, message := range []string{"", "tasks in gang are ready to be scheduled", told + "}", strings.TrimSuffix(told, "}"), strings.Replace(told, "2", "0", 1)} {
		if got := ReadWhole(message); got != nil {
			t.Errorf("%q is read as %+v", message, got)
		}
	}
}
