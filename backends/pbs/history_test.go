package pbs_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// keeper is a server that keeps history: texts of jobs by id, those in the queue
// marked, and whose they are.
type keeper struct {
	*answers
	b     *pbs.Backend
	texts map[string]string
	queue map[string]bool
	now   time.Time
	fail  string // a command that fails once
}

func newKeeper(t *testing.T) *keeper {
	k := &keeper{texts: map[string]string{}, queue: map[string]bool{}, now: time.Unix(1_800_000_000, 0)}
	k.answers = &answers{t: t, files: map[string]string{"qstat --version": "pbs_version = 23.06.06\n", "qsub": "500.pbs\n",
		"qstat -B -f": "Server: pbs\n    job_history_enable = True\n    query_other_jobs = True\n"}}
	k.say = k.answer
	var err error
	k.b, err = pbs.New(pbs.Config{Runner: k.answers, Dialect: pbs.Pro, Now: func() time.Time { return k.now },
		Records: func(u string) (string, error) { return "/records/" + u, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keeper) answer(c transport.Command) (transport.Result, error) {
	line := strings.Join(c.Argv, " ")
	if k.fail != "" && strings.HasPrefix(line, k.fail) {
		k.fail = ""
		return transport.Result{}, errors.New("the connection is gone")
	}
	var res transport.Result
	switch {
	case line == "qstat -f -w":
		for _, id := range slices.Sorted(maps.Keys(k.queue)) {
			res.Stdout = append(res.Stdout, k.texts[id]...)
		}
	case line == "qselect -x -u u":
		for _, id := range slices.Sorted(maps.Keys(k.texts)) {
			if strings.Contains(k.texts[id], "Job_Owner = u@") {
				res.Stdout = append(res.Stdout, id+"\n"...)
			}
		}
	case strings.HasPrefix(line, "qstat -x -f ") && line != "qstat -x -f -w":
		for _, id := range c.Argv[3:] {
			if k.texts[id] == "" {
				res.Stderr, res.Exit = append(res.Stderr, "qstat: Unknown Job Id "+id+"\n"...), 153
			}
			res.Stdout = append(res.Stdout, k.texts[id]...)
		}
	default:
		return transport.Result{Exit: -1}, nil
	}
	return res, nil
}

func (k *keeper) queued(id string, lines ...string) {
	k.texts[id], k.queue[id] = jobText(id, "R", lines...), true
}

func (k *keeper) end(id string, code int) {
	k.texts[id] = jobText(id, "F", fmt.Sprintf("Exit_status = %d", code))
	delete(k.queue, id)
}

// observe gives the states by id, and the commands that it took.
func (k *keeper) observe() (string, []string) {
	k.t.Helper()
	before := len(k.asked)
	o, err := k.b.Observe(k.t.Context(), "o", []string{"u"})
	if err != nil || !o.Complete {
		k.t.Fatalf("%v, complete %t", err, o.Complete)
	}
	return states(o), k.since(before)
}

func states(o backends.Observation) string {
	var out []string
	for _, j := range o.Jobs {
		out = append(out, fmt.Sprintf("%s=%s:%d", j.ID, j.State, j.ExitCode))
	}
	return strings.Join(out, " ")
}

func (k *keeper) since(n int) []string {
	var out []string
	for _, c := range k.asked[n:] {
		out = append(out, strings.Join(c.Argv, " "))
	}
	return out
}

func (k *keeper) want(what, jobs string, commands ...string) {
	k.t.Helper()
	got, asked := k.observe()
	if got != jobs {
		k.t.Errorf("%s: jobs %q, want %q", what, got, jobs)
	}
	if !slices.Equal(asked, commands) {
		k.t.Errorf("%s: commands %q, want %q", what, asked, commands)
	}
}

// A server with a long history is asked for the queue alone, and once for each
// job that has left it.
func TestHistoryIsNotRead(t *testing.T) {
	k := newKeeper(t)
	for i := range 1000 { // others' jobs
		id := fmt.Sprintf("9%03d.pbs", i)
		k.texts[id] = strings.ReplaceAll(jobText(id, "F", "Exit_status = 0"), "Job_Owner = u@", "Job_Owner = other@")
	}
	k.queued("10.pbs")
	k.queued("11.pbs")
	k.end("12.pbs", 3) // before this daemon began
	k.want("at first", "10.pbs=Running:0 11.pbs=Running:0 12.pbs=Failed:3",
		"qstat --version", "qstat -B -f", "qselect -x -u u", "qstat -f -w", "qstat -x -f 12.pbs")
	k.want("nothing new", "10.pbs=Running:0 11.pbs=Running:0 12.pbs=Failed:3", "qstat -f -w")

	k.end("10.pbs", 0)
	k.want("one has ended", "10.pbs=Completed:0 11.pbs=Running:0 12.pbs=Failed:3", "qstat -f -w", "qstat -x -f 10.pbs")
	k.want("and is remembered", "10.pbs=Completed:0 11.pbs=Running:0 12.pbs=Failed:3", "qstat -f -w")

	// An answer that is lost leaves the job open.
	k.end("11.pbs", 7)
	k.fail = "qstat -x -f 11.pbs"
	if _, err := k.b.Observe(t.Context(), "o", []string{"u"}); backends.KindOf(err) != backends.KindTransient {
		t.Errorf("without the answer: %v", err)
	}
	k.want("once more", "10.pbs=Completed:0 11.pbs=Failed:7 12.pbs=Failed:3", "qstat -f -w", "qstat -x -f 11.pbs")

	// One of ours that no list ever showed.
	if _, err := k.b.Submit(t.Context(), backends.JobSpec{Key: "k1", Owner: "o", User: "u", WorkDir: "/d",
		Components: []backends.Component{{Tasks: 1, CPUs: 1}}}); err != nil {
		t.Fatal(err)
	}
	k.end("500.pbs", 0)
	k.want("short", "10.pbs=Completed:0 11.pbs=Failed:7 12.pbs=Failed:3 500.pbs=Completed:0", "qstat -f -w", "qstat -x -f 500.pbs")

	// Another's value that looks like a job of ours: the server knows better.
	k.texts["800.pbs"] = strings.ReplaceAll(jobText("800.pbs", "R", "Error_Path = x\n"+jobText("10.pbs", "R")), "Job_Owner = u@pbs\n    job_state = R\n    queue = workq\n    Variable_List = ISTHMUS_TAG=isthmus/o/k1\n    Error", "Job_Owner = other@pbs\n    Error")
	k.queue["800.pbs"] = true
	k.want("a lie", "10.pbs=Completed:0 11.pbs=Failed:7 12.pbs=Failed:3 500.pbs=Completed:0", "qstat -f -w", "qstat -x -f 10.pbs")
	delete(k.queue, "800.pbs")
	delete(k.texts, "800.pbs")

	// What the server forgot is forgotten in an hour, and what ended behind our
	// back is found.
	delete(k.texts, "10.pbs")
	delete(k.texts, "11.pbs")
	k.end("13.pbs", 5)
	k.now = k.now.Add(61 * time.Minute)
	k.want("an hour later", "12.pbs=Failed:3 13.pbs=Failed:5 500.pbs=Completed:0", "qselect -x -u u", "qstat -f -w", "qstat -x -f 13.pbs")

	// A job that has left without a trace is no longer listed.
	k.queued("14.pbs")
	k.want("a new one", "12.pbs=Failed:3 13.pbs=Failed:5 14.pbs=Running:0 500.pbs=Completed:0", "qstat -f -w")
	delete(k.texts, "14.pbs")
	delete(k.queue, "14.pbs")
	k.want("gone", "12.pbs=Failed:3 13.pbs=Failed:5 500.pbs=Completed:0", "qstat -f -w", "qstat -x -f 14.pbs")
	k.want("gone for good", "12.pbs=Failed:3 13.pbs=Failed:5 500.pbs=Completed:0", "qstat -f -w")
}
