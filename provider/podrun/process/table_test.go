package process

import (
	"fmt"
	"testing"
)

func TestParseStat(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want info
		dead bool
		bad  bool
	}{
		"plain":       {in: "7 (sh) S 1 7 5 0 -1", want: info{7, 1, 5}},
		"zombie":      {in: "7 (sh) Z 1 7 5 0 -1", want: info{7, 1, 5}, dead: true},
		"odd name":    {in: "7 (a) S 9 9 9 9) R 2 3 4 0", want: info{7, 2, 4}},
		"cut short":   {in: "7 (sh) S 1", bad: true},
		"no name":     {in: "7 sh S 1 2 3", bad: true},
		"not numbers": {in: "7 (sh) S x y z 0", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, dead, err := parseStat(7, []byte(tc.in))
			if (err != nil) != tc.bad || got != tc.want || dead != tc.dead {
				t.Errorf("got %+v, %v, %v", got, dead, err)
			}
		})
	}
}

func TestDescend(t *testing.T) {
	all := []info{{pid: 2, parent: 1}, {pid: 3, parent: 2}, {pid: 4, parent: 3}, {pid: 5, parent: 1}, {pid: 6, parent: 5}}
	for root, want := range map[int]string{1: "[2 3 4 5 6]", 2: "[3 4]", 6: "[]"} {
		if got := fmt.Sprint(descend(all, func(p info) bool { return p.parent == root })); got != want {
			t.Errorf("below %d: %s, want %s", root, got, want)
		}
	}
}
