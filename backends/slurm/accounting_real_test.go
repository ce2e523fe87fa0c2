package slurm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// withAccounting starts a cluster with an accounting database.
func withAccounting(t *testing.T, extra ...string) *testbed.Cluster {
	t.Helper()
	return ownCluster(t, testbed.Config{
		Name: "booked", Accounting: true, Extra: extra,
		Hosts:      []testbed.Hosts{{Prefix: "n", Count: 2, CPUs: 4, MemoryMiB: 4000, GPUType: "a100", GPUs: 2}},
		Partitions: []testbed.Partition{{Name: "a", Hosts: []string{"n1", "n2"}, Default: true}},
	})
}

// named is a backend that speaks to the cluster by its name, as in a federation.
func named(t *testing.T, c *testbed.Cluster) *slurm.Backend {
	t.Helper()
	b, err := slurm.New(slurm.Config{Runner: local.New(), Env: c.Env(), Cluster: c.Name()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAccountingReal runs jobs on a cluster that keeps books: Slurm looks up the
// user's association on every submit, and sacct tells of the jobs by their key
// what Observe told while the controller knew them.
func TestAccountingReal(t *testing.T) {
	t.Parallel()
	c := withAccounting(t)
	b, _ := newReal(t, c)
	s := siteOn(t, b)

	one := s.spec("a", "exit 0", oneTask)
	one.Account = testbed.AccountName
	first := s.start(one)
	gang := s.spec("a", cleared+step+"--het-group=0 --gpu-bind=per_task:1 "+show+" : --het-group=1 --mem=0 "+show,
		backends.Component{Tasks: 2, CPUs: 1, MemoryMiB: 100, GPUs: map[string]int64{"a100": 1}},
		backends.Component{Tasks: 1, CPUs: 2, MemoryMiB: 100})
	second := s.start(gang)
	if j := s.state(first, backends.StateCompleted); j.ExitCode != 0 {
		t.Errorf("the single job: %+v", j)
	}
	if j := s.state(second, backends.StateCompleted); len(j.Hosts) != 2 {
		t.Errorf("the gang: %+v", j)
	}
	if tasks := s.tasks(gang); len(tasks) != 3 {
		t.Errorf("tasks of the gang: %+v", tasks)
	}
	third := s.start(s.spec("a", "exec sleep 1000", oneTask))
	s.state(third, backends.StateRunning)
	if err := s.Cancel(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	s.state(third, backends.StateCancelled)
	fourth := s.start(s.spec("a", "exit 7", oneTask))
	if j := s.state(fourth, backends.StateFailed); j.ExitCode != 7 {
		t.Errorf("the failed job: %+v", j)
	}

	// The controller hands over every 5 s; until then a row has no name or user.
	// Components are booked one by one under the names of their own.
	sacct := func(ref backends.JobRef, columns string) []string {
		t.Helper()
		key := string(ref.Key)
		out, err := c.Run(t.Context(), "sacct", "-n", "-P", "-X", "--starttime=now-1hour",
			"--name", key+","+key+".0,"+key+".1", "-o", columns)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(out)
	}
	booked := func(ref backends.JobRef, want ...string) {
		t.Helper()
		var got []string
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
			if got = sacct(ref, "JobName,User,State,ExitCode"); strings.Join(got, "\n") == strings.Join(want, "\n") {
				return
			}
		}
		t.Errorf("sacct of job %s tells %q, want %q", ref.ID, got, want)
	}
	check := func() {
		t.Helper()
		name := func(ref backends.JobRef, suffix string) string {
			return string(ref.Key) + suffix + "|" + account.Alice + "|"
		}
		booked(first, name(first, "")+"COMPLETED|0:0")
		booked(second, name(second, ".0")+"COMPLETED|0:0", name(second, ".1")+"COMPLETED|0:0")
		booked(fourth, name(fourth, "")+"FAILED|7:0")
	}
	check()
	reserveAsOperator(t, c)
	for ref, want := range map[backends.JobRef]string{first: "COMPLETED", third: "CANCELLED"} {
		if got := sacct(ref, "State,Account"); len(got) == 0 || !strings.HasPrefix(got[0], want) || !strings.HasSuffix(got[len(got)-1], "|"+testbed.AccountName) {
			t.Errorf("sacct of job %s tells %q", ref.ID, got)
		}
	}
	// The books do not depend on what the controller still knows.
	if err := c.StopController(); err != nil {
		t.Fatal(err)
	}
	check()
	if err := c.StartController(t.Context()); err != nil { // the jobs are cancelled at the end
		t.Fatal(err)
	}
}
