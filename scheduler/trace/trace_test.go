package trace_test

import (
	"slices"
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
	// Excel's "CSV UTF-8" begins with a mark.
	if jobs, err = trace.CSV(strings.NewReader("\ufeff" + head + "a,0,10,20,4,u,q\n")); err != nil || len(jobs) != 1 {
		t.Errorf("with a byte-order mark: %+v, %v", jobs, err)
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

func TestSacct(t *testing.T) {
	const head = "JobIDRaw|User|Partition|Submit|Start|End|TimelimitRaw|AllocCPUS|State\n"
	jobs, left, err := trace.Sacct(strings.NewReader(head +
		"12|ann|gpu|2026-03-01T10:00:30|2026-03-01T10:01:00|2026-03-01T10:02:00|5|8|COMPLETED\n" +
		"11|bob|cpu|2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T10:00:50|UNLIMITED|4|FAILED\n" +
		"11.batch|||2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T10:00:50||4|FAILED\n" +
		"13|bob|cpu|2026-03-01T10:00:00|Unknown|Unknown|60|0|PENDING\n" +
		"14|bob|cpu|2026-03-01T10:00:00|None|2026-03-01T10:00:00|60|0|CANCELLED by 1\n"))
	want := []trace.Job{{ID: "11", Run: 50, Size: 4, User: "bob", Queue: "cpu"}, {ID: "12", Submit: 30, Run: 60, Estimate: 300, Size: 8, User: "ann", Queue: "gpu"}}
	if err != nil || left != 3 || !slices.Equal(jobs, want) {
		t.Errorf("got %+v, %d left out, %v", jobs, left, err)
	}
	// The longer way to write a limit, and a trailing bar as of --parsable.
	jobs, _, err = trace.Sacct(strings.NewReader("Submit|Start|End|NCPUS|Timelimit|\n2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T10:00:50|2|1-02:03:04|\n"))
	if err != nil || len(jobs) != 1 || jobs[0].Estimate != 93784 || jobs[0].ID != "1" {
		t.Errorf("got %+v, %v", jobs, err)
	}
	// The last column of a step is empty; before the header is a mark.
	jobs, left, err = trace.Sacct(strings.NewReader("\ufeffJobIDRaw|Submit|Start|End|NCPUS|User\n" +
		"12|2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T10:00:50|4|ann\n12.batch|2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T10:00:50|4|\n"))
	if err != nil || left != 1 || len(jobs) != 1 || jobs[0].User != "ann" || jobs[0].ID != "12" {
		t.Errorf("with an empty last column: %+v, %d left out, %v", jobs, left, err)
	}
	for text, want := range map[string]string{
		"":                     "line 1: want the header",
		"JobID|Submit|Start\n": "line 1: no column",
		head + "1|2\n":         "line 2: 2 fields",
		head + "1|a|b|yesterday|2026-03-01T10:00:00|2026-03-01T10:00:50|5|8|X\n":              `line 2: Submit is "yesterday"`,
		head + "1|a|b|2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T10:00:50|5|many|X\n": `CPUs is "many"`,
		head + "1|a|b|2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T10:00:50|1:2|8|X\n":  `the Timelimit is "1:2"`,
	} {
		if _, _, err := trace.Sacct(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v, want %q", text, err, want)
		}
	}
}

func FuzzSacct(f *testing.F) {
	f.Add("Submit|Start|End|NCPUS|Timelimit\n2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T10:00:50|2|1-02:03:04\n")
	f.Fuzz(func(t *testing.T, s string) {
		jobs, _, err := trace.Sacct(strings.NewReader(s))
		for _, j := range jobs {
			if err != nil || j.Run <= 0 || j.Size <= 0 || j.Submit < 0 || j.Estimate < 0 {
				t.Fatalf("%+v, %v", j, err)
			}
		}
	})
}
