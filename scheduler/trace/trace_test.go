package trace_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/trace"
)

func TestSWF(t *testing.T) {
	jobs, left, err := trace.SWF(strings.NewReader("; a comment\n" +
		"2 30 5 100 8 -1 -1 8 200 -1 1 7 1 -1 3 -1 -1 -1\n" +
		"1 10 0 50 -1 1.5 -1 4 -1 -1 1 7 1 -1 3 -1 -1 -1 ; requested processors only\n" +
		"3 40 0 -1 8 -1 -1 8 200 -1 0 7 1 -1 3 -1 -1 -1\n"))
	want := []trace.Job{{ID: "1", Submit: 10, Run: 50, Size: 4, User: "7", Queue: "3"}, {ID: "2", Submit: 30, Run: 100, Estimate: 200, Size: 8, User: "7", Queue: "3"}}
	if err != nil || left != 1 || len(jobs) != 2 || jobs[0] != want[0] || jobs[1] != want[1] {
		t.Errorf("got %+v, %d left out, %v", jobs, left, err)
	}
}

func TestCSV(t *testing.T) {
	const head = "id,submit,run,estimate,size,user,queue\n"
	jobs, err := trace.CSV(strings.NewReader(head + "b,5,2,0,1,u,q\na,0,10,20,4,u,q\n"))
	if err != nil || len(jobs) != 2 || jobs[0] != (trace.Job{ID: "a", Run: 10, Estimate: 20, Size: 4, User: "u", Queue: "q"}) {
		t.Errorf("got %+v, %v", jobs, err)
	}
	for text, want := range map[string]string{
		"id,submit\n":                   "line 1",
		head + "a,0,x,20,4,u,q\n":       `line 2: run is "x"`,
		head + "a,0,0,20,4,u,q\n":       "line 2: run and size",
		head + "a,0,1,-1,4,u,q\n":       `line 2: estimate is "-1"`,
		head + "a,0,1,1,4,u,q\nb,1,1\n": "line 3",
	} {
		if _, err := trace.CSV(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v, want %q", text, err, want)
		}
	}
	if _, _, err := trace.SWF(strings.NewReader("1 2 3\n")); err == nil || !strings.Contains(err.Error(), "line 1: 3 fields") {
		t.Errorf("a short line gives %v", err)
	}
}

func FuzzSWF(f *testing.F) {
	f.Add("1 10 0 50 4 1.5 -1 4 -1 -1 1 7 1 -1 3 -1 -1 -1\n")
	f.Fuzz(func(t *testing.T, s string) {
		jobs, _, err := trace.SWF(strings.NewReader(s))
		for _, j := range jobs {
			if err != nil || j.Run <= 0 || j.Size <= 0 || j.Submit < 0 {
				t.Fatalf("%+v, %v", j, err)
			}
		}
	})
}
