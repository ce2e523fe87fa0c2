package hostlist_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends/hostlist"
)

func TestExpand(t *testing.T) {
	for list, want := range map[string]string{
		"":                       "",
		"gpu1":                   "gpu1",
		"gpu[1-3]":               "gpu1 gpu2 gpu3",
		"gpu[1,3,5-6],login":     "gpu1 gpu3 gpu5 gpu6 login",
		"n[08-11]":               "n08 n09 n10 n11",
		"n[8,09-10]":             "n8 n09 n10",
		"r[0-1]n[01-02]":         "r0n01 r0n02 r1n01 r1n02",
		"n[1-2]-ib":              "n1-ib n2-ib",
		"a,b,a":                  "a b a",
		"node-1.example.org":     "node-1.example.org",
		"cpu1,gpu[3-4]":          "cpu1 gpu3 gpu4",
		"n[999999999999999999]x": "n999999999999999999x",
	} {
		got, err := hostlist.Expand(list, 1000)
		if err != nil {
			t.Errorf("%q: %v", list, err)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q gives %v, want %s", list, got, want)
		}
	}
}

func TestExpandRefuses(t *testing.T) {
	for _, list := range []string{
		",", "a,", ",a", "n[", "n]", "n[]", "n[1-]", "n[-1]", "n[3-1]", "n[1-2", "n[[1]]", "n[a-b]", "n[1-2-3]", "n[0x1]",
		"n[1 -2]", "two words", "a\nb", "n[9999999999999999999]", strings.Repeat("n", 300), strings.Repeat("[1]", 20),
		strings.Repeat("a,", 1<<20),
	} {
		if got, err := hostlist.Expand(list, 1000); err == nil {
			t.Errorf("%.40q gives %v, want an error", list, got)
		}
	}
}

func TestExpandIsBounded(t *testing.T) {
	if got, err := hostlist.Expand("n[1-1000]", 1000); err != nil || len(got) != 1000 {
		t.Errorf("exactly the bound: %d names, %v", len(got), err)
	}
	for _, list := range []string{
		"n[1-1001]", "n[0-99999999999999999]", "a[1-1000]b[1-1000]", "n[1-600],m[1-600]",
		"a[0-9]b[0-9]c[0-9]d[0-9]e[0-9]f[0-9]g[0-9]h[0-9]",
	} {
		if _, err := hostlist.Expand(list, 1000); !errors.Is(err, hostlist.ErrTooMany) {
			t.Errorf("%q: %v, want ErrTooMany", list, err)
		}
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"gpu[1-4,7],login", "r[0-1]n[01-02]-ib", "n[", "[0-99999999999]", "a,,b", "n[1-2][3-4][5-6]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		const most = 500
		got, err := hostlist.Expand(list, most)
		if err != nil {
			return
		}
		if len(got) > most {
			t.Fatalf("%d names, more than %d", len(got), most)
		}
		// What was expanded is plain: expanding it again changes nothing.
		again, err := hostlist.Expand(strings.Join(got, ","), most)
		if err != nil || !slices.Equal(got, again) {
			t.Fatalf("%q gives %q, and that gives %q (%v)", list, got, again, err)
		}
	})
}
