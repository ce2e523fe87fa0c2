package main

import (
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
		"passed":  {pass, true, []string{"ok    p", "1 tests passed, 0 failed, 0 skipped"}},
		"nothing": {"", false, []string{"nothing ran"}},
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
			if ok := summarize(strings.NewReader(tt.in), &out); ok != tt.ok {
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
