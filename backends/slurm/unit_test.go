package slurm_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// replay answers commands without running them.
type replay struct {
	answer func(transport.Command) (transport.Result, error)
	asked  []transport.Command
}

func (r *replay) Run(_ context.Context, c transport.Command) (transport.Result, error) {
	r.asked = append(r.asked, c)
	return r.answer(c)
}

func fixed(res transport.Result) *replay {
	return &replay{answer: func(transport.Command) (transport.Result, error) { return res, nil }}
}

// recorded answers as the real cluster did.
func recorded(t *testing.T) *replay {
	return &replay{answer: func(c transport.Command) (transport.Result, error) {
		raw, err := os.ReadFile(recording(c.Argv))
		if err != nil {
			t.Fatal(err)
		}
		return transport.Result{Stdout: []byte(strings.ReplaceAll(string(raw), recordedSep, nonceOf(c.Argv)))}, nil
	}}
}

func backend(t *testing.T, r transport.Runner) *slurm.Backend {
	t.Helper()
	b, err := slurm.New(slurm.Config{Runner: r, Env: []string{"SLURM_CONF=/etc/slurm/slurm.conf"}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func plain() backends.JobSpec {
	return backends.JobSpec{
		Key: "k1abc", Owner: "east-1", User: "alice", Partition: "gpu", Account: "acct", QOS: "high",
		Constraint: "nvlink&ib", Reservation: "resv", Walltime: 61 * time.Second, WorkDir: "/scratch/alice/g/k1abc",
		Components: []backends.Component{{Tasks: 3, CPUs: 4, MemoryMiB: 1001, GPUs: map[string]int64{"a100": 2, "": 1, "none": 0}}},
	}
}

func TestSubmitCommand(t *testing.T) {
	r := fixed(transport.Result{Stdout: []byte("17\n")})
	id, err := backend(t, r).Submit(t.Context(), plain())
	if err != nil || id != "17" || len(r.asked) != 1 {
		t.Fatalf("%q, %v, %d commands", id, err, len(r.asked))
	}
	want := strings.Fields(`sbatch --parsable --hold --job-name=k1abc --comment=isthmus/east-1/k1abc --dependency=singleton
		--kill-on-invalid-dep=yes --requeue --open-mode=append --export=ALL --chdir=/scratch/alice/g/k1abc --input=none
		--output=/scratch/alice/g/k1abc/batch.log --partition=gpu --account=acct --qos=high --constraint=nvlink&ib
		--reservation=resv --time=2 --ntasks=3 --cpus-per-task=4 --mem-per-cpu=251M --gpus-per-task=1,a100:2`)
	got := r.asked[0]
	if !slices.Equal(got.Argv, want) {
		t.Errorf("got  %q\nwant %q", got.Argv, want)
	}
	if got.User != "alice" || !slices.Equal(got.Env, []string{"LC_ALL=C", "SLURM_CONF=/etc/slurm/slurm.conf"}) {
		t.Errorf("as %q with environment %q", got.User, got.Env)
	}
	script := make([]byte, 100)
	n, _ := got.Stdin.Read(script)
	if string(script[:n]) != backends.LaunchScript {
		t.Errorf("the script is %q", script[:n])
	}
}

// Licences are the whole job's, so that its first component asks for them; switches are
// each component's. The time is written so that it is not taken for minutes.
func TestLicensesAndSwitches(t *testing.T) {
	spec := plain()
	spec.Components = append(spec.Components, backends.Component{Tasks: 1, CPUs: 1})
	spec.Licenses = map[string]int64{"fluent": 2, "db@server": 1}
	for wait, want := range map[time.Duration]string{0: "1", 90 * time.Second: "1@00:01:30", 30*time.Hour + 1: "1@30:00:01"} {
		spec.Switches, spec.SwitchesWait = 1, wait
		r := fixed(transport.Result{Stdout: []byte("17\n")})
		if _, err := backend(t, r).Submit(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		argv := r.asked[0].Argv
		second := slices.Index(argv, ":")
		if !slices.Contains(argv[:second], "--licenses=db@server:1,fluent:2") || slices.ContainsFunc(argv[second:], func(a string) bool { return strings.HasPrefix(a, "--licenses") }) {
			t.Errorf("licences in %q", argv)
		}
		for _, part := range [][]string{argv[:second], argv[second:]} {
			if !slices.Contains(part, "--switches="+want) {
				t.Errorf("want --switches=%s in %q", want, part)
			}
		}
	}
	for _, name := range []string{"-a", "a:1,b", "a|b", "a b", "", "--uid=0", "a\nb"} {
		spec.Licenses = map[string]int64{name: 1}
		if _, err := backend(t, fixed(transport.Result{})).Submit(t.Context(), spec); backends.KindOf(err) != backends.KindInvalid {
			t.Errorf("licence %q: %v", name, err)
		}
	}
}

// A job that is long enough is told before its limit, so that pods get their grace.
func TestWarning(t *testing.T) {
	for _, tc := range []struct {
		walltime, grace time.Duration
		want            string
	}{
		{time.Hour, 30 * time.Second, "--signal=B:USR2@45"}, {time.Hour, 1500 * time.Millisecond, "--signal=B:USR2@17"},
		{366 * 24 * time.Hour, 24 * time.Hour, "--signal=B:USR2@65535"},
		{time.Hour, 0, ""}, {0, 30 * time.Second, ""}, {3 * time.Minute, 30 * time.Second, ""},
	} {
		spec := plain()
		spec.Walltime, spec.Grace = tc.walltime, tc.grace
		r := fixed(transport.Result{Stdout: []byte("17\n")})
		if _, err := backend(t, r).Submit(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, a := range r.asked[0].Argv {
			if strings.HasPrefix(a, "--signal") {
				got = a
			}
		}
		if got != tc.want {
			t.Errorf("walltime %s, grace %s: %q, want %q", tc.walltime, tc.grace, got, tc.want)
		}
	}
}

func TestSubmitHeterogeneous(t *testing.T) {
	spec := plain()
	spec.Components = append(spec.Components, backends.Component{Tasks: 1, CPUs: 1})
	r := fixed(transport.Result{Stdout: []byte("17;east\n")})
	if id, err := backend(t, r).Submit(t.Context(), spec); err != nil || id != "17" {
		t.Fatalf("%q, %v", id, err)
	}
	argv := r.asked[0].Argv
	at := slices.Index(argv, ":")
	if at < 0 || slices.Index(argv[at+1:], ":") >= 0 {
		t.Fatalf("components are not separated once: %q", argv)
	}
	for i, part := range [][]string{argv[2:at], argv[at+1:]} {
		for _, want := range []string{"--hold", fmt.Sprintf("--job-name=k1abc.%d", i), "--dependency=singleton", "--comment=isthmus/east-1/k1abc", "--partition=gpu"} {
			if !slices.Contains(part, want) {
				t.Errorf("component %d lacks %s: %q", i, want, part)
			}
		}
	}
	if slices.ContainsFunc(argv[at:], func(a string) bool { return strings.HasPrefix(a, "--mem") || strings.HasPrefix(a, "--gpu") }) {
		t.Errorf("the second component asks for what it does not want: %q", argv[at:])
	}
}

func hostile() []string {
	return []string{
		"-a", "--uid=0", "--wrap=id", ":", "a:b", "a b", " ", "'", `"`, "`id`", "$(id)", "${HOME}", "a;id", "a|id", "a&&id", "a>b", "a\nb",
		"#SBATCH --uid=0", "\n#SBATCH --uid=0", "a\x00b", "\t", "\r", "\x1f", "\x7f", "\xff", "%j", "%%", `\`, `\\`, "*", "?", "[1-2]", "{a,b}", "~", "!!",
		"root", "..", "/", "é", "東京", "\u202e", "\u2028", strings.Repeat("x", 10000),
		"--export=ALL,M", "-o/etc/passwd", "'; touch M; '", "\"; touch M; \"", "\r\ntouch M\n", "M,N=1", "M=1", "=M", "{user}", "../../M", "<M", "M&",
		"\x1b[31mM", "M:+1", "--", "-",
	}
}

// corpus is hostile texts alone, at both ends of others, and between.
func corpus() []string {
	var out []string
	for _, v := range hostile() {
		out = append(out, v, "x"+v, v+"x", "a-"+v+"-b")
	}
	return out
}

// TestHostileStrings: whatever a field holds, it is refused or it is one
// argument, byte for byte, and no other argument changes.
func TestHostileStrings(t *testing.T) {
	fieldsOf := map[string]func(*backends.JobSpec, string){
		"--partition=":     func(s *backends.JobSpec, v string) { s.Partition = v },
		"--account=":       func(s *backends.JobSpec, v string) { s.Account = v },
		"--qos=":           func(s *backends.JobSpec, v string) { s.QOS = v },
		"--constraint=":    func(s *backends.JobSpec, v string) { s.Constraint = v },
		"--reservation=":   func(s *backends.JobSpec, v string) { s.Reservation = v },
		"--chdir=":         func(s *backends.JobSpec, v string) { s.WorkDir = "/w/" + v },
		"--job-name=":      func(s *backends.JobSpec, v string) { s.Key = backends.Key(v) },
		"--comment=":       func(s *backends.JobSpec, v string) { s.Owner = v },
		"--gpus-per-task=": func(s *backends.JobSpec, v string) { s.Components[0].GPUs = map[string]int64{v: 1} },
		"user":             func(s *backends.JobSpec, v string) { s.User = v },
	}
	base := fixed(transport.Result{Stdout: []byte("1\n")})
	if _, err := backend(t, base).Submit(t.Context(), plain()); err != nil {
		t.Fatal(err)
	}
	texts := corpus()
	if len(texts) < 200 {
		t.Fatalf("%d texts", len(texts))
	}
	for option, set := range fieldsOf {
		accepted := 0
		for _, v := range texts {
			spec := plain()
			set(&spec, v)
			r := fixed(transport.Result{Stdout: []byte("1\n")})
			if _, err := backend(t, r).Submit(t.Context(), spec); err != nil {
				if kind := backends.KindOf(err); kind != backends.KindInvalid || len(r.asked) != 0 {
					t.Errorf("%s%q: %s after %d commands", option, v, kind, len(r.asked))
				}
				continue
			}
			accepted++
			got, want := r.asked[0].Argv, base.asked[0].Argv
			if len(got) != len(want) {
				t.Fatalf("%s%q: %d arguments, want %d", option, v, len(got), len(want))
			}
			for i, a := range got {
				switch {
				case a == want[i]:
				case strings.HasPrefix(a, option) && strings.Contains(a, v):
				case option == "--chdir=" && strings.HasPrefix(a, "--output=/w/"):
				case option == "--job-name=" && a == "--comment=isthmus/east-1/"+v:
				default:
					t.Errorf("%s%q changes argument %q to %q", option, v, want[i], a)
				}
			}
		}
		if strings.HasPrefix(option, "--chdir") && accepted < 15 {
			t.Errorf("%s: only %d of the names accepted: a work dir may be called almost anything", option, accepted)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, env := range []string{"SBATCH_PARTITION=x", "SQUEUE_FORMAT=x", "SCANCEL_USER=x", "SPANK_X=1", "LD_PRELOAD=x", "NOVALUE", "=x"} {
		if _, err := slurm.New(slurm.Config{Runner: fixed(transport.Result{}), Env: []string{env}}); err == nil {
			t.Errorf("environment %q is accepted", env)
		}
	}
	if _, err := slurm.New(slurm.Config{}); err == nil {
		t.Error("a backend without a transport is accepted")
	}
	if _, err := slurm.New(slurm.Config{Runner: fixed(transport.Result{}), Cluster: "a,b"}); err == nil {
		t.Error("two clusters are accepted")
	}
}

func TestSubmitAnswers(t *testing.T) {
	for out, want := range map[string]backends.JobID{
		"17\n": "17", "17;east\n": "17", "17": "17", "sbatch: your quota is low\n17\n": "17",
		"": "", "\n": "", "0\n": "", "-1\n": "", "abc\n": "", "17 \n": "", "17;\n": "", "17;a b\n": "", "17\n\n": "17", "99999999999\n": "", "17;east;x\n": "",
	} {
		id, err := backend(t, fixed(transport.Result{Stdout: []byte(out)})).Submit(t.Context(), plain())
		if id != want || (want == "") != (err != nil) {
			t.Errorf("%q is read as %q, %v", out, id, err)
		}
		if err != nil && backends.KindOf(err) != backends.KindUnknownOutcome {
			t.Errorf("%q: %s, want UnknownOutcome: the job may exist", out, backends.KindOf(err))
		}
	}
}

func TestSubmitErrors(t *testing.T) {
	failed := func(m string) string { return "sbatch: error: Batch job submission failed: " + m + "\n" }
	for _, c := range []struct {
		said string
		exit int
		want backends.Kind
	}{
		{failed("Invalid partition name specified"), 1, backends.KindInvalid},
		{"sbatch: error: invalid partition specified: nope\n" + failed("Invalid partition name specified"), 1, backends.KindInvalid},
		{failed("Requested node configuration is not available"), 1, backends.KindInvalid},
		{failed("Invalid feature specification"), 1, backends.KindInvalid},
		{failed("Invalid generic resource (gres) specification"), 1, backends.KindInvalid},
		{failed("Invalid account or account/partition combination specified"), 1, backends.KindInvalid},
		{failed("Invalid qos specification"), 1, backends.KindInvalid},
		{failed("Requested time limit is invalid (missing or exceeds some limit)"), 1, backends.KindInvalid},
		{"sbatch: error: Invalid --time specification\n", 255, backends.KindInvalid},
		{"sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\" for more information\n", 255, backends.KindInvalid},
		{failed("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"), 1, backends.KindThrottled},
		{failed("Rate limit exceeded"), 1, backends.KindThrottled},
		{failed("Unable to create job record, try again"), 1, backends.KindThrottled},
		{failed("Access/permission denied"), 1, backends.KindDenied},
		{failed("Invalid user id"), 1, backends.KindDenied},
		{failed("User's group not permitted to use this partition"), 1, backends.KindDenied},
		{failed("System submissions disabled"), 1, backends.KindTransient},
		{failed("Requested partition not available"), 1, backends.KindTransient},
		{failed("Socket timed out on send/recv operation"), 1, backends.KindUnknownOutcome},
		{failed("Zero Bytes were transmitted or received"), 1, backends.KindUnknownOutcome},
		{failed("Unable to contact slurm controller (connect failure)"), 1, backends.KindUnknownOutcome},
		{failed("Protocol authentication error"), 1, backends.KindUnknownOutcome},
		{"sbatch: error: Munge encode failed: Failed to access \"/run/munge/socket\": No such file or directory (Did you start munged?)\n" +
			"sbatch: error: slurm_send_node_msg: auth_g_create: REQUEST_SUBMIT_BATCH_JOB has authentication error\n" +
			failed("Protocol authentication error"), 1, backends.KindTransient},
		{"sbatch: fatal: Could not establish a configuration source\n", 1, backends.KindTransient},
		{failed("something that no release says today"), 1, backends.KindUnknownOutcome},
		{"", 1, backends.KindUnknownOutcome},
		// Killed while it waited for a slot: it may have got one.
		{"sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n", 137, backends.KindUnknownOutcome},
		{failed("Invalid partition name specified"), 143, backends.KindUnknownOutcome},
	} {
		_, err := backend(t, fixed(transport.Result{Stderr: []byte(c.said), Exit: c.exit})).Submit(t.Context(), plain())
		if got := backends.KindOf(err); got != c.want {
			t.Errorf("%q with exit %d is %s, want %s", c.said, c.exit, got, c.want)
		}
	}
}

func TestTransportErrors(t *testing.T) {
	ref := backends.JobRef{ID: "5", Key: "k", User: "alice"}
	for _, c := range []struct {
		err          error
		effect, read backends.Kind
	}{
		{fmt.Errorf("no: %w", transport.ErrNotStarted), backends.KindTransient, backends.KindTransient},
		{context.DeadlineExceeded, backends.KindUnknownOutcome, backends.KindTransient},
		{transport.ErrOutputLimit, backends.KindUnknownOutcome, backends.KindTransient},
	} {
		b := backend(t, &replay{answer: func(transport.Command) (transport.Result, error) { return transport.Result{}, c.err }})
		_, submit := b.Submit(t.Context(), plain())
		_, observe := b.Observe(t.Context(), "o", nil)
		_, inventory := b.Inventory(t.Context())
		for op, err := range map[string]error{"submit": submit, "release": b.Release(t.Context(), ref), "cancel": b.Cancel(t.Context(), ref)} {
			if got := backends.KindOf(err); got != c.effect {
				t.Errorf("%s, %v: %s, want %s", op, c.err, got, c.effect)
			}
		}
		for op, err := range map[string]error{"observe": observe, "inventory": inventory} {
			if got := backends.KindOf(err); got != c.read {
				t.Errorf("%s, %v: %s, want %s", op, c.err, got, c.read)
			}
		}
	}
}

func TestEffectAnswers(t *testing.T) {
	ref := backends.JobRef{ID: "5", Key: "k", User: "alice"}
	for said, want := range map[string]backends.Kind{
		"Job has already finished for job 22\nslurm_suspend error: Job has already finished":                           "",
		"Invalid job id specified for job 999\nslurm_suspend error: Invalid job id specified":                          "",
		"scancel: error: Kill job error on job id 5: Invalid job id specified":                                         "",
		"scancel: error: Kill job error on job id 5: Job/step already completing or completed":                         "",
		"Access/permission denied for job 5\nslurm_suspend error: Access/permission denied":                            backends.KindDenied,
		"slurm_suspend error: Unable to contact slurm controller (connect failure)":                                    backends.KindUnknownOutcome,
		"Job can not be altered now, try again later":                                                                  backends.KindTransient,
		"scancel: error: slurm_send_node_msg: auth_g_create: REQUEST_KILL_JOB has authentication error":                backends.KindTransient,
		"Requested partition configuration not available now for job 5\nslurm_suspend error: Requested partition con…": "",
	} {
		b := backend(t, fixed(transport.Result{Stderr: []byte(said), Exit: 1}))
		if got := backends.KindOf(b.Release(t.Context(), ref)); got != want {
			t.Errorf("release, %q: %q, want %q", said, got, want)
		}
	}
	for _, bad := range []backends.JobRef{{ID: "", User: "alice"}, {ID: "-1", User: "alice"}, {ID: "5 6", User: "alice"}, {ID: "all", User: "alice"}, {ID: "5", User: "root"}, {ID: "5"}} {
		r := fixed(transport.Result{})
		if kind := backends.KindOf(backend(t, r).Cancel(t.Context(), bad)); kind != backends.KindInvalid || len(r.asked) != 0 {
			t.Errorf("cancel of %+v: %s after %d commands", bad, kind, len(r.asked))
		}
	}
}

func TestEnter(t *testing.T) {
	b, err := slurm.New(slurm.Config{Runner: &replay{}, Cluster: "c1", Env: []string{"SLURM_CONF=/x"}})
	if err != nil {
		t.Fatal(err)
	}
	e, err := b.Enter(backends.JobRef{ID: "7", User: "alice", Component: 2}, "n-1.site", []string{"/w/podrun", "stream"})
	want := "srun --clusters=c1 --jobid=7 --het-group=1 --overlap --nodes=1 --ntasks=1 --cpus-per-task=1 --nodelist=n-1.site " +
		"--mem=0 --gres=none --mpi=none --input=all --quiet --export=NONE --job-name=isthmus-stream --chdir=/ -- /w/podrun stream"
	if got := strings.Join(e.Argv, " "); err != nil || got != want || e.User != "alice" || !slices.Contains(e.Env, "SLURM_CONF=/x") {
		t.Errorf("got %+v, %v\nwant %s", e, err, want)
	}
	for name, tc := range map[string]struct {
		job  backends.JobRef
		host string
		argv []string
	}{
		"no id":        {backends.JobRef{User: "alice"}, "n", []string{"x"}},
		"an option":    {backends.JobRef{ID: "7", User: "alice"}, "--x", []string{"x"}},
		"a host list":  {backends.JobRef{ID: "7", User: "alice"}, "n[1-9]", []string{"x"}},
		"two hosts":    {backends.JobRef{ID: "7", User: "alice"}, "a,b", []string{"x"}},
		"root":         {backends.JobRef{ID: "7", User: "root"}, "n", []string{"x"}},
		"no user":      {backends.JobRef{ID: "7"}, "n", []string{"x"}},
		"no program":   {backends.JobRef{ID: "7", User: "alice"}, "n", nil},
		"no component": {backends.JobRef{ID: "7", User: "alice", Component: -1}, "n", []string{"x"}},
	} {
		if e, err := b.Enter(tc.job, tc.host, tc.argv); backends.KindOf(err) != backends.KindInvalid {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}

}

// TestSharedCommandFails: what fails for all together is asked for one by one,
// and each request gets its own answer.
func TestSharedCommandFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var mu sync.Mutex
		var asked []string
		r := runnerFunc(func(c transport.Command) (transport.Result, error) {
			ids := c.Argv[len(c.Argv)-1]
			mu.Lock()
			asked = append(asked, ids)
			mu.Unlock()
			if ids == "1" {
				<-gate
			}
			switch {
			case strings.Contains(ids, ","):
				return transport.Result{Exit: 1, Stderr: []byte("Access/permission denied for job 4\nslurm_suspend error")}, nil
			case ids == "4":
				return transport.Result{Exit: 1, Stderr: []byte("Access/permission denied for job 4")}, nil
			}
			return transport.Result{}, nil
		})
		b := backend(t, r)
		errs := make([]error, 6)
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() {
				errs[i] = b.Release(t.Context(), backends.JobRef{ID: backends.JobID(strconv.Itoa(i + 1)), Key: "k", User: "alice"})
			})
			synctest.Wait()
		}
		close(gate)
		group.Wait()
		<-time.After(time.Minute) // the committer waits for more, then ends
		for i, err := range errs {
			want := backends.Kind("")
			if i == 3 {
				want = backends.KindDenied
			}
			if backends.KindOf(err) != want {
				t.Errorf("job %d: %v, want kind %q", i+1, err, want)
			}
		}
		if want := []string{"1", "2,3,4,5,6", "2", "3", "4", "5", "6"}; !slices.Equal(asked, want) {
			t.Errorf("asked %q, want %q", asked, want)
		}
	})
}

type runnerFunc func(transport.Command) (transport.Result, error)

func (f runnerFunc) Run(_ context.Context, c transport.Command) (transport.Result, error) {
	return f(c)
}
