package config

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestExtensionPoints: the table of PLUGINS.md has every extension point that the
// framework asks plugins for, each once, and no other.
func TestExtensionPoints(t *testing.T) {
	text, err := os.ReadFile("../PLUGINS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "| Interface | It decides |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\| .+ \\|$").FindAllStringSubmatch(table, -1) {
		told = append(told, m[1])
	}
	if !ok || len(told) != strings.Count(table, "\n")+1 {
		t.Fatalf("%d rows are understood of\n%s", len(told), table)
	}
	slices.Sort(told)
	if want := slices.Sorted(maps.Keys(asked(t))); !slices.Equal(told, want) {
		t.Errorf("the table has\n%v\nand plugins are asked for\n%v", told, want)
	}
}

// asked are the interfaces that the framework looks for in a plugin, which it calls pl.
func asked(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	files, err := filepath.Glob("../framework/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			a, ok := n.(*ast.TypeAssertExpr)
			if !ok {
				return true
			}
			of, known := a.X.(*ast.Ident)
			name, plain := a.Type.(*ast.Ident)
			if known && plain && of.Name == "pl" && name.Name != "Muted" {
				out[name.Name] = true
			}
			return true
		})
	}
	return out
}
