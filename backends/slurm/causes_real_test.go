package slurm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// causes is a cluster on which jobs are preempted and lose their hosts. Running
// out of memory cannot be provoked on it: that takes the kernel's control
// groups, which a testbed without a machine of its own does not have; its state
// and exit code are in TestStates and TestHistoryOfVanishedJobs.
func causes(t *testing.T) *testbed.Cluster {
	t.Helper()
	return ownCluster(t, testbed.Config{
		Name: "causes",
		Hosts: []testbed.Hosts{
			{Prefix: "n", Count: 1, CPUs: 4, MemoryMiB: 4000}, {Prefix: "m", Count: 1, CPUs: 4, MemoryMiB: 4000}, {Prefix: "x", Count: 2, CPUs: 4, MemoryMiB: 4000},
		},
		Partitions: []testbed.Partition{
			{Name: "low", Hosts: []string{"n1"}, Default: true, Extra: "PriorityTier=1 PreemptMode=CANCEL GraceTime=3"},
			{Name: "lowagain", Hosts: []string{"m1"}, Extra: "PriorityTier=1 PreemptMode=REQUEUE GraceTime=0"},
			{Name: "high", Hosts: []string{"n1"}, Extra: "PriorityTier=10 PreemptMode=OFF"},
			{Name: "highagain", Hosts: []string{"m1"}, Extra: "PriorityTier=10 PreemptMode=OFF"},
			{Name: "loss", Hosts: []string{"x1", "x2"}},
		},
		Extra: []string{"PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE"},
	})
}

// all is a task that takes a whole host.
var all = backends.Component{Tasks: 1, CPUs: 4, MemoryMiB: 1000}

func TestCauses(t *testing.T) {
	t.Parallel()
	c := causes(t)
	t.Run("preempted with grace", func(t *testing.T) {
		t.Parallel()
		b, _ := newReal(t, c)
		s := siteOn(t, b)
		s.owner = "preempted"
		spec := s.spec("low", "trap 'echo got TERM' TERM; while :; do sleep 1 & wait $!; done", all)
		victim := s.start(spec)
		s.state(victim, backends.StateRunning)
		taker := s.start(s.spec("high", "exit 0", all))
		j := s.state(victim, backends.StatePreempted)
		if !j.State.Terminal() || j.Ended.IsZero() || len(j.Hosts) != 1 {
			t.Errorf("preempted: %+v", j)
		}
		if text, err := os.ReadFile(filepath.Join(spec.WorkDir, "batch.log")); err != nil || !strings.Contains(string(text), "got TERM") {
			t.Errorf("no terminate signal in the grace time: %s, %v", text, err)
		}
		s.state(taker, backends.StateCompleted)
	})
	t.Run("preempted and requeued", func(t *testing.T) {
		t.Parallel()
		b, _ := newReal(t, c)
		s := siteOn(t, b)
		s.owner = "requeued"
		victim := s.start(s.spec("lowagain", "exec sleep 1000", all))
		s.state(victim, backends.StateRunning)
		taker := s.start(s.spec("highagain", "exec sleep 1000", all))
		j := s.until(victim, "requeued", time.Minute, func(j backends.Job) bool { return j.Restarts == 1 && j.State == backends.StatePending })
		if j.Held || j.Never || !j.Started.IsZero() || !j.Ended.IsZero() || j.Reason == "" {
			t.Errorf("requeued: %+v", j)
		}
		if err := s.Cancel(t.Context(), taker); err != nil {
			t.Fatal(err)
		}
		s.state(taker, backends.StateCancelled)
	})
	t.Run("host lost", func(t *testing.T) {
		t.Parallel()
		b, _ := newReal(t, c)
		s := siteOn(t, b)
		s.owner = "lost"
		again := s.start(s.spec("loss", "exec sleep 1000", all))
		s.state(again, backends.StateRunning)
		ends := s.start(s.spec("loss", "exec sleep 1000", all))
		s.state(ends, backends.StateRunning)
		// A user may forbid a requeue; ours does not, an administrator can.
		if _, err := c.Run(t.Context(), "scontrol", "update", "jobid="+string(ends.ID), "requeue=0"); err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"x1", "x2"} {
			if err := c.StopHost(host); err != nil {
				t.Fatal(err)
			}
			// Slurm takes half a minute to notice; the administrator tells it.
			if _, err := c.Run(t.Context(), "scontrol", "update", "nodename="+host, "state=down", "reason=power"); err != nil {
				t.Fatal(err)
			}
		}
		j := s.until(again, "requeued", time.Minute, func(j backends.Job) bool { return j.Restarts == 1 && j.State == backends.StatePending })
		if j.Held || j.Never || len(j.Hosts) != 0 {
			t.Errorf("requeued: %+v", j)
		}
		if j = s.state(ends, backends.StateNodeFail); !j.State.Terminal() || j.Reason != "NodeDown" {
			t.Errorf("not requeued: %+v", j)
		}
		if inv, err := s.Inventory(t.Context()); err != nil || inv.Hosts[2].Usable || inv.Hosts[2].Why == "" {
			t.Errorf("the lost host: %+v, %v", inv.Hosts, err)
		}
	})
	t.Run("cancelled by an administrator", func(t *testing.T) {
		t.Parallel()
		b, _ := newReal(t, c)
		s := siteOn(t, b)
		s.owner = "cancelled"
		ref := s.submit(s.spec("lowagain", "exit 0", oneTask))
		if _, err := c.Run(t.Context(), "scancel", string(ref.ID)); err != nil {
			t.Fatal(err)
		}
		if j := s.state(ref, backends.StateCancelled); j.Held || !j.Started.IsZero() {
			t.Errorf("cancelled while it was held: %+v", j)
		}
		if err := s.Release(t.Context(), ref); err != nil {
			t.Errorf("release of a cancelled job: %v", err)
		}
	})
}

