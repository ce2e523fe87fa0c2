package hostlist_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends/hostlist"
)

func TestCompress(t *testing.T) {
	tests := []struct {
		names []string
		want  string
	}{
		{nil, ""},
		{[]string{"login"}, "login"},
		{[]string{"n7"}, "n7"},
		{[]string{"n2", "n1", "n2", "n4", "n3", "login"}, "login,n[1-4]"},
		{[]string{"n9", "n10", "n11"}, "n[9-11]"},
		{[]string{"n08", "n09", "n10", "n1"}, "n[1,10],n[08-09]"},
		{[]string{"n0", "n00", "n1"}, "n[0-1],n00"},
		{[]string{"rack1n01", "rack1n02", "rack2n01"}, "rack1n[01-02],rack2n01"},
		{[]string{"1", "2", "a.b-c_d"}, "[1-2],a.b-c_d"},
	}
	for _, tc := range tests {
		if got := hostlist.Compress(tc.names); got != tc.want {
			t.Errorf("Compress(%v) = %q, want %q", tc.names, got, tc.want)
		}
	}
}

func TestCompressAndExpand(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var names []string
		for range rng.IntN(60) {
			names = append(names, fmt.Sprintf("%s%0*d", []string{"n", "gpu-", "r1c", ""}[rng.IntN(4)], 1+rng.IntN(4), rng.IntN(130)))
			if rng.IntN(10) == 0 {
				names = append(names, "login")
			}
		}
		list := hostlist.Compress(names)
		got, err := hostlist.Expand(list, 1000)
		slices.Sort(names)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, slices.Compact(names)) {
			t.Fatalf("%q expands to %v (%v), want %v", list, got, err, names)
		}
	}
}
