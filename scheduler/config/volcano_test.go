package config

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the tables into VOLCANO.md")

// Known are the names of all actions, plugins, arguments and switches.
func Known() []string {
	var out []string
	add := func(name string, arguments []argument) {
		out = append(out, name)
		for _, a := range arguments {
			out = append(out, a.name)
		}
	}
	for _, e := range actions {
		add(e.name, e.arguments)
	}
	for _, e := range plugins {
		add(e.name, e.arguments)
	}
	for _, e := range switches {
		out = append(out, e.name)
	}
	return out
}

// tables are what this package knows, as the guide has it.
func tables() string {
	var out strings.Builder
	line := func(name, what string, arguments []argument) {
		fmt.Fprintf(&out, "| `%s`%s | %s | %s |\n", name, what, spell(arguments, true), spell(arguments, false))
	}
	out.WriteString("| Action | Arguments that are obeyed | Read and not used |\n|---|---|---|\n")
	for _, e := range actions {
		line(e.name, "", e.arguments)
	}
	out.WriteString("\n| Plugin | Arguments that are obeyed | Read and not used |\n|---|---|---|\n")
	for _, e := range plugins {
		switch {
		case e.implied:
			line(e.name, " (always on, named or not)", e.arguments)
		case e.make == nil:
			line(e.name, " (**not used**, the plugin as a whole)", e.arguments)
		default:
			line(e.name, "", e.arguments)
		}
	}
	var on, off []argument
	for _, s := range switches {
		if s.used {
			on = append(on, arg(s.name, boolean).obeyed())
		} else {
			off = append(off, arg(s.name, boolean))
		}
	}
	fmt.Fprintf(&out, "\nSwitches that are obeyed: %s. Read, and told when they are `false`, but not used: %s.\n", spell(on, true), spell(off, false))
	fmt.Fprintf(&out, "\nSources of `metrics`: %s, %s; read and not asked: %s.\n", MetricsServer, Prometheus, strings.Join(foreign, ", "))
	return out.String()
}

func spell(arguments []argument, used bool) string {
	var out []string
	for _, a := range arguments {
		if a.used == used {
			out = append(out, "`"+a.name+"`")
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestVolcanoGuide: the tables of VOLCANO.md say what this package obeys. After a
// change run it with -rewrite.
func TestVolcanoGuide(t *testing.T) {
	const file, begin, end = "../VOLCANO.md", "<!-- tables begin -->\n\n", "\n<!-- tables end -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), begin)
	got, after, ok2 := strings.Cut(rest, end)
	switch want := tables(); {
	case !ok1 || !ok2:
		t.Fatal("the marks of the tables are not there")
	case *rewrite:
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil { //nolint:gosec // a page of the repository
			t.Fatal(err)
		}
	case got != want:
		t.Errorf("the tables are stale, they should be:\n%s", want)
	}
}
