package pbs_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// answers replays what commands answer. Files of testdata are outputs recorded
// on a real OpenPBS 23.06.06, less the attributes that nobody reads.
type answers struct {
	t     *testing.T
	files map[string]string // by the command line's beginning
	asked []transport.Command
	say   func(c transport.Command) (transport.Result, error)
}

func (a *answers) Run(_ context.Context, c transport.Command) (transport.Result, error) {
	a.asked = append(a.asked, c)
	res := transport.Result{Exit: 127, Stderr: []byte("nothing is recorded of " + strings.Join(c.Argv, " "))}
	line, longest := strings.Join(c.Argv, " "), ""
	for head, text := range a.files {
		if strings.HasPrefix(line, head) && len(head) >= len(longest) {
			longest, res = head, transport.Result{Stdout: []byte(text)}
		}
	}
	if a.say != nil {
		if got, err := a.say(c); err != nil || got.Exit != -1 {
			res = got
			if err != nil {
				return res, err
			}
		}
	}
	if c.Stdout != nil {
		if _, err := c.Stdout.Write(res.Stdout); err != nil {
			return res, err
		}
		res.Stdout = nil
	}
	return res, nil
}

func testdata(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func recorded(t *testing.T) *answers {
	return &answers{t: t, files: map[string]string{
		"qstat --version": "pbs_version = 23.06.06\n", "qstat -B -f": testdata(t, "qstat-server.txt"),
		"qstat -Q -f": testdata(t, "qstat-queues.txt"), "pbsnodes -a -v": testdata(t, "pbsnodes.txt"),
		"qstat -x -f -w": testdata(t, "qstat-jobs.txt"),
	}}
}

func replay(t testing.TB, r transport.Runner, dialect pbs.Dialect) *pbs.Backend {
	t.Helper()
	b, err := pbs.New(pbs.Config{Runner: r, Dialect: dialect, Records: func(u string) (string, error) { return "/records/" + u, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecordedJobs(t *testing.T) {
	r := recorded(t)
	b := replay(t, r, pbs.Pro)
	o, err := b.Observe(t.Context(), "recorded", []string{"pbsuser"})
	if err != nil || !o.Complete {
		t.Fatalf("%v, complete %t", err, o.Complete)
	}
	if got := strings.Join(r.asked[len(r.asked)-1].Argv, " "); got != "qstat -x -f -w" || len(r.asked) != 4 { // there is no qselect here
		t.Errorf("%d commands, the last %q", len(r.asked), got)
	}
	if !b.Capabilities().History {
		t.Error("the server keeps history, and yet none is announced")
	}
	type brief struct {
		key      backends.Key
		state    backends.State
		reason   string
		held     bool
		never    bool
		restarts int
		hosts    string
		exit     string
		times    string // which of submitted, started, ended are set
	}
	want := map[backends.JobID]brief{
		"3.pbs":  {"deleted", backends.StateCancelled, "", false, false, 0, "pbs", "0:15", "sSe"},
		"6.pbs":  {"wall", backends.StateTimeout, "the run-time limit was reached", false, false, 0, "pbs", "0:0", "sSe"},
		"9.pbs":  {"held", backends.StatePending, "JobHeldUser", true, false, 0, "", "0:0", "s"},
		"90.pbs": {"done", backends.StateCompleted, "", false, false, 0, "pbs", "0:0", "sSe"},
		"12.pbs": {"gang", backends.StatePending, "Not Running: No available resources on nodes", false, false, 0, "", "0:0", "s"},
		"13.pbs": {"unlike", backends.StateCompleted, "", false, false, 0, "pbs", "0:0", "sSe"},
		"14.pbs": {"run", backends.StateRunning, "", false, false, 0, "pbs", "0:0", "sS"},
		"15.pbs": {"rerun", backends.StateRunning, "", false, false, 1, "pbs", "0:0", "sS"},
		"19.pbs": {"depend", backends.StatePending, "Dependency", false, false, 0, "", "0:0", "s"},
	}
	var ids []string
	for _, j := range o.Jobs {
		ids = append(ids, string(j.ID))
		got := brief{j.Key, j.State, j.Reason, j.Held, j.Never, j.Restarts, strings.Join(j.Hosts, " "), fmt.Sprintf("%d:%d", j.ExitCode, j.Signal), ""}
		for i, when := range []time.Time{j.Submitted, j.Started, j.Ended} {
			if !when.IsZero() {
				got.times += string("sSe"[i])
			}
		}
		if got != want[j.ID] {
			t.Errorf("job %s\n got %+v\nwant %+v", j.ID, got, want[j.ID])
		}
		if j.Owner != "recorded" || j.User != "pbsuser" || j.Partition != "workq" {
			t.Errorf("job %s: %+v", j.ID, j)
		}
		if j.State.Terminal() && j.Ended.Before(j.Started) {
			t.Errorf("job %s ended at %v before it started at %v", j.ID, j.Ended, j.Started)
		}
	}
	if len(ids) != len(want) || !slices.IsSorted(ids) {
		t.Errorf("ids %v", ids)
	}
	for owner, users := range map[string][]string{"other": {"pbsuser"}, "recorded": {"somebody"}, "record": nil} {
		if o, err = replay(t, recorded(t), pbs.Pro).Observe(t.Context(), owner, users); err != nil || len(o.Jobs) != 0 {
			t.Errorf("owner %s of %v: %+v, %v", owner, users, o, err)
		}
	}
}

func TestRecordedInventory(t *testing.T) {
	inv, err := replay(t, recorded(t), pbs.Pro).Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if inv.System != "pbs" || inv.Version != "23.06.06" || len(inv.Hosts) != 1 || len(inv.Partitions) != 1 {
		t.Fatalf("%+v", inv)
	}
	h := inv.Hosts[0]
	if h.Name != "pbs" || !h.Usable || h.CPUs != 96 || h.MemoryMiB != 3*128<<10 || h.GPUs[""] != 24 ||
		h.Allocated.CPUs != 10 || h.Allocated.MemoryMiB != 4096 || h.Allocated.GPUs[""] != 8 {
		t.Errorf("host %+v", h)
	}
	if p := inv.Partitions[0]; p.Name != "workq" || !p.Up || !p.Default || !slices.Equal(p.Hosts, []string{"pbs"}) {
		t.Errorf("partition %+v", p)
	}
}

// What was recorded of refusals, and what each of them means.
func TestRecordedComplaints(t *testing.T) {
	spec := backends.JobSpec{Key: "k1", Owner: "o", User: "pbsuser", WorkDir: "/d", Components: []backends.Component{{Tasks: 1, CPUs: 1}}}
	ref := backends.JobRef{ID: "3.pbs", Key: "k1", User: "pbsuser"}
	for _, c := range []struct {
		program, text string
		code          int
		want          backends.Kind
	}{
		{"qsub", "qsub: Unknown resource: bogus", 187, backends.KindInvalid},
		{"qsub", "qsub: Unknown queue", 170, backends.KindInvalid},
		{"qsub", "qsub: script file:: No such file or directory", 1, backends.KindInvalid},
		{"qsub", "qsub: illegal -N value\nusage: qsub [-a date_time]", 2, backends.KindInvalid},
		{"qsub", "qsub: Job name is too long ", 2, backends.KindInvalid},
		{"qsub", "qsub: cannot send environment with the job", 1, backends.KindInvalid},
		{"qsub", "Connection refused\nqsub: cannot connect to server pbs (errno=15010)", 162, backends.KindTransient},
		{"qsub", "", 1, backends.KindUnknownOutcome},
		{"qsub", "qsub: something that nobody has seen yet", 3, backends.KindUnknownOutcome},
		{"qrls", "qrls: Unknown Job Id 3.pbs", 153, ""},
		{"qrls", "Connection refused\nqrls: cannot connect to server pbs (errno=15010)", 162, backends.KindTransient},
		{"qdel", "qdel: Unknown Job Id 99999.pbs", 153, ""},
		{"qdel", "qdel: Job has finished 0.pbs", 35, ""},
		{"qdel", "Connection refused\nCouldn't connect to cluster: pbs", 162, backends.KindTransient},
		{"qdel", "qdel: Unauthorized Request  3.pbs", 159, backends.KindDenied},
		{"qstat", "Connection refused\nqstat: cannot connect to server pbs (errno=15010)", 255, backends.KindTransient},
	} {
		r := recorded(t)
		r.say = func(cmd transport.Command) (transport.Result, error) {
			if cmd.Argv[0] != c.program || c.program == "qstat" && cmd.Argv[1] != "-x" {
				return transport.Result{Exit: -1}, nil
			}
			return transport.Result{Exit: c.code, Stderr: []byte(c.text)}, nil
		}
		b := replay(t, r, pbs.Pro)
		var err error
		switch c.program {
		case "qsub":
			_, err = b.Submit(t.Context(), spec)
		case "qrls":
			err = b.Release(t.Context(), ref)
		case "qdel":
			err = b.Cancel(t.Context(), ref)
		case "qstat":
			_, err = b.Observe(t.Context(), "o", nil)
		}
		if got := backends.KindOf(err); got != c.want {
			t.Errorf("%s says %q: kind %q, want %q (%v)", c.program, c.text, got, c.want, err)
		}
	}
}

// History that is switched off meanwhile: recorded with exit code 0.
func TestHistorySwitchedOff(t *testing.T) {
	r := recorded(t)
	r.files["qstat -f -w"] = "Job Id: 9.pbs\n    Job_Owner = pbsuser@pbs\n    job_state = H\n    Hold_Types = u\n    Variable_List = ISTHMUS_TAG=isthmus/recorded/k9\n\n"
	r.files["/bin/sh"] = ""
	r.say = func(c transport.Command) (transport.Result, error) {
		if slices.Contains(c.Argv, "-x") {
			return transport.Result{Stderr: []byte("qstat: PBS is not configured to maintain job history")}, nil
		}
		return transport.Result{Exit: -1}, nil
	}
	b := replay(t, r, pbs.Pro)
	o, err := b.Observe(t.Context(), "recorded", []string{"pbsuser"})
	if err != nil || len(o.Jobs) != 1 || !o.Complete || b.Capabilities().History {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestTheOtherFamily(t *testing.T) {
	for dialect, version := range map[pbs.Dialect]string{
		pbs.Pro: "Version: 6.1.3\nCommit: 6d4d7a4e\n", pbs.Torque: "pbs_version = 2022.1.1\n",
	} {
		b := replay(t, &answers{t: t, files: map[string]string{"qstat --version": version}}, dialect)
		_, err := b.Inventory(t.Context())
		other := map[pbs.Dialect]string{pbs.Pro: "set spec.type to torque", pbs.Torque: "set spec.type to pbs"}[dialect]
		if backends.KindOf(err) != backends.KindTransient || !strings.Contains(err.Error(), other) {
			t.Errorf("%s: %v", dialect, err)
		}
		if _, err := b.Submit(t.Context(), backends.JobSpec{Key: "k1", Owner: "o", User: "u", WorkDir: "/d",
			Components: []backends.Component{{Tasks: 1, CPUs: 1}}}); backends.KindOf(err) != backends.KindTransient || !strings.Contains(err.Error(), other) {
			t.Errorf("submit with %s: %v", dialect, err)
		}
	}
}

// A release whose qstat takes -w for the short list only.
func TestNarrowQstat(t *testing.T) {
	r := recorded(t)
	r.files["qstat -x -f"] = testdata(t, "qstat-jobs.txt")
	for block := range strings.SplitAfterSeq(testdata(t, "qstat-jobs.txt"), "\n\n") {
		if !strings.Contains(block, "job_state = F") {
			r.files["qstat -f"] += block // the queue alone
		}
	}
	r.say = func(c transport.Command) (transport.Result, error) {
		if slices.Contains(c.Argv, "-w") {
			return transport.Result{Exit: 2, Stderr: []byte("usage: qstat [-f] [-J] [-p] [-t] [-x]")}, nil
		}
		return transport.Result{Exit: -1}, nil
	}
	b := replay(t, r, pbs.Pro)
	for range 2 {
		if o, err := b.Observe(t.Context(), "recorded", []string{"pbsuser"}); err != nil || len(o.Jobs) != 9 || !o.Complete {
			t.Fatalf("%+v, %v", o, err)
		}
	}
	wide := slices.IndexFunc(r.asked[4:], func(c transport.Command) bool { return slices.Contains(c.Argv, "-w") })
	if wide >= 0 || len(r.asked) != 6 {
		t.Errorf("%d commands, and -w once more", len(r.asked))
	}
}
