package config

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// guide begins
// Small serves gangs of few members first, down to a size.
type Small struct {
	// Below it no gang is smaller than another.
	Below int64
}

// Name is the plugin's name in configuration.
func (Small) Name() string { return "small" }

// CompareGangs puts the smaller minimum first.
func (p Small) CompareGangs(a, b *snapshot.Gang) int {
	return int(max(a.Minimum(), p.Below) - max(b.Minimum(), p.Below))
}

// Census is an action that only looks.
type Census struct{}

// Name is the action's name in configuration.
func (Census) Name() string { return "census" }

// Run counts the gangs that wait.
func (Census) Run(s *framework.Session) {
	for _, g := range s.Snapshot.Gangs {
		_ = s.Waits(g)
	}
}

// guide ends

func exampleEntries() (pluginEntry, actionEntry) {
	return pluginEntry{name: "small", arguments: []argument{arg("small.below", integer).obeyed()}, make: func(p Plugin) framework.Plugin { return Small{Below: p.Arguments.Int("small.below", 1)} }},
		actionEntry{name: "census", make: func(Arguments) framework.Action { return Census{} }}
}

// TestGuide holds that the example of PLUGINS.md is the code above, and that it
// does what the guide says.
func TestGuide(t *testing.T) {
	text, err := os.ReadFile("../PLUGINS.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("guide_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```go\n")[1:]
	if len(blocks) < 3 {
		t.Fatalf("%d blocks of code, want at least 3", len(blocks))
	}
	for _, b := range blocks {
		code, _, _ := strings.Cut(b, "```")
		if !strings.Contains(squeeze(string(source)), squeeze(code)) {
			t.Errorf("not in guide_test.go:\n%s", code)
		}
	}
	p, a := exampleEntries()
	wasPlugins, wasActions := plugins, actions
	defer func() { plugins, actions = wasPlugins, wasActions }()
	plugins, actions = append(slices.Clip(plugins), p), append(slices.Clip(actions), a)
	c, warnings, err := Parse([]byte("actions: enqueue, allocate, census\ntiers: [{plugins: [{name: small, arguments: {small.below: 4}}]}]"))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	s, err := snapshot.Document{
		Queues: []snapshot.Queue{{Name: "default", Weight: 1}},
		Gangs: []snapshot.GangDoc{
			{GangSpec: snapshot.GangSpec{Key: "podgroup/n/eight", Queue: "default", MinMember: 8, CreatedAt: 1}},
			{GangSpec: snapshot.GangSpec{Key: "podgroup/n/three", Queue: "default", MinMember: 3, CreatedAt: 3}},
			{GangSpec: snapshot.GangSpec{Key: "podgroup/n/two", Queue: "default", MinMember: 2, CreatedAt: 2}},
		},
	}.Build()
	if err != nil {
		t.Fatal(err)
	}
	pipeline := c.Pipeline()
	ses := framework.NewSession(pipeline, s, time.Unix(0, 0))
	for _, action := range pipeline.Actions {
		ses.Act(action)
	}
	gangs := slices.Clone(s.Gangs)
	slices.SortFunc(gangs, ses.CompareGangs)
	var order []string
	for _, g := range gangs {
		order = append(order, strings.TrimPrefix(g.Key, "podgroup/n/"))
	}
	if got := strings.Join(order, " "); got != "two three eight" { // two and three are equal here, the older is first
		t.Errorf("served in the order %s", got)
	}
}

// squeeze makes code comparable whatever its indentation.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }
