package scheduler_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPains: every test and script that PAINS.md names exists, and every row of both
// tables names one.
func TestPains(t *testing.T) {
	page, err := os.ReadFile("PAINS.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, promises := 0, ""
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		tests := ""
		switch {
		case len(cells) == 6 && regexp.MustCompile(`^ \d+ $`).MatchString(cells[1]):
			rows++
			tests = cells[4]
		case len(cells) == 5 && regexp.MustCompile(`^ (R\d+|Mutants) $`).MatchString(cells[1]):
			promises += strings.TrimRight(cells[1], " ")
			tests = cells[3]
		default:
			continue
		}
		shown := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(tests, -1)
		if len(shown) == 0 {
			t.Errorf("row%s names no test", cells[1])
		}
		for _, m := range shown {
			folder, test, isTest := strings.Cut(m[1], ".Test")
			if !isTest {
				if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
					t.Errorf("row%s: %v", cells[1], err)
				}
				continue
			}
			files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, f := range files {
				text, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				found = found || strings.Contains(string(text), "\nfunc Test"+test+"(")
			}
			if !found {
				t.Errorf("row%s: %s has no test named Test%s", cells[1], folder, test)
			}
		}
	}
	if want := " R6 R7 R8 R9 R14 R15 Mutants"; rows != 15 || promises != want {
		t.Errorf("%d pains, want 15, and promises%s, want%s", rows, promises, want)
	}
}
