package framework_test

import (
	"slices"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func TestWithoutTakesOutFewAndMany(t *testing.T) {
	var pods []*snapshot.Pod
	for range 30 {
		pods = append(pods, &snapshot.Pod{})
	}
	for _, n := range []int{0, 3, 20, 30} {
		if got := framework.Without(slices.Clone(pods), pods[30-n:]); !slices.Equal(got, pods[:30-n]) {
			t.Errorf("%d of 30 pods are left without %d", len(got), n)
		}
	}
}
