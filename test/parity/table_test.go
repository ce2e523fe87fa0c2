package parity

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// listing is a table by what it lists, and what of that was seen.
type listing struct {
	file string
	by   map[string]difference // by case and field
	used map[string]bool
}

func newListing(file string, table []topic) listing {
	l := listing{file, map[string]difference{}, map[string]bool{}}
	for _, topic := range table {
		for _, d := range topic.Seen {
			l.by[d.Case+" "+d.Field] = d
		}
	}
	return l
}

// unlisted gives those that the table does not have, and notes the others.
func (l listing) unlisted(all []difference) []difference {
	var out []difference
	for _, d := range all {
		if _, ok := l.by[anyCase+" "+d.Field]; ok {
			l.used[anyCase+" "+d.Field] = true
		} else if have, ok := l.by[d.Case+" "+d.Field]; ok && have == d {
			l.used[d.Case+" "+d.Field] = true
		} else {
			out = append(out, d)
		}
	}
	return out
}

// unused gives what is listed of a case and was not seen.
func (l listing) unused(name string) []string {
	var out []string
	for key, d := range l.by {
		if d.Case == name && !l.used[key] {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// guidePart is a generated part of the user guide, between marks.
type guidePart struct{ file, begin, head string }

var guideParts = []guidePart{
	{tableFile, "<!-- The table of differences: go test ./test/parity -run TestGuide -rewrite -->\n", "virtual node, runtime `host`"},
	{imagesFile, "<!-- The table of differences with images: go test ./test/parity -run TestGuide -rewrite -->\n", "virtual node, runtime `charliecloud`"},
}

const guideEnd = "<!-- end of the table of differences -->\n"

func guideFile() (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "provider", "USERS.md"), nil
}

// guide gives the user guide's text with the table in its place.
func (p guidePart) guide(text string, table []topic) (string, error) {
	before, rest, ok := strings.Cut(text, p.begin)
	_, after, ended := strings.Cut(rest, guideEnd)
	if !ok || !ended {
		return "", fmt.Errorf("the user guide lacks the marks %q and %q", strings.TrimSpace(p.begin), strings.TrimSpace(guideEnd))
	}
	var b strings.Builder
	b.WriteString(before + p.begin)
	fmt.Fprintf(&b, "| | kubelet with containerd | %s | why |\n|---|---|---|---|\n", p.head)
	for _, t := range table {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.What, t.Kubelet, t.Bridge, t.Why)
	}
	b.WriteString(guideEnd + after)
	return b.String(), nil
}
