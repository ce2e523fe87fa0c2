package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

func TestWarned(t *testing.T) {
	for _, tc := range []struct {
		limit, grace time.Duration
		want         bool
	}{
		{time.Hour, 30 * time.Second, true}, {90 * time.Second, 30 * time.Second, true}, {89 * time.Second, 30 * time.Second, false},
		{time.Hour, 0, false}, {0, 30 * time.Second, false},
	} {
		if got := warned(tc.limit, tc.grace); got != tc.want {
			t.Errorf("warned(%s, %s) = %v", tc.limit, tc.grace, got)
		}
	}
}

// The members of a job that names its limit are told in time, and not before.
func TestWatchLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, began := make(chan struct{}), time.Now()
		g := &manifest.Gang{Launcher: "local", LimitSeconds: 3600, GraceSeconds: 60}
		go watchLimit(t.Context(), nil, g, near)
		<-near
		if got := time.Since(began); got != time.Hour-75*time.Second {
			t.Errorf("told after %s", got)
		}
	})
}

func TestParseLimits(t *testing.T) {
	const text = "Job Id: 7.pbs\n    Job_Name = k1\n    resources_used.walltime = 00:01:40\n    Resource_List.walltime = 26:00:00\n\tResource_List.walltime = 1\n"
	if got := parseLimits(text); got != (limits{limit: 26 * time.Hour, used: 100 * time.Second}) {
		t.Errorf("%+v", got)
	}
	for text, want := range map[string]time.Duration{"90": 90 * time.Second, "1:00:00:00": 24 * time.Hour, "": 0, "1:2:3:4:5": 0, "-1": 0, "a:b": 0} {
		if got := parseClock(text); got != want {
			t.Errorf("parseClock(%q) = %s, want %s", text, got, want)
		}
	}
}

// What a stand-in of squeue says of the time that is left.
func TestTimeLeft(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "left")
	script := "#!/bin/sh\necho \"$@\" >> " + dir + "/asked\ncat " + left + "\n"
	if err := os.WriteFile(filepath.Join(dir, "squeue"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]time.Duration{
		"1-02:03:04": 26*time.Hour + 3*time.Minute + 4*time.Second, "5:06": 5*time.Minute + 6*time.Second, "UNLIMITED": 0, "INVALID": 0, "": 0,
	} {
		if err := os.WriteFile(left, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := askLeft([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), "SLURM_JOB_ID=7"}); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
	asked, err := os.ReadFile(filepath.Join(dir, "asked"))
	if err != nil || !strings.HasPrefix(string(asked), "--noheader --format=%L --jobs=7\n") {
		t.Errorf("asked %q, %v", asked, err)
	}
}
