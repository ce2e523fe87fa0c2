package slurm_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// books replays a cluster with an accounting database.
type books struct {
	*replay
	listed []line     // by squeue
	booked [][]string // by sacct
	fails  bool       // sacct does
	asked  [][]string // the arguments of each sacct
}

func keepingBooks(t *testing.T) *books {
	rec := recorded(t)
	b := &books{}
	b.replay = &replay{answer: func(c transport.Command) (transport.Result, error) {
		switch {
		case c.Argv[0] == "squeue":
			return squeue(b.listed...).answer(c)
		case c.Argv[0] == "sacct":
			b.asked = append(b.asked, c.Argv)
			if b.fails {
				return transport.Result{Exit: 1, Stderr: []byte("sacct: error: Problem talking to the database: Connection refused")}, nil
			}
			sep := ""
			for _, a := range c.Argv {
				if d, ok := strings.CutPrefix(a, "--delimiter="); ok {
					sep = d
				}
			}
			var out strings.Builder
			for _, row := range b.booked {
				out.WriteString(strings.Join(row, sep) + sep + "\n")
			}
			return transport.Result{Stdout: []byte(out.String())}, nil
		case slices.Contains(c.Argv, "config"):
			return transport.Result{Stdout: []byte("Configuration data as of now\nAccountingStorageType   = accounting_storage/slurmdbd\n")}, nil
		}
		return rec.answer(c)
	}}
	return b
}

// row is one of sacct: key, state and exit of a plain job without its comment.
func row(id, name, state, exit string) []string {
	return []string{id, id, name, "alice", "p", state, exit, "100", "200", "300", "h1", ""}
}

func TestHistoryOfVanishedJobs(t *testing.T) {
	r := keepingBooks(t)
	b, err := slurm.New(slurm.Config{Runner: r})
	if err != nil {
		t.Fatal(err)
	}
	if b.Capabilities().History {
		t.Error("history before the configuration was read")
	}
	if _, err := b.Inventory(t.Context()); err != nil || !b.Capabilities().History {
		t.Fatalf("history %t, %v", b.Capabilities().History, err)
	}
	het := func(offset int) line {
		return component(fmt.Sprint(30 + offset)).with(map[int]string{fLeader: "30", fOffset: fmt.Sprint(offset), 3: "isthmus/o/khet"})
	}
	plain := func(id, key string) line { return component(id).with(map[int]string{3: "isthmus/o/" + key}) }
	r.listed = []line{plain("1", "ka"), plain("2", "kb"), plain("3", "kc"), plain("4", "kd"), het(0), het(1)}
	look := func() map[backends.JobID]backends.Job {
		t.Helper()
		o, err := b.Observe(t.Context(), "o", []string{"alice"})
		if err != nil || !o.Complete || !slices.IsSortedFunc(o.Jobs, func(a, b backends.Job) int { return strings.Compare(string(a.ID), string(b.ID)) }) {
			t.Fatalf("%+v, %v", o, err)
		}
		out := map[backends.JobID]backends.Job{}
		for _, j := range o.Jobs {
			if _, twice := out[j.ID]; twice {
				t.Errorf("job %s is listed twice", j.ID)
			}
			out[j.ID] = j
		}
		return out
	}
	// What a daemon that starts missed is found by its comment, once.
	missed := row("9", "kz", "TIMEOUT", "0:15")
	missed[11] = "isthmus/o/kz"
	others := row("8", "ky", "FAILED", "1:0")
	others[11] = "isthmus/other/ky"
	listedToo := row("1", "ka", "FAILED", "1:0")
	listedToo[11] = "isthmus/o/ka"
	r.booked = [][]string{missed, others, row("7", "kx", "FAILED", "1:0"), listedToo}
	got := look()
	if len(got) != 6 || got["9"].State != backends.StateTimeout || got["9"].Key != "kz" || got["1"].State != backends.StateRunning {
		t.Errorf("at the start: %+v", got)
	}
	if len(r.asked) != 1 || !slices.Contains(r.asked[0], "--user=alice") || !slices.Contains(r.asked[0], "--allusers") {
		t.Errorf("asked %q", r.asked)
	}
	look()
	if len(r.asked) != 1 {
		t.Errorf("asked %d times though nothing vanished", len(r.asked))
	}

	// All but one vanish: one question for all. One was requeued twice, one the
	// database still takes for running, one id it gives to somebody else's job.
	r.listed = []line{plain("4", "kd")}
	first := row("2", "kb", "NODE_FAIL", "0:0")
	requeued := row("2", "kb", "PREEMPTED", "0:0")
	het0, het1 := row("30", "khet.0", "COMPLETED", "0:0"), row("31", "khet.1", "COMPLETED", "0:0")
	het0[1], het1[1], het1[10] = "30+0", "30+1", "h2"
	r.booked = [][]string{first, requeued, row("2", "kb", "CANCELLED by 1000", "0:15"), row("1", "ka", "RUNNING", "0:0"),
		row("3", "somebody", "FAILED", "3:0"), het0, het1, row("5_1", "kq", "FAILED", "1:0")}
	got = look()
	if j := got["2"]; j.State != backends.StateCancelled || j.Restarts != 2 || j.Signal != 15 || j.Key != "kb" || j.Owner != "o" || !j.Ended.Equal(at(300)) {
		t.Errorf("job 2: %+v", j)
	}
	if j := got["30"]; j.State != backends.StateCompleted || j.Key != "khet" || strings.Join(j.Hosts, " ") != "h1 h2" {
		t.Errorf("job 30: %+v", j)
	}
	if _, there := got["1"]; there || len(got) != 4 {
		t.Errorf("after they vanished: %+v", got)
	}
	if len(r.asked) != 2 || !slices.Contains(r.asked[1], "--jobs=1,2,3,30") || !slices.Contains(r.asked[1], "--starttime=1970-01-01T00:01:40") {
		t.Errorf("asked %q", r.asked[1:])
	}
	// Its end reaches the database later; a database that fails is left alone.
	r.fails = true
	if got = look(); len(got) != 4 || len(r.asked) != 3 {
		t.Errorf("with a database that fails: %+v", got)
	}
	r.fails = false
	r.booked = [][]string{row("1", "ka", "OUT_OF_MEMORY", "0:125")}
	if got = look(); len(got) != 4 || len(r.asked) != 3 {
		t.Errorf("right after a failure it was asked again: %q", r.asked)
	}
	// What the controller knows again is the controller's to tell.
	r.listed = []line{plain("4", "kd"), plain("2", "kb")}
	if got = look(); got["2"].State != backends.StateRunning {
		t.Errorf("requeued by an administrator: %+v", got["2"])
	}
}

