package envfile_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/envfile"
)

func TestParse(t *testing.T) {
	got, err := envfile.Parse("# comment\n\nA='1'\n  B='x=y $(Z) \"q\" \\n'  # why\nC='two\nlines'\nA='2'\nE=''")
	want := map[string]string{"A": "2", "B": `x=y $(Z) "q" \n`, "C": "two\nlines", "E": ""}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	for text, message := range map[string]string{
		"A=1": "line 1: the value of A is not in single quotes", "A": "line 1: want NAME", "\n1A='x'": "line 2: want NAME", "A='x": "line 1: the value of A has no closing quote",
		"A='x' y": "line 1: text behind", "A =''": "line 1: want NAME", "='x'": "line 1: want NAME", "A=\"x\"": "not in single quotes",
	} {
		if _, err := envfile.Parse(text); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%q: %v, want %q", text, err, message)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("A='1'\n#\nB='2\n3' # x")
	f.Fuzz(func(t *testing.T, text string) {
		vars, err := envfile.Parse(text)
		if err != nil {
			return
		}
		for name, value := range vars {
			if name == "" || strings.ContainsAny(name, "=\x00\n ") || strings.Contains(value, "'") || !strings.Contains(text, value) {
				t.Errorf("%q gives %q=%q", text, name, value)
			}
		}
	})
}
