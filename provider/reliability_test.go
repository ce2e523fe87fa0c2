package provider_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest = regexp.MustCompile("`([A-Za-z0-9_/]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")
	longTier  = regexp.MustCompile("`((?:ISTHMUS_[A-Z_]+=[0-9]+)|(?:-count=[0-9]+)|(?:go run \\./[a-z/]+)|FUZZTIME)`")
	routine   = regexp.MustCompile(`(?m)^\s*go (func\b|[a-zA-Z_.]+\()|\.Go\(`)
)

// TestReliability: each row of RELIABILITY.md names tests that exist, and long tiers
// that the Makefile has.
func TestReliability(t *testing.T) {
	page, err := os.ReadFile("RELIABILITY.md")
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		name := ""
		if len(cells) > 4 {
			name = strings.TrimSpace(cells[1])
		}
		if name == "" || name == "Row" || name == "#" || strings.HasPrefix(name, "--") {
			continue
		}
		rows[name] = true
		tests := cells[3]
		if len(cells) == 6 { // a pain
			tests = cells[4]
		} else {
			tiers := longTier.FindAllStringSubmatch(cells[4], -1)
			if len(tiers) == 0 && !strings.Contains(cells[4], "none") {
				t.Errorf("row %s names no long tier and does not say why: %s", name, cells[4])
			}
			for _, m := range tiers {
				if !strings.Contains(string(makefile), m[1]) {
					t.Errorf("row %s: the Makefile has no %q", name, m[1])
				}
			}
		}
		named := namedTest.FindAllStringSubmatch(tests, -1)
		if len(named) == 0 {
			t.Errorf("row %s names no test: %s", name, tests)
		}
		for _, m := range named {
			if !exists(t, m[1], m[2]) {
				t.Errorf("row %s: %s has no test named %s", name, m[1], m[2])
			}
		}
	}
	want := "R1 R2 R3 R4 R5 R10 R11 R12 R13 R14 S1 S2 S3 S4 S6 S7 S8 S9 S10 S11 End Absence " +
		"1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30"
	for _, name := range strings.Fields(want) {
		if !rows[name] {
			t.Errorf("no row %s", name)
		}
	}
	if n := len(strings.Fields(want)); len(rows) != n {
		t.Errorf("%d rows, want %d", len(rows), n)
	}
}

func exists(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}

// TestLeaksAreLookedFor: every package of the bridge that starts goroutines fails its
// tests when some are left (R10), but for those here, each with the reason.
func TestLeaksAreLookedFor(t *testing.T) {
	excused := map[string]string{
		"backends/transport/transporttest": "tests of others run it, and look themselves",
		"provider/podrun/runtime/stage":    "the work between fork and exec of a container: it ends with its process",
		"provider/podrun/stream":           "cmd/podrun tests it as a process, provider/podstream looks for leaks of its client",
		"cmd/podrun":                       "its tests run the program as a process",
	}
	packages, looking := map[string]bool{}, map[string]bool{}
	for _, top := range []string{"backends", "provider", "cmd/podrun", "cmd/vnode"} {
		err := filepath.WalkDir(filepath.Join("..", top), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") {
				return err
			}
			text, err := os.ReadFile(name) //nolint:gosec // of this repository
			if err != nil {
				return err
			}
			folder := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(name), "../"))
			switch {
			case !strings.HasSuffix(name, "_test.go"):
				packages[folder] = packages[folder] || routine.Match(text)
			case strings.Contains(string(text), "goleak."):
				looking[folder] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for folder, starts := range packages {
		switch {
		case starts && looking[folder]:
			n++
			if excused[folder] != "" {
				t.Errorf("%s looks for leaks: it needs no excuse", folder)
			}
		case starts && excused[folder] == "":
			t.Errorf("%s starts goroutines, and its tests do not look for leaks", folder)
		}
	}
	for folder := range excused {
		if !packages[folder] {
			t.Errorf("%s is excused and starts no goroutines", folder)
		}
	}
	t.Logf("R10: %d packages that start goroutines look for leaks", n)
}