// A daemon that was away asks for the jobs on record; the database keeps no
// comments here, so that their ids and names must do.
func TestHistoryOfRecordedJobs(t *testing.T) {
	r := keepingBooks(t)
	b, err := slurm.New(slurm.Config{Runner: r})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Inventory(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Recall("o", []backends.JobRef{{ID: "5", Key: "ka", User: "alice"}, {ID: "6", Key: "kb", User: "alice"}, {ID: "no id", Key: "kc", User: "alice"}})
	r.booked = [][]string{row("5", "ka", "OUT_OF_MEMORY", "0:125"), row("6", "another", "FAILED", "1:0"), row("7", "kc", "FAILED", "1:0")}
	look := func() []backends.Job {
		t.Helper()
		o, err := b.Observe(t.Context(), "o", []string{"alice"})
		if err != nil || !o.Complete {
			t.Fatalf("%+v, %v", o, err)
		}
		return o.Jobs
	}
	got := look()
	if len(got) != 1 || got[0].ID != "5" || got[0].Key != "ka" || got[0].Owner != "o" || got[0].State != backends.StateOutOfMemory {
		t.Errorf("recalled: %+v", got)
	}
	// The id that is another's by now is asked for alone.
	b.Recall("o", []backends.JobRef{{ID: "5", Key: "ka", User: "alice"}, {ID: "6", Key: "kb", User: "alice"}})
	if got = look(); len(got) != 1 || len(r.asked) != 2 || !slices.Contains(r.asked[1], "--jobs=6") {
		t.Errorf("recalled again: %+v, asked %q", got, r.asked[1:])
	}
}

func FuzzBooks(f *testing.F) {
	f.Add("1\x1f1\x1fka\x1falice\x1fp\x1fFAILED\x1f1:0\x1f100\x1f200\x1f300\x1fh1\x1fisthmus/o/ka\x1f\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := keepingBooks(t)
		inner := r.answer
		r.answer = func(c transport.Command) (transport.Result, error) {
			if c.Argv[0] != "sacct" {
				return inner(c)
			}
			for _, a := range c.Argv {
				if d, ok := strings.CutPrefix(a, "--delimiter="); ok {
					return transport.Result{Stdout: []byte(strings.ReplaceAll(text, "\x1f", d))}, nil
				}
			}
			return transport.Result{}, nil
		}
		b, err := slurm.New(slurm.Config{Runner: r})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Inventory(t.Context()); err != nil {
			t.Fatal(err)
		}
		o, err := b.Observe(t.Context(), "o", nil)
		if err != nil || !o.Complete {
			t.Fatalf("books changed what the controller tells: %v", err)
		}
		for _, j := range o.Jobs {
			if j.ID == "" || j.Owner != "o" || !backends.ValidKey(j.Key) || !j.State.Terminal() || j.Restarts < 0 {
				t.Fatalf("read %+v", j)
			}
		}
	})
}
