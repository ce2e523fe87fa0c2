package pod

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// A measurement is written when it tells something, or now and then.
func TestNews(t *testing.T) {
	at := time.Unix(1000, 0)
	old := manifest.Usage{Time: metav1.NewMicroTime(at), CPUNanos: 5e9, WorkingSetBytes: 100 << 20}
	for name, tc := range map[string]struct {
		after time.Duration
		cpu   uint64
		mem   uint64
		want  bool
	}{
		"nothing":         {15 * time.Second, 5e9, 100 << 20, false},
		"a little":        {15 * time.Second, 5e9 + 100e6, 101 << 20, false},
		"processor time":  {15 * time.Second, 5e9 + 200e6, 100 << 20, true},
		"more memory":     {15 * time.Second, 5e9, 103 << 20, true},
		"less memory":     {15 * time.Second, 5e9, 97 << 20, true},
		"a minute passed": {60 * time.Second, 5e9, 100 << 20, true},
	} {
		next := manifest.Usage{Time: metav1.NewMicroTime(at.Add(tc.after)), CPUNanos: tc.cpu, WorkingSetBytes: tc.mem}
		if got := news(old, next); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if !news(manifest.Usage{}, old) {
		t.Error("the first one is no news")
	}
}
