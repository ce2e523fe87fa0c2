package expand

import "testing"

func TestString(t *testing.T) {
	env := map[string]string{"A": "1", "B": "x y", "EMPTY": "", "NEST": "$(A)", "RAW": "\xff\n'\"`"}
	lookup := func(n string) (string, bool) { v, ok := env[n]; return v, ok }
	for name, tc := range map[string]struct{ in, want string }{
		"nothing":        {"plain", "plain"},
		"one":            {"$(A)", "1"},
		"inside":         {"a$(A)b$(B)c", "a1bx yc"},
		"empty value":    {"<$(EMPTY)>", "<>"},
		"unknown stays":  {"$(NOPE)-$(A)", "$(NOPE)-1"},
		"escaped":        {"$$(A)", "$(A)"},
		"escaped twice":  {"$$$$(A)", "$$(A)"},
		"escape then":    {"$$$(A)", "$1"},
		"no recursion":   {"$(NEST)", "$(A)"},
		"unclosed":       {"$(A", "$(A"},
		"unclosed later": {"$(A)$(B", "1$(B"},
		"lone dollar":    {"cost $5 $", "cost $5 $"},
		"empty name":     {"$()", "$()"},
		"nested parens":  {"$($(A))", "$($(A))"},
		"shell is text":  {"`id` $(id) ${A} ;rm -rf /", "`id` $(id) ${A} ;rm -rf /"},
		"bytes":          {"$(RAW)\xfe", "\xff\n'\"`\xfe"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := String(tc.in, lookup); got != tc.want {
				t.Errorf("String(%q) = %q, want %q", tc.in, got, tc.want)
			}
		})
	}
}