// TestHistoryReal: how jobs ended is known after the controller forgot them
// (MinJobAge of 10 s), to the daemon that saw them and to one that starts later.
// Everything goes by the name of the cluster (-M).
func TestHistoryReal(t *testing.T) {
	t.Parallel()
	c := withAccounting(t, "MinJobAge=10") // and no AccountingStoreFlags, which would keep the comments
	s := siteOn(t, named(t, c))
	if _, err := s.Inventory(t.Context()); err != nil || !s.Capabilities().History {
		t.Fatalf("history %t, %v", s.Capabilities().History, err)
	}
	fails := s.start(s.spec("a", "exit 7", oneTask))
	gang := s.start(s.spec("a", "exit 0", oneTask, backends.Component{Tasks: 1, CPUs: 2, MemoryMiB: 10}))
	killed := s.start(s.spec("a", "exec sleep 1000", oneTask))
	requeued := s.start(s.spec("a", "exec sleep 1000", oneTask))
	held := s.submit(s.spec("a", "exit 0", oneTask))
	s.state(killed, backends.StateRunning)
	s.state(requeued, backends.StateRunning)
	for _, argv := range [][]string{{"scontrol", "requeue", string(requeued.ID)}, {"scancel", string(killed.ID)}} {
		if _, err := c.Run(t.Context(), argv...); err != nil {
			t.Fatal(err)
		}
	}
	s.until(requeued, "requeued", time.Minute, func(j backends.Job) bool { return j.Restarts == 1 && j.State == backends.StatePending })
	// One that never ran again would have no further row (measured on 22.05). The
	// nodes take a new credential of the same job only some seconds after the old.
	if _, err := c.Run(t.Context(), "scontrol", "update", "jobid="+string(requeued.ID), "starttime=now+4"); err != nil {
		t.Fatal(err)
	}
	s.until(requeued, "running again", time.Minute, func(j backends.Job) bool { return j.State == backends.StateRunning && j.Restarts == 1 })
	if err := s.Cancel(t.Context(), requeued); err != nil {
		t.Fatal(err)
	}
	// The daemon is away while the controller forgets them: it last saw them live.
	for deadline := time.Now().Add(3 * time.Minute); ; <-time.After(500 * time.Millisecond) {
		out, err := c.Run(t.Context(), "squeue", "-a", "-h", "-t", "all", "-o", "%A")
		if err == nil && strings.TrimSpace(out) == string(held.ID) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the controller still lists %q, %v", out, err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, err := c.Run(background(), "sacct", "-D", "-X", "-P", "--allusers", "--starttime=now-1hour", "-o", "JobIDRaw,JobID,JobName,State,ExitCode,Submit,Start,End,Comment")
			t.Logf("sacct: %v\n%s", err, out)
		}
	})
	fresh := named(t, c)
	fresh.Recall(s.owner, []backends.JobRef{fails, gang, killed, requeued, held}) // as its pods say
	again := siteOn(t, fresh)
	for who, s := range map[string]*site{"the same daemon": s, "a new one": again} {
		if _, err := s.Inventory(t.Context()); err != nil {
			t.Fatal(err)
		}
		if j := s.state(fails, backends.StateFailed); j.ExitCode != 7 || j.Started.IsZero() || j.Ended.IsZero() || j.Key != fails.Key || j.User != fails.User {
			t.Errorf("%s: the failed job: %+v", who, j)
		}
		if j := s.state(gang, backends.StateCompleted); len(j.Hosts) != 2 || j.Key != gang.Key {
			t.Errorf("%s: the gang: %+v", who, j)
		}
		if j := s.state(killed, backends.StateCancelled); j.Started.IsZero() {
			t.Errorf("%s: the cancelled job: %+v", who, j)
		}
		if j := s.state(requeued, backends.StateCancelled); j.Restarts != 1 {
			t.Errorf("%s: the requeued job: %+v", who, j)
		}
		if j := s.state(held, backends.StatePending); !j.Held {
			t.Errorf("%s: the held job: %+v", who, j)
		}
	}
}
