package slurm_test

import (
	"slices"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
)

// TestExcludedHosts keeps jobs off hosts of their partition, plain ones and every
// component of those that have several.
func TestExcludedHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for left, excluded := range map[string][]string{"gpu2": {"gpu1"}, "gpu1": {"gpu2"}} {
		spec := s.spec("gpu", "sleep 600", oneTask)
		spec.ExcludedHosts = excluded
		if j := s.state(s.start(spec), backends.StateRunning); !slices.Equal(j.Hosts, []string{left}) {
			t.Errorf("without %v it runs on %v, want %s", excluded, j.Hosts, left)
		}
	}
	spec := s.spec("slow", "sleep 600", oneTask, backends.Component{Tasks: 1, CPUs: 2})
	spec.ExcludedHosts = []string{"s2"}
	j := s.state(s.start(spec), backends.StateRunning)
	slices.Sort(j.Hosts)
	if !slices.Equal(j.Hosts, []string{"s1", "s3"}) {
		t.Errorf("two components without s2 run on %v", j.Hosts)
	}
	spec = s.spec("gpu", "exit 0", oneTask)
	spec.ExcludedHosts = []string{"gpu1,gpu2"}
	if _, err := s.Submit(t.Context(), spec); backends.KindOf(err) != backends.KindInvalid {
		t.Errorf("a host list in place of a host: %v", err)
	}
}
