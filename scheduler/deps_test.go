package scheduler_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/isthmus-hpc/isthmus/"

// bans says what packages under a folder must never import, directly or not.
// An entry ends in "/" to ban everything below as well.
var bans = []struct {
	of     []string // package paths below the module, "/..." for all below
	banned []string
	why    string
}{
	{
		of:     []string{"scheduler/..."},
		banned: []string{module + "provider/", module + "backends", module + "backends/"},
		why:    "the scheduler and the provider meet only in API objects and controllers/api",
	},
	{
		of: []string{
			"scheduler", "scheduler/resource", "scheduler/snapshot", "scheduler/plan", "scheduler/framework",
			"scheduler/actions/...", "scheduler/plugins/...", "scheduler/schedtest",
		},
		banned: []string{"k8s.io/client-go/", "volcano.sh/apis/pkg/client/", "sigs.k8s.io/controller-runtime", "sigs.k8s.io/controller-runtime/"},
		why:    "decisions are pure: no client",
	},
	{
		of:     []string{"scheduler/resource", "scheduler/snapshot", "scheduler/plan"},
		banned: []string{module + "scheduler/framework", module + "scheduler/actions/", module + "scheduler/plugins/", module + "scheduler/cache", module + "scheduler/binder"},
		why:    "leaves know nothing of what decides over them",
	},
	{
		of:     []string{"scheduler/framework", "scheduler/actions/...", "scheduler/plugins/..."},
		banned: []string{module + "scheduler/cache", module + "scheduler/binder", module + "scheduler/driver"},
		why:    "decisions do not reach for the edges",
	},
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", module+"scheduler/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []goPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func covers(pattern, path string) bool {
	if base, all := strings.CutSuffix(pattern, "/..."); all {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return path == pattern
}

func TestImportsPointDown(t *testing.T) {
	pkgs := list(t)
	seen := 0
	for _, p := range pkgs {
		path := strings.TrimPrefix(p.ImportPath, module)
		for _, b := range bans {
			for _, of := range b.of {
				if !covers(of, path) {
					continue
				}
				seen++
				for _, d := range p.Deps {
					for _, banned := range b.banned {
						if d == banned || strings.HasSuffix(banned, "/") && strings.HasPrefix(d, banned) {
							t.Errorf("%s imports %s: %s", path, d, b.why)
						}
					}
				}
			}
		}
		for _, family := range []string{"scheduler/actions/", "scheduler/plugins/"} {
			if !strings.HasPrefix(path, family) {
				continue
			}
			for _, d := range p.Deps {
				if other := strings.TrimPrefix(d, module); other != path && strings.HasPrefix(other, family) {
					t.Errorf("%s imports its sibling %s", path, other)
				}
			}
		}
	}
	if seen < len(bans) {
		t.Fatalf("only %d bans applied to %d packages: the list has gone stale", seen, len(pkgs))
	}
}

// impure are imports by which a decision could depend on something besides its input.
var impure = map[string]string{
	"math/rand": "randomness", "math/rand/v2": "randomness", "os": "the environment", "sync": "concurrency", "log": "logging",
	"os/exec": "the environment", "net": "the network", "net/http": "the network", "log/slog": "logging", "github.com/go-logr/logr": "logging", "context": "waiting",
}

func TestDecisionsDependOnTheirInputAlone(t *testing.T) {
	for _, p := range list(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		pure := path == "scheduler"
		for _, of := range []string{"scheduler/resource", "scheduler/snapshot", "scheduler/plan", "scheduler/framework", "scheduler/actions/...", "scheduler/plugins/..."} {
			pure = pure || covers(of, path)
		}
		if !pure {
			continue
		}
		for _, i := range p.Imports {
			if what, bad := impure[i]; bad {
				t.Errorf("%s imports %s (%s)", path, i, what)
			}
		}
	}
}
