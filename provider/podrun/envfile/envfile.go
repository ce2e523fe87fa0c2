// Package envfile reads files of environment variables as a kubelet does: lines
// NAME='value', comments that begin with "#", and empty lines. A value in single
// quotes may go over several lines and means itself, byte for byte.
package envfile

import (
	"fmt"
	"regexp"
	"strings"
)

var namePattern = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_.-]*\z`)

// Parse gives the variables of a file; a later one of the same name wins. The
// error names the line.
func Parse(text string) (map[string]string, error) {
	out := map[string]string{}
	number := 0
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		number++
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimLeft(line, " \t"), "=")
		if !ok || !namePattern.MatchString(name) {
			return nil, fmt.Errorf("line %d: want NAME='value'", number)
		}
		value, ok = strings.CutPrefix(value, "'")
		if !ok {
			return nil, fmt.Errorf("line %d: the value of %s is not in single quotes", number, name)
		}
		first := number
		for !strings.Contains(value, "'") {
			if text == "" {
				return nil, fmt.Errorf("line %d: the value of %s has no closing quote", first, name)
			}
			line, text, _ = strings.Cut(text, "\n")
			number++
			value += "\n" + line
		}
		value, rest, _ := strings.Cut(value, "'")
		if rest = strings.TrimSpace(rest); rest != "" && rest[0] != '#' {
			return nil, fmt.Errorf("line %d: text behind the value of %s", number, name)
		}
		out[name] = value
	}
	return out, nil
}
