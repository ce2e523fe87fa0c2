// Package expand is Kubernetes' $(NAME) expansion, byte for byte: values need
// not be UTF-8 and nothing else of a shell's syntax means anything.
package expand

import "strings"

// String replaces each $(NAME) that lookup knows by its value. "$$" is an
// escaped "$"; an unknown name, an unclosed parenthesis and a lone "$" stay as
// they are. Values are not expanded again.
func String(s string, lookup func(name string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '$' || i+1 == len(s) {
			out.WriteByte(s[i])
			i++
			continue
		}
		switch s[i+1] {
		case '$':
			out.WriteByte('$')
			i += 2
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				out.WriteString("$(")
				i += 2
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := lookup(name); ok {
				out.WriteString(v)
			} else {
				out.WriteString(s[i : i+2+end+1])
			}
			i += 2 + end + 1
		default:
			out.WriteString(s[i : i+2])
			i += 2
		}
	}
	return out.String()
}
