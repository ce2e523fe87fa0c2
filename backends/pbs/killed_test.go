package pbs_test

import (
	"bufio"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/pbs"
)

// submission is what a submitter is told: the directory of the stand-in and the job.
type submission struct {
	Dir  string
	Spec backends.JobSpec
}

const submissionVariable = "ISTHMUS_PBS_SUBMISSION"

// TestSubmitter is the program that TestKilledSubmitters kills.
func TestSubmitter(t *testing.T) {
	var s submission
	if err := json.Unmarshal([]byte(os.Getenv(submissionVariable)), &s); err != nil {
		t.Skip("another test starts this one as a program")
	}
	c, err := testbed.Attach(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := backendOn(t, c, pbs.Pro)
	if _, err := b.Observe(t.Context(), s.Spec.Owner, []string{s.Spec.User}); err != nil { // as a daemon has before it submits
		t.Fatal(err)
	}
	if _, err := os.Stdout.WriteString("submitting\n"); err != nil {
		t.Fatal(err)
	}
	id, err := b.Submit(t.Context(), s.Spec)
	t.Log(id, err)
	<-time.After(time.Minute) // until it is killed
}

// A program that is killed at any moment while it submits has submitted the whole job or
// none: what is found afterwards and released runs, and says how it ended.
func TestKilledSubmitters(t *testing.T) {
	t.Parallel()
	s := newSite(t, pbs.Pro, testbed.Config{})
	trials := 15
	if n, err := strconv.Atoi(os.Getenv("ISTHMUS_TRIALS")); err == nil && n > 0 {
		trials = n
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(28, 4)) //nolint:gosec // a run that can be repeated
	found := 0
	for range trials {
		spec := s.spec(backendtest.Program{})
		spec.Key = backends.Key("k" + strconv.Itoa(s.n))
		text, err := json.Marshal(submission{s.cluster.Dir, spec})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestSubmitter$")
		cmd.Env = append(os.Environ(), submissionVariable+"="+string(text))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(line, err)
		}
		<-time.After(time.Duration(rng.Int64N(int64(8 * time.Millisecond))))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		<-time.After(100 * time.Millisecond)
		var ref backends.JobRef
		for _, j := range s.list() {
			if j.Key == spec.Key {
				ref = backends.JobRef{ID: j.ID, Key: j.Key, User: account.Alice}
			}
		}
		if ref.ID == "" {
			continue
		}
		found++
		if err := s.Release(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		for s.queued(ref) {
			<-time.After(20 * time.Millisecond)
		}
		at := slices.IndexFunc(s.list(), func(j backends.Job) bool { return j.ID == ref.ID && j.State == backends.StateCompleted })
		if n := s.disk.Trace(t, spec.WorkDir).Starts; n != 1 || at < 0 {
			t.Errorf("job %s of a submitter that was killed has ended; it ran %d times, its end is known: %t", ref.ID, n, at >= 0)
		}
	}
	t.Logf("%d submitters killed, %d of them with a job", trials, found)
}

// queued says that the server still has the job.
func (s *site) queued(ref backends.JobRef) bool {
	s.t.Helper()
	return strings.Contains(s.admin("qstat", "-f"), "Job Id: "+string(ref.ID)+"\n")
}
