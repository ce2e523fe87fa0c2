package slurm_test

import (
	"slices"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// TestSwitches: while one host at each of two switches is taken, a job of two hosts at
// one switch waits, though two hosts are free; one that has waited for its time takes those.
func TestSwitches(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, testbed.Config{
		Name: "switched", Hosts: []testbed.Hosts{{Prefix: "n", Count: 4, CPUs: 4, MemoryMiB: 4000}},
		Partitions: []testbed.Partition{{Name: "a", Hosts: []string{"n[1-4]"}, Default: true}},
		Switches:   map[string][]string{"left": {"n1", "n2"}, "right": {"n3", "n4"}},
	})
	b, _ := newReal(t, c)
	s := siteOn(t, b)
	whole := func(tasks int, without ...string) backends.JobSpec {
		spec := s.spec("a", "sleep 600", backends.Component{Tasks: tasks, CPUs: 4})
		spec.ExcludedHosts = without
		return spec
	}
	s.state(s.start(whole(1, "n2", "n3", "n4")), backends.StateRunning)
	s.state(s.start(whole(1, "n1", "n2", "n4")), backends.StateRunning)

	near := whole(2)
	near.Switches, near.SwitchesWait = 1, 24*time.Hour // Slurm cuts it to its max_switch_wait, 5 minutes
	waits := s.start(near)
	s.until(waits, "waiting for a reason", time.Minute, func(j backends.Job) bool {
		return j.State == backends.StatePending && !j.Held && j.Reason != "" && j.Reason != "None"
	})
	soon := whole(2)
	soon.Switches, soon.SwitchesWait = 1, time.Second
	soon.Walltime = 3 * time.Minute // so that it delays nobody, and may pass the one before it
	if j := s.state(s.start(soon), backends.StateRunning); !slices.Equal(j.Hosts, []string{"n2", "n4"}) {
		t.Errorf("after its time a job runs on %v, want n2 and n4", j.Hosts)
	}
	if j := s.state(waits, backends.StatePending); len(j.Hosts) > 0 {
		t.Errorf("it has the hosts %v", j.Hosts)
	}
}
