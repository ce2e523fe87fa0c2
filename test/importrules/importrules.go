// Package importrules checks in a test that imports point only in the allowed
// direction. Each rule carries its reason, which the failure shows.
package importrules

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// Module is the path of this module.
const Module = "github.com/isthmus-hpc/isthmus"

// Rule bans imports from some packages.
type Rule struct {
	// From are package path prefixes below the module that the rule is about.
	From []string
	// Except are prefixes of packages that the rule does not apply to.
	Except []string
	// Ban are package path prefixes, below the module when they start with "./".
	Ban []string
	// Allow are prefixes that Ban does not mean.
	Allow []string
	// Direct looks only at a package's own imports; otherwise everything that
	// is linked in counts.
	Direct bool
	Why    string
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// Check lists the packages that match the patterns once, without their tests,
// and fails t for every broken rule.
func Check(t *testing.T, patterns []string, rules []Rule) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Imports,Deps"}, patterns...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", patterns, err, stderr.String())
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		seen++
		for _, r := range rules {
			r.check(t, p)
		}
	}
	if seen == 0 {
		t.Fatalf("no package matches %v: the rules check nothing", patterns)
	}
}

func (r Rule) check(t *testing.T, p listed) {
	t.Helper()
	if !under(p.ImportPath, r.From) || under(p.ImportPath, r.Except) {
		return
	}
	imports := p.Deps
	if r.Direct {
		imports = p.Imports
	}
	for _, dep := range imports {
		if under(dep, r.Ban) && !under(dep, r.Allow) {
			t.Errorf("%s must not import %s: %s", p.ImportPath, dep, r.Why)
		}
	}
}

// under reports whether path is one of the prefixes or below one.
func under(path string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if rest, ok := strings.CutPrefix(prefix, "./"); ok {
			prefix = Module + "/" + rest
		}
		if path == prefix || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/") {
			return true
		}
	}
	return false
}
