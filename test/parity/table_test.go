package parity

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// topic is one row of the user guide's table: one thing that differs, and all
// places where the cases see it.
type topic struct {
	What    string `json:"what"`
	Kubelet string `json:"kubelet"`
	Bridge  string `json:"bridge"`
	Why     string `json:"why"`
	// Seen lists what is observed. A case "*" means any case; its values are not
	// compared.
	Seen []difference `json:"seen"`
}

// anyCase matches every case.
const anyCase = "*"

func loadTable(file string) ([]topic, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var table []topic
	if err := yaml.UnmarshalStrict(raw, &table); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	seen := map[string]string{}
	for _, t := range table {
		if t.What == "" || t.Kubelet == "" || t.Bridge == "" || t.Why == "" || len(t.Seen) == 0 {
			return nil, fmt.Errorf("%s: topic %q lacks a text, or is seen nowhere", file, t.What)
		}
		for _, d := range t.Seen {
			key := d.Case + " " + d.Field
			if other, twice := seen[key]; twice {
				return nil, fmt.Errorf("%s: %s is listed by %q and %q", file, key, other, t.What)
			}
			seen[key] = t.What
		}
	}
	return table, nil
}

// Marks of the generated part of the user guide.
const (
	guideBegin = "<!-- The table of differences: go test ./test/parity -run TestGuide -rewrite -->\n"
	guideEnd   = "<!-- end of the table of differences -->\n"
)

func guideFile() (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "provider", "USERS.md"), nil
}

// guide gives the user guide's text with the table in its place.
func guide(text string, table []topic) (string, error) {
	before, rest, ok := strings.Cut(text, guideBegin)
	_, after, ended := strings.Cut(rest, guideEnd)
	if !ok || !ended {
		return "", fmt.Errorf("the user guide lacks the marks %q and %q", strings.TrimSpace(guideBegin), strings.TrimSpace(guideEnd))
	}
	var b strings.Builder
	b.WriteString(before + guideBegin)
	b.WriteString("| | kubelet with containerd | virtual node, runtime `host` | why |\n|---|---|---|---|\n")
	for _, t := range table {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.What, t.Kubelet, t.Bridge, t.Why)
	}
	b.WriteString(guideEnd + after)
	return b.String(), nil
}
