package slurm_test

import (
	"path/filepath"
	"strings"
)

// nonceOf finds the separator that a squeue command asks for.
func nonceOf(argv []string) string {
	for _, a := range argv {
		if f, ok := strings.CutPrefix(a, "--Format=JobID:"); ok {
			sep, _, _ := strings.Cut(f, ",")
			return sep
		}
	}
	return ""
}

// recordedSep stands for the separator in testdata.
const recordedSep = "<|>"

func recording(argv []string) string {
	what := argv[len(argv)-1]
	if argv[0] == "squeue" {
		what = "jobs"
	}
	return filepath.Join("testdata", argv[0]+"-"+strings.Trim(what, "-")+".txt")
}
