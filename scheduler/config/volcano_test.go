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
	var out, idle strings.Builder
	line := func(kind, name, what string, arguments []argument) {
		fmt.Fprintf(&out, "| `%s`%s | %s |\n", name, what, spell(arguments))
		for _, a := range arguments {
			value := ""
			if a.always != nil {
				value = fmt.Sprintf(", unless it is `%v`", a.always)
			}
			if !a.used {
				fmt.Fprintf(&idle, "| %s `%s` | `%s`%s | %s |\n", kind, name, a.name, value, a.why)
			}
		}
	}
	out.WriteString("| Action | Arguments that are obeyed |\n|---|---|\n")
	for _, e := range actions {
		what := ""
		if e.last {
			what = " (also when it is not named)"
		}
		line("action", e.name, what, e.arguments)
	}
	out.WriteString("\n| Plugin | Arguments that are obeyed |\n|---|---|\n")
	for _, e := range plugins {
		switch {
		case e.implied:
			line("plugin", e.name, " (always on, named or not)", e.arguments)
		case e.make == nil:
			fmt.Fprintf(&out, "| `%s` (**not used**: %s) |  |\n", e.name, e.why)
		case e.always:
			line("plugin", e.name, " (also when it is not named)", e.arguments)
		default:
			line("plugin", e.name, "", e.arguments)
		}
	}
	fmt.Fprintf(&out, "\nArguments that are read, checked and not used; each is told with its reason:\n\n| Of | Argument | Why |\n|---|---|---|\n%s", idle.String())
	var on []argument
	var none []string
	var off strings.Builder
	for _, s := range switches {
		switch {
		case s.used:
			on = append(on, arg(s.name, boolean).obeyed())
		case len(s.kept) == 0:
			none = append(none, "`"+s.name+"`")
		}
		if len(s.kept) > 0 {
			fmt.Fprintf(&off, "| `%s` | `%s` | %s |\n", s.name, strings.Join(s.kept, "`, `"), s.why)
		}
	}
	fmt.Fprintf(&out, "\nSwitches that are obeyed: %s. No plugin does anything at %s.\n", spell(on), strings.Join(none, ", "))
	fmt.Fprintf(&out, "\nSwitches of which `false` is told and not obeyed; of other plugins they have nothing to turn off:\n\n| Switch | Of plugin | Why |\n|---|---|---|\n%s", off.String())
	fmt.Fprintf(&out, "\nSources of `metrics`: %s, %s; read and not asked: %s.\n", MetricsServer, Prometheus, strings.Join(foreign, ", "))
	return out.String()
}

func spell(arguments []argument) string {
	var out []string
	for _, a := range arguments {
		if a.used {
			out = append(out, "`"+a.name+"`")
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestReasons: whatever is not used has a reason.
func TestReasons(t *testing.T) {
	check := func(of string, arguments []argument) {
		for _, a := range arguments {
			if !a.used && a.why == "" {
				t.Errorf("%s %s is not used, and nothing says why", of, a.name)
			}
		}
	}
	for _, e := range actions {
		check(e.name, e.arguments)
	}
	for _, e := range plugins {
		if e.make == nil && !e.implied {
			if e.why == "" {
				t.Errorf("%s is not used, and nothing says why", e.name)
			}
			continue
		}
		check(e.name, e.arguments)
	}
	for _, s := range switches {
		for _, name := range s.kept {
			if pluginOf(name) == nil || s.why == "" {
				t.Errorf("switch %s of %q, because of %q", s.name, name, s.why)
			}
		}
	}
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
	for _, names := range []map[string]string{bygoneActions, bygonePlugins, bygoneArguments} {
		for name := range names {
			if _, of, ok := strings.Cut(name, "/"); ok {
				name = of
			}
			if !strings.Contains(string(text), "`"+name+"`") {
				t.Errorf("the page does not tell that %s of earlier releases is not used", name)
			}
		}
	}
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
