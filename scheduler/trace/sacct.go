package trace

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sacctColumns are the columns of sacct(1) that are read, by what they are for; of
// several that would do, the first that the header has counts. Others are passed over.
var sacctColumns = map[string][]string{
	"id":       {"JobIDRaw", "JobID"},
	"submit":   {"Submit"},
	"start":    {"Start"},
	"end":      {"End"},
	"size":     {"AllocCPUS", "NCPUS", "ReqCPUS"},
	"estimate": {"TimelimitRaw", "Timelimit"},
	"user":     {"User"},
	"queue":    {"Partition"},
	"kind":     {"JobName"},
}

// sacctNeeded cannot be done without.
var sacctNeeded = []string{"submit", "start", "end", "size"}

// sacctTime is how sacct(1) writes a time, in the zone of the host it ran on. It is
// read as if it were UTC: a change to or from summer time shifts what is after it.
const sacctTime = "2006-01-02T15:04:05"

// Sacct reads what `sacct --parsable2` (or -P) prints, with its header: at least the
// columns Submit, Start, End and AllocCPUS; JobIDRaw, User, Partition, TimelimitRaw
// and JobName, which may hold anything and so has to be the last, are used where they
// are there. Steps, jobs that never started or have
// not ended and jobs without processors are left out and counted. Times count
// from the first submission.
func Sacct(r io.Reader) (jobs []Job, left int, err error) {
	lines := bufio.NewScanner(unmarked(r))
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	if !lines.Scan() {
		return nil, 0, fmt.Errorf("line 1: want the header of sacct --parsable2: %w", orEOF(lines.Err()))
	}
	// With --parsable each line ends in a bar; with --parsable2 a bar at the end has an
	// empty last column after it.
	first, barred := strings.CutSuffix(lines.Text(), "|")
	head := strings.Split(first, "|")
	at := map[string]int{}
	for what, names := range sacctColumns {
		for _, name := range names {
			if i := slices.Index(head, name); i >= 0 {
				at[what] = i
				break
			}
		}
	}
	for _, what := range sacctNeeded {
		if _, ok := at[what]; !ok {
			return nil, 0, fmt.Errorf("line 1: no column %s: run sacct with --parsable2 --allocations --format=JobIDRaw,User,Partition,Submit,Start,End,TimelimitRaw,AllocCPUS", sacctColumns[what][0])
		}
	}
	for n := 2; lines.Scan(); n++ {
		if lines.Text() == "" {
			continue
		}
		text := lines.Text()
		if barred {
			text = strings.TrimSuffix(text, "|")
		}
		fields := strings.Split(text, "|")
		if head[len(head)-1] == "JobName" {
			fields = strings.SplitN(text, "|", len(head))
		}
		if len(fields) != len(head) {
			return nil, 0, fmt.Errorf("line %d: %d fields, the header has %d", n, len(fields), len(head))
		}
		get := func(what string) string {
			if i, ok := at[what]; ok {
				return fields[i]
			}
			return ""
		}
		job, ok, err := sacctJob(get)
		switch {
		case err != nil:
			return nil, 0, fmt.Errorf("line %d: %w", n, err)
		case !ok:
			left++
		default:
			if job.ID == "" {
				job.ID = strconv.Itoa(n - 1)
			}
			jobs = append(jobs, job)
		}
		if len(jobs) > maxJobs {
			return nil, 0, fmt.Errorf("line %d: more than %d jobs", n, maxJobs)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, 0, fmt.Errorf("read trace: %w", err)
	}
	jobs = ordered(jobs)
	for i := len(jobs) - 1; i >= 0; i-- {
		jobs[i].Submit -= jobs[0].Submit
	}
	return jobs, left, nil
}

func orEOF(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

// sacctJob reads one line; ok is false for what never ran as a job.
func sacctJob(get func(string) string) (j Job, ok bool, err error) {
	if strings.Contains(get("id"), ".") {
		return Job{}, false, nil // a step
	}
	var times [3]time.Time
	for i, what := range []string{"submit", "start", "end"} {
		switch s := get(what); s {
		case "Unknown", "None", "":
			return Job{}, false, nil
		default:
			if times[i], err = time.Parse(sacctTime, s); err != nil {
				return Job{}, false, fmt.Errorf("%s is %q, want a time like %s", sacctColumns[what][0], s, sacctTime)
			}
		}
	}
	size, err := strconv.ParseInt(get("size"), 10, 64)
	if err != nil || size < 0 || size > maxTime {
		return Job{}, false, fmt.Errorf("the number of CPUs is %q, want a count", get("size"))
	}
	estimate, err := sacctLimit(get("estimate"))
	if err != nil {
		return Job{}, false, err
	}
	j = Job{
		ID: get("id"), Submit: times[0].Unix(), Run: int64(times[2].Sub(times[1]) / time.Second), Estimate: estimate, Size: size,
		User: get("user"), Queue: get("queue"), Kind: get("kind"),
	}
	return j, j.Run > 0 && size > 0, nil
}

// sacctLimit reads a time limit in seconds: minutes of TimelimitRaw, or
// [days-]hours:minutes:seconds of Timelimit; 0 when there is none.
func sacctLimit(s string) (int64, error) {
	switch s {
	case "", "UNLIMITED", "Partition_Limit":
		return 0, nil
	}
	if minutes, err := strconv.ParseInt(s, 10, 64); err == nil && minutes >= 0 && minutes < maxTime/60 {
		return minutes * 60, nil
	}
	days, clock, found := strings.Cut(s, "-")
	if !found {
		days, clock = "0", s
	}
	parts := append([]string{days}, strings.Split(clock, ":")...)
	units := []int64{86400, 3600, 60, 1}
	bad := fmt.Errorf("the Timelimit is %q, want minutes, [days-]hours:minutes:seconds, UNLIMITED or Partition_Limit", s)
	if len(parts) != len(units) {
		return 0, bad
	}
	var sum int64
	for i, p := range parts {
		v, err := strconv.ParseInt(p, 10, 32)
		if err != nil || v < 0 {
			return 0, bad
		}
		sum += v * units[i]
	}
	return sum, nil
}
