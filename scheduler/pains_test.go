package scheduler_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPains: every test and script that PAINS.md names exists, and every row names one.
func TestPains(t *testing.T) {
	page, err := os.ReadFile("PAINS.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !regexp.MustCompile(`^ \d+ $`).MatchString(cells[1]) {
			continue
		}
		rows++
		shown := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[4], -1)
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
	if rows != 15 {
		t.Errorf("%d rows, want 15", rows)
	}
}
