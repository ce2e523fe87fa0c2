package pbs_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/pbs"
)

// submission is what a submitter is told: the directory of the stand-in, the job, and the
// file that its qsub waits for before it reads the script.
type submission struct {
	Dir  string
	Spec backends.JobSpec
	Sign string
}

const submissionVariable = "ISTHMUS_PBS_SUBMISSION"

// TestSubmitter is the program that TestKilledSubmitters kills.
func TestSubmitter(t *testing.T) {
	var s submission
	if err := json.Unmarshal([]byte(os.Getenv(submissionVariable)), &s); err != nil {
		return // by itself it tests nothing: another test starts it as a program
	}
	c, err := testbed.Attach(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := backendBy(t, c, pbs.Pro, lengthened{local.New(), s.Sign})
	if _, err := b.Observe(t.Context(), s.Spec.Owner, []string{s.Spec.User}); err != nil { // as a daemon has before it submits
		t.Fatal(err)
	}
	id, err := b.Submit(t.Context(), s.Spec)
	t.Fatal("it was to be killed:", id, err)
}

// lengthened makes scripts longer than a pipe holds, by comments before what they do, and
// has qsub wait for a sign before it reads them.
type lengthened struct {
	transport.Runner
	sign string
}

func (l lengthened) Run(ctx context.Context, c transport.Command) (transport.Result, error) {
	if c.Argv[0] == "qsub" {
		script, err := io.ReadAll(c.Stdin)
		if err != nil {
			return transport.Result{}, err
		}
		first, rest, _ := strings.Cut(string(script), "\n")
		c.Stdin = strings.NewReader(first + "\n" + strings.Repeat("#"+strings.Repeat("-", 62)+"\n", 4096) + rest)
		c.Env = append(slices.Clone(c.Env), "STANDIN_QSUB_AWAITS="+l.sign)
	}
	return l.Runner.Run(ctx, c)
}

// A program that is killed while it submits has submitted the whole job, also when qsub
// had read nothing by then: what is found afterwards and released runs, and says how it
// ended.
func TestKilledSubmitters(t *testing.T) {
	t.Parallel()
	s := newSite(t, pbs.Pro, testbed.Config{})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		spec := s.spec(backendtest.Program{})
		sign := filepath.Join(s.cluster.StagingDir, "read-"+string(spec.Key))
		text, err := json.Marshal(submission{s.cluster.Dir, spec, sign})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestSubmitter$")
		cmd.Env = append(os.Environ(), submissionVariable+"="+string(text))
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waits := soon(func() bool { _, err := os.Stat(sign + ".awaited"); return err == nil })
		_ = cmd.Process.Kill() // one that has ended has said why
		_ = cmd.Wait()         // it was killed
		if !waits {
			t.Fatalf("qsub never began; its caller said %q", said.String())
		}
		if err := os.WriteFile(sign, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		ref := backends.JobRef{Key: spec.Key, User: account.Alice}
		if !soon(func() bool {
			for _, j := range s.list() {
				if j.Key == spec.Key {
					ref.ID = j.ID
				}
			}
			return ref.ID != ""
		}) {
			t.Fatalf("qsub of a submitter that was killed made no job; it said %q", said.String())
		}
		if err := s.Release(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if !soon(func() bool { return !s.queued(ref) }) {
			t.Fatalf("job %s never ends", ref.ID)
		}
		at := slices.IndexFunc(s.list(), func(j backends.Job) bool { return j.ID == ref.ID && j.State == backends.StateCompleted })
		if n := s.disk.Trace(t, spec.WorkDir).Starts; n != 1 || at < 0 {
			t.Errorf("job %s of a submitter that was killed has ended; it ran %d times, its end is known: %t", ref.ID, n, at >= 0)
		}
	}
}

// soon says that something comes true within a minute.
func soon(is func() bool) bool {
	for range 1200 {
		if is() {
			return true
		}
		<-time.After(50 * time.Millisecond)
	}
	return false
}

// queued says that the server still has the job.
func (s *site) queued(ref backends.JobRef) bool {
	s.t.Helper()
	return strings.Contains(s.admin("qstat", "-f"), "Job Id: "+string(ref.ID)+"\n")
}
