package scheduler_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

var rewrite = flag.Bool("rewrite", false, "write the outputs that the code gives into testdata")

// TestScripts runs testdata/*.txt. After a change run with -rewrite and read the
// difference: the scripts are the scheduler's specification.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d scripts found, want at least 20 (%v)", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got, err := schedtest.Run(string(want))
			if err != nil {
				t.Fatal(err)
			}
			if *rewrite {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("differs from the script; with -rewrite it becomes:\n%s", got)
			}
		})
	}
}
