// Package pages has no code of its own: its test holds that the commands that the
// project's pages tell people to run are run by a test, or can be.
package pages

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// elsewhere are the tests that run all commands of a page.
var elsewhere = map[string]string{
	"provider/ADMIN.md":     "test/e2e/guide_text_test.go",
	"provider/USERS.md":     "test/e2e/guide_text_test.go",
	"controllers/MOVING.md": "test/e2e/guide_text_test.go",
	"scheduler/LOOKING.md":  "test/e2e/looking_test.go",
}

// reasons are for commands that no test runs as they stand there.
var reasons = map[string]string{
	"kubectl logs":    "named as what works; run by TestLogs of test/e2e",
	"kubectl exec":    "named as what works; run by TestStreams of test/e2e",
	"kubectl get rsv": "run by TestUpgradeAndBack of test/upgrade",
	"kubectl -n physics get dataset image-net":                                "TestDatasetIsCopied of test/e2e lists those of its own namespace",
	"kubectl -n physics get dataset image-net -o jsonpath='{.status.copies}'": "run by TestDatasetIsCopied of test/e2e in its own namespace",
	`kubectl -n physics logs -l volcano.sh/job-name="$job" --tail=-1`:         "TestLogs of test/e2e names the pod; others choose pods by this label",
	"isthmus explain":               "run by TestLooking of test/e2e, with more arguments",
	"isthmus top":                   "run by TestLooking of test/e2e, with more arguments",
	"isthmus explain job":           "run by TestLooking of test/e2e, with more arguments",
	"isthmus explain queue NAME":    "run by TestLooking of test/e2e, with a name",
	"sbatch --hold --parsable":      "what the measured program is compared with",
	"go test -v -run NAME ./FOLDER": "the form of a command, for the names of the page",
	"helm install isthmus . --namespace isthmus-system --create-namespace": "run by TestGuides of test/e2e, from another folder",
}

var (
	block    = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	span     = regexp.MustCompile("`([^`\n]+)`")
	remark   = regexp.MustCompile(`\s+# .*$`)
	programs = []string{"kubectl", "helm", "vnode", "controllers", "scheduler", "squeue", "sbatch", "scancel", "scontrol", "sacct", "srun", "slurmrestd", "ssh", "vcctl", "isthmus", "make", "go"}
)

// TestCommands reads every page. Pages of a test's own are only looked for in it;
// elsewhere a command of make names a target, one of go a folder that is there, and
// any other is listed above.
func TestCommands(t *testing.T) {
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	unused := map[string]bool{}
	for what := range reasons {
		unused[what] = true
	}
	seen := 0
	for _, page := range pages(t, root) {
		raw, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		if file := elsewhere[page]; file != "" {
			code, err := os.ReadFile(filepath.Join(root, file))
			if err != nil || !strings.Contains(string(code), filepath.Base(page)) {
				t.Errorf("%s does not run the commands of %s (%v)", file, page, err)
			}
			continue
		}
		for _, command := range commands(string(raw)) {
			seen++
			words := strings.Fields(command)
			delete(unused, command)
			switch {
			case reasons[command] != "":
			case words[0] == "make":
				if !strings.Contains("\n"+string(makefile), "\n"+words[1]+":") {
					t.Errorf("%s: `%s`: the Makefile has no target of that name", page, command)
				}
			case words[0] == "go":
				at := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "./") })
				if at < 0 {
					t.Errorf("%s: `%s` names no folder", page, command)
				} else if _, err := os.Stat(filepath.Join(root, words[at])); err != nil {
					t.Errorf("%s: `%s`: %v", page, command, err)
				}
			default:
				t.Errorf("%s: `%s`: no test runs it; put the page into TestGuides, or tell here why not", page, command)
			}
		}
	}
	for command := range unused {
		t.Errorf("no page has `%s` any more", command)
	}
	if seen < 30 {
		t.Errorf("%d commands were found, and there were 36 once: are they looked for in the right way?", seen)
	}
}

// pages are all but the history of changes and notes on decisions.
func pages(t *testing.T, root string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"_out", "bin", "decisions", "testdata"}, d.Name())):
			return fs.SkipDir
		case strings.HasSuffix(d.Name(), ".md") && d.Name() != "CHANGELOG.md":
			page, err := filepath.Rel(root, path)
			out = append(out, page)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for page := range elsewhere {
		if !slices.Contains(out, page) {
			t.Errorf("there is no %s", page)
		}
	}
	return out
}

// commands are the lines of blocks, and what in running text is more than a name.
func commands(text string) (out []string) {
	add := func(line string) {
		if first, rest, _ := strings.Cut(line, " "); rest != "" && slices.Contains(programs, first) && !strings.Contains(line, "──") {
			out = append(out, line)
		}
	}
	for _, m := range block.FindAllStringSubmatch(text, -1) {
		if m[1] == "yaml" || m[1] == "go" {
			continue
		}
		for line := range strings.Lines(m[2]) {
			add(remark.ReplaceAllString(strings.TrimSpace(line), ""))
		}
	}
	for _, m := range span.FindAllStringSubmatch(block.ReplaceAllString(text, ""), -1) {
		add(m[1])
	}
	return out
}
