// Package trace reads records of what a cluster ran: the Standard Workload Format,
// what Slurm's accounting prints, and a simple CSV. Reading is strict: what cannot be
// understood is an error that names the line, never a guess. The package is pure.
package trace

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Job is one job of a trace. Times are in seconds from the start of the trace.
type Job struct {
	ID     string
	Submit int64
	Run    int64
	// Estimate is the run time that was asked for; 0 when none was.
	Estimate int64
	// Size is how many processors the job takes at once.
	Size  int64
	User  string
	Queue string
	// Kind is equal for jobs that run the same; "" when the trace does not say.
	Kind string
}

// Bounds of what is read.
const (
	maxJobs = 5_000_000
	maxTime = 1 << 40
)

// swfFields is how many numbers a line of the Standard Workload Format has.
const swfFields = 18

// SWF reads the Standard Workload Format (Feitelson's archive, version 2.2):
// lines of 18 numbers, -1 for unknown, comments after ";". Jobs that never ran,
// which have no run time or no processors, are left out and counted.
func SWF(r io.Reader) (jobs []Job, left int, err error) {
	lines := bufio.NewScanner(unmarked(r))
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), ";")
		words := strings.Fields(text)
		if len(words) == 0 {
			continue
		}
		if len(words) != swfFields {
			return nil, 0, fmt.Errorf("line %d: %d fields, want %d", n, len(words), swfFields)
		}
		var v [swfFields]int64
		for i, w := range words {
			f, err := strconv.ParseFloat(w, 64) // the average CPU time may have a fraction
			if err != nil || f < -1 || f > maxTime {
				return nil, 0, fmt.Errorf("line %d: field %d is %q, want a number from -1 to %d", n, i+1, w, int64(maxTime))
			}
			v[i] = int64(f)
		}
		size := v[4]
		if size <= 0 {
			size = v[7]
		}
		if v[3] <= 0 || size <= 0 || v[1] < 0 {
			left++
			continue
		}
		kind := words[13]
		if v[13] < 0 {
			kind = ""
		}
		jobs = append(jobs, Job{Kind: kind, ID: words[0], Submit: v[1], Run: v[3], Estimate: max(v[8], 0), Size: size, User: words[11], Queue: words[14]})
		if len(jobs) > maxJobs {
			return nil, 0, fmt.Errorf("line %d: more than %d jobs", n, maxJobs)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, 0, fmt.Errorf("read trace: %w", err)
	}
	return ordered(jobs), left, nil
}

// unmarked leaves out the byte-order mark that some programs, spreadsheets above all,
// put before text.
func unmarked(r io.Reader) io.Reader {
	const mark = "\ufeff"
	in := bufio.NewReader(r)
	if start, err := in.Peek(len(mark)); err == nil && string(start) == mark {
		_, _ = in.Discard(len(mark)) // it is there
	}
	return in
}

// columns of the CSV, in this order.
var columns = []string{"id", "submit", "run", "estimate", "size", "user", "queue"}

// CSV reads a table with the header id,submit,run,estimate,size,user,queue, and
// perhaps kind after them, and times in seconds.
func CSV(r io.Reader) ([]Job, error) {
	in := csv.NewReader(unmarked(r))
	head, err := in.Read() // all lines have as many fields as this
	kinds := err == nil && len(head) > len(columns)
	if err != nil || !slices.Equal(head, columns) && !slices.Equal(head, append(slices.Clone(columns), "kind")) {
		return nil, fmt.Errorf("line 1: want the header %s, and perhaps kind", strings.Join(columns, ","))
	}
	var jobs []Job
	for {
		rec, err := in.Read()
		if errors.Is(err, io.EOF) {
			return ordered(jobs), nil
		}
		if err != nil {
			return nil, fmt.Errorf("read trace: %w", err)
		}
		line, _ := in.FieldPos(0)
		var v [4]int64
		for i := range v {
			if v[i], err = strconv.ParseInt(rec[i+1], 10, 64); err != nil || v[i] < 0 || v[i] > maxTime {
				return nil, fmt.Errorf("line %d: %s is %q, want seconds or a count from 0 to %d", line, columns[i+1], rec[i+1], int64(maxTime))
			}
		}
		if v[1] == 0 || v[3] == 0 {
			return nil, fmt.Errorf("line %d: run and size must be positive", line)
		}
		if len(jobs) == maxJobs {
			return nil, fmt.Errorf("line %d: more than %d jobs", line, maxJobs)
		}
		j := Job{ID: rec[0], Submit: v[0], Run: v[1], Estimate: v[2], Size: v[3], User: rec[5], Queue: rec[6]}
		if kinds {
			j.Kind = rec[7]
		}
		jobs = append(jobs, j)
	}
}

func ordered(jobs []Job) []Job {
	slices.SortStableFunc(jobs, func(a, b Job) int { return int(min(max(a.Submit-b.Submit, -1), 1)) })
	return jobs
}
