package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"sigs.k8s.io/yaml"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
)

// TestPagesAreRead: each object of a kind that the scheduler's guides show has only
// known fields, each configuration is read without a warning, and each flag is one
// of the program's.
func TestPagesAreRead(t *testing.T) {
	pages, err := filepath.Glob("../*.md")
	if err != nil || len(pages) < 8 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	sources, err := filepath.Glob("../../cmd/isthmus/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var program strings.Builder
	for _, f := range sources {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		program.Write(text)
	}
	seen := map[string]int{}
	for _, page := range pages {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		text, name := string(raw), filepath.Base(page)
		for _, m := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
			for _, object := range strings.Split(m[1], "\n---\n") {
				seen[readObject(t, name, object)]++
			}
		}
		for _, m := range regexp.MustCompile("(?m)(?:^(?: {4}.*)?\n)*^ {4}(?:actions|tiers):.*\n(?:^ {4}.*\n)*").FindAllString(text, -1) {
			seen["configuration"]++
			readConfiguration(t, name, m)
		}
		if name != "LOOKING.md" {
			continue
		}
		for _, m := range regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(text, -1) {
			seen["flag"]++
			if !strings.Contains(program.String(), `"`+m[1]+`"`) {
				t.Errorf("%s: isthmus has no flag --%s", name, m[1])
			}
		}
	}
	for what, least := range map[string]int{"Reservation": 2, "Dataset": 1, "Job": 1, "configuration": 4, "flag": 4} {
		if seen[what] < least {
			t.Errorf("%d times %s, want at least %d: %v", seen[what], what, least, seen)
		}
	}
}

// readObject reads an object of one of the kinds that are ours or Volcano's.
func readObject(t *testing.T, page, text string) string {
	t.Helper()
	var kind struct{ Kind string }
	if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
		t.Errorf("%s: %v in\n%s", page, err, text)
	}
	into := map[string]any{"Reservation": &hpcv1alpha1.Reservation{}, "Dataset": &hpcv1alpha1.Dataset{}, "Job": &batch.Job{}}[kind.Kind]
	if into == nil {
		return kind.Kind
	}
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		t.Errorf("%s: %v in\n%s", page, err, text)
	}
	return kind.Kind
}

func readConfiguration(t *testing.T, page, text string) {
	t.Helper()
	if !strings.Contains(text, "actions:") {
		text = "    actions: allocate\n" + text
	}
	// The plugin of the guide's own example is TestGuide's business.
	text = strings.ReplaceAll(strings.ReplaceAll(text, "name: small", "name: sla"), "arguments: {small.below: 4}", "arguments: {}")
	if _, warnings, err := config.Parse([]byte(text)); err != nil || len(warnings) > 0 {
		t.Errorf("%s: %v, warned %q of\n%s", page, err, warnings, text)
	}
}
