package main

import (
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// again runs failed tests once more, when there are at most limit of them and
// none is final, and gives those that pass then. run runs one package's tests
// that match a pattern.
func (r report) again(limit int, out io.Writer, run func(pkg, pattern string) bool) []failure {
	tops := map[string][]string{} // by package
	var packages []string
	count := 0
	for _, f := range r.failed {
		if f.final || !r.sound {
			return nil
		}
		if _, ok := tops[f.pkg]; !ok {
			packages = append(packages, f.pkg)
		}
		if !slices.Contains(tops[f.pkg], f.top()) {
			tops[f.pkg] = append(tops[f.pkg], f.top())
			count++
		}
	}
	if count == 0 || count > limit {
		return nil
	}
	var passed []failure
	for _, pkg := range packages {
		for _, top := range tops[pkg] {
			fmt.Fprintf(out, "once more, alone: %s %s\n", pkg, top)
			if run(pkg, "^"+regexp.QuoteMeta(top)+"$") {
				fmt.Fprintf(out, "  UNSTABLE %s %s: it failed among the others and passed alone\n", pkg, top)
				passed = append(passed, failure{pkg: pkg, test: top})
			}
		}
	}
	return passed
}

// passed reports whether nothing failed for good.
func (r report) passed(unstable []failure) bool {
	return r.sound && !slices.ContainsFunc(r.failed, func(f failure) bool {
		return f.final || !slices.ContainsFunc(unstable, func(u failure) bool { return u.pkg == f.pkg && u.test == f.top() })
	})
}

// rerun runs tests of a package with the flags that the first run had. It blocks
// until they end, and writes their output to out when they fail.
func rerun(out io.Writer, flags []string, pkg, pattern string) bool {
	args := append(append([]string{"test", "-count=1", "-v", "-run", pattern}, flags...), pkg)
	said, err := exec.Command("go", args...).CombinedOutput()
	// A pattern that matches nothing passes, and says so.
	if err == nil && !strings.Contains(string(said), "no tests to run") && strings.Contains(string(said), "--- PASS") {
		return true
	}
	_, _ = out.Write(said)
	return false
}
