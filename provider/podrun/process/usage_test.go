package process

import (
	"testing"
	"time"
)

func TestParseTimes(t *testing.T) {
	own, children, err := parseTimes([]byte("12 (a) b) S 1 12 12 0 -1 4194560 1 2 3 4 150 50 7 3 20 0 1 0 5 6 7"))
	if err != nil || own != 2*time.Second || children != 100*time.Millisecond {
		t.Errorf("%s, %s, %v", own, children, err)
	}
	for _, bad := range []string{"", "12 (a", "12 (a) S 1 2", "12 (a) S 1 12 12 0 -1 4194560 1 2 3 4 x 50 7 3 20"} {
		if _, _, err := parseTimes([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestField(t *testing.T) {
	rollup := []byte("55-7f ---p 0 00:00 0 [rollup]\nRss:  100 kB\nPss:    64 kB\nPss_Anon: 12 kB\n")
	if n, ok := field(rollup, "Pss:"); !ok || n != 64<<10 {
		t.Errorf("%d, %v", n, ok)
	}
	if _, ok := field(rollup, "Swap:"); ok {
		t.Error("a field that is not there is found")
	}
}
