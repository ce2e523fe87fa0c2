package main

import (
	"io"
	"strings"
	"testing"
)

func TestSummarize(t *testing.T) {
	const pass = `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"pass","Package":"p","Elapsed":1.5}` + "\n"
	for name, tt := range map[string]struct {
		in   string
		ok   bool
		want []string
	}{
		"passed":            {pass, true, []string{"ok    p", "1 tests passed, 0 failed, 0 skipped"}},
		"failed for itself": {pass + `{"Action":"exit","Elapsed":2}`, false, []string{"without a failing test"}},
		"passed to the end": {pass + `{"Action":"exit","Elapsed":0}`, true, nil},
		"nothing":           {"", false, []string{"nothing ran"}},
		"failed": {
			pass + `{"Action":"output","Package":"p","Test":"TestB","Output":"why\n"}` + "\n" +
				`{"Action":"fail","Package":"p","Test":"TestB"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n",
			false, []string{"why\n", "FAIL  p", "FAILED  p TestB"},
		},
		"skipped with its reason": {
			pass + `{"Action":"output","Package":"p","Test":"TestC","Output":"=== RUN TestC\n"}` + "\n" +
				`{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:3: no Slurm here\n"}` + "\n" +
				`{"Action":"skip","Package":"p","Test":"TestC"}` + "\n",
			true, []string{"skipped p TestC: c_test.go:3: no Slurm here"},
		},
		"slow ones first": {
			`{"Action":"pass","Package":"p","Test":"TestA","Elapsed":21}` + "\n" + `{"Action":"pass","Package":"p","Test":"TestB","Elapsed":60}` + "\n" +
				`{"Action":"pass","Package":"p","Test":"TestB/part","Elapsed":59}` + "\n" + `{"Action":"pass","Package":"p","Test":"TestC","Elapsed":19}` + "\n",
			true, []string{"  slow       60.0s  p TestB\n  slow       21.0s  p TestA\n"},
		},
		"a package that does not build": {
			`{"ImportPath":"q","Action":"build-output","Output":"syntax error\n"}` + "\n" +
				`{"ImportPath":"q","Action":"build-fail"}` + "\n" + `{"Action":"fail","Package":"q","FailedBuild":"q"}` + "\n",
			false, []string{"syntax error", "FAIL  q"},
		},
		"a package that panics outside a test": {
			pass + `{"Action":"output","Package":"r","Output":"panic: boom\n"}` + "\n" + `{"Action":"fail","Package":"r"}` + "\n",
			false, []string{"panic: boom", "FAIL  r"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if ok := summarize(strings.NewReader(tt.in), &out).passed(nil); ok != tt.ok {
				t.Errorf("ok is %v", ok)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, out.String())
				}
			}
		})
	}
}

// Only few failures are looked at twice, and never those that time does not cause.
func TestAgain(t *testing.T) {
	fail := func(test, said string) string {
		return `{"Action":"output","Package":"p","Test":"` + test + `","Output":"` + said + `\n"}` + "\n" +
			`{"Action":"fail","Package":"p","Test":"` + test + `"}` + "\n"
	}
	const end = `{"Action":"fail","Package":"p"}` + "\n"
	always := func(string, string) bool { return true }
	never := func(string, string) bool { return false }
	for name, tt := range map[string]struct {
		in   string
		run  func(pkg, pattern string) bool
		ok   bool
		runs int
	}{
		"passes alone":          {fail("TestA/x", "waited in vain") + fail("TestA", "") + end, always, true, 1},
		"fails alone":           {fail("TestA", "waited in vain") + end, never, false, 1},
		"one of two":            {fail("TestA", "") + fail("TestB", "") + end, func(_, p string) bool { return p == "^TestA$" }, false, 2},
		"too many":              {fail("TestA", "") + fail("TestB", "") + fail("TestC", "") + end, always, false, 0},
		"a race":                {fail("TestA", "WARNING: DATA RACE") + end, always, false, 0},
		"a panic":               {fail("TestA", "panic: boom") + end, always, false, 0},
		"the package by itself": {`{"Action":"pass","Package":"p","Test":"TestA"}` + "\n" + end, always, false, 0},
		"a leak after the tests": {fail("TestA", "") + `{"Action":"output","Package":"p","Output":"found unexpected goroutines\n"}` + "\n" + end,
			always, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			runs := 0
			var out strings.Builder
			r := summarize(strings.NewReader(tt.in), &out)
			unstable := r.again(2, &out, func(pkg, pattern string) bool { runs++; return tt.run(pkg, pattern) })
			if r.passed(unstable) != tt.ok || runs != tt.runs {
				t.Errorf("passed is %v after %d runs, want %v after %d\n%s", !tt.ok, runs, tt.ok, tt.runs, out.String())
			}
		})
	}
	if rerun(io.Discard, nil, ".", "^TestNoSuch$") {
		t.Error("nothing ran, and that passed")
	}
	if !rerun(io.Discard, nil, ".", "^TestSummarize$") {
		t.Error("a test that passes did not")
	}
}
