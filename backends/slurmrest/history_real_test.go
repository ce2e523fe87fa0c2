package slurmrest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// TestHistoryReal: how jobs ended is known through slurmrestd after the controller
// forgot them (MinJobAge of 10 s), to the daemon that saw them and to one that
// starts later and has them on record.
func TestHistoryReal(t *testing.T) {
	t.Parallel()
	c := realCluster(t, true)
	s := siteOn(t, newReal(t, c, c.RESTAddress()))
	hasHistory(t, s.Backend, true)
	fails := s.start(s.spec("gpu", "exit 7", oneTask))
	gang := s.start(s.spec("gpu", "exit 0", oneTask, backends.Component{Tasks: 1, CPUs: 2, MemoryMiB: 10}))
	killed := s.start(s.spec("gpu", "exec sleep 1000", oneTask))
	shot := s.start(s.spec("gpu", "kill -KILL $$", oneTask))
	requeued := s.start(s.spec("gpu", "exec sleep 1000", oneTask))
	held := s.submit(s.spec("gpu", "exit 0", oneTask))
	s.state(killed, backends.StateRunning)
	s.state(requeued, backends.StateRunning)
	for _, argv := range [][]string{
		{"scontrol", "requeue", string(requeued.ID)}, {"scancel", string(killed.ID)},
		// It would wait for two minutes, and one that never ran again has no further row.
		{"scontrol", "update", "jobid=" + string(requeued.ID), "starttime=now+4"},
	} {
		if _, err := c.Run(t.Context(), argv...); err != nil {
			t.Fatal(err)
		}
	}
	s.until(requeued, "running again", func(j backends.Job) bool { return j.State == backends.StateRunning && j.Restarts == 1 })
	if err := s.Cancel(t.Context(), requeued); err != nil {
		t.Fatal(err)
	}
	refs := []backends.JobRef{fails, gang, killed, shot, requeued, held}
	for deadline := time.Now().Add(3 * time.Minute); ; <-time.After(500 * time.Millisecond) {
		out, err := c.Run(t.Context(), "squeue", "-a", "-h", "-t", "all", "-o", "%A")
		left := []string{}
		for _, id := range strings.Fields(out) {
			for _, ref := range refs {
				if id == string(ref.ID) {
					left = append(left, id)
				}
			}
		}
		if err == nil && len(left) == 1 && left[0] == string(held.ID) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the controller still lists %q, %v", left, err)
		}
	}
	fresh := newReal(t, c, c.RESTSocket())
	fresh.Recall(s.owner, refs)
	again := *s
	again.Backend = fresh
	for who, s := range map[string]*site{"the same daemon": s, "a new one": &again} {
		hasHistory(t, s.Backend, true)
		// v0.0.38 writes SUCCESS and 0 for whatever exited (measured on 22.05): the
		// code is known to who saw it at the controller.
		if j := s.state(fails, backends.StateFailed); who == "the same daemon" && j.ExitCode != 7 || j.Started.IsZero() || j.Ended.IsZero() || j.Key != fails.Key || j.User != fails.User {
			t.Errorf("%s: the failed job: %+v", who, j)
		}
		if j := s.state(gang, backends.StateCompleted); len(j.Hosts) != 2 || j.Key != gang.Key {
			t.Errorf("%s: the gang: %+v", who, j)
		}
		if j := s.state(killed, backends.StateCancelled); j.Started.IsZero() {
			t.Errorf("%s: the cancelled job: %+v", who, j)
		}
		if j := s.state(shot, backends.StateFailed); j.ExitCode != 137 && j.Signal != 9 {
			t.Errorf("%s: the job that was shot: %+v", who, j)
		}
		if j := s.state(requeued, backends.StateCancelled); j.Restarts != 1 {
			t.Errorf("%s: the requeued job: %+v", who, j)
		}
		if j := s.state(held, backends.StatePending); !j.Held {
			t.Errorf("%s: the held job: %+v", who, j)
		}
	}
}
