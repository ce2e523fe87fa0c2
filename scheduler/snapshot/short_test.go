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
	for _, w := range []*Whole{{Min: 1}, {Min: 3, Tasks: []TaskMinimum{{Task: `a "b", c`, Min: 2}, {Task: "w", Min: 1}}}, {Min: 4, Parts: []PartMinimum{{Policy: "p", Size: 2, Min: 2}}}} {
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

// TestPartsThatAGangNeverHad: what it is not told of a gang's parts, as by a scheduler that
// knew of none, is not taken for lost, and of what it is told the lesser counts.
func TestPartsThatAGangNeverHad(t *testing.T) {
	g := &Gang{GangSpec: GangSpec{MinMember: 4, SubGroups: []SubGroup{{Name: "p", Size: 2, Min: 2}}}}
	for _, part := range []string{"0", "0", "1", "2"} {
		g.Pods = append(g.Pods, &Pod{Node: "n", Phase: PodRunning, Policy: "p", SubGroup: part})
	}
	for whole, short := range map[*Whole]bool{
		nil:      true,
		{Min: 4}: false,
		{Min: 4, Parts: []PartMinimum{{Policy: "q", Size: 2, Min: 2}}}: false,
		{Min: 4, Parts: []PartMinimum{{Policy: "p", Size: 2, Min: 1}}}: false,
		{Min: 4, Parts: []PartMinimum{{Policy: "p", Size: 1, Min: 3}}}: false,
		{Min: 4, Parts: []PartMinimum{{Policy: "p", Size: 3, Min: 2}}}: true,
	} {
		if g.Whole = whole; (g.Lacks() != "") != short {
			t.Errorf("it needed %+v: it lacks %q", whole, g.Lacks())
		}
	}
}
