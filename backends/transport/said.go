package transport

import "strings"

// maxSaid bounds what is quoted of a program's output, in bytes.
const maxSaid = 2048

// Said is what a program complained of, on one line and printable: of its standard
// error, or else of its output.
func (r Result) Said() string {
	text := string(r.Stderr)
	if strings.TrimSpace(text) == "" {
		text = string(r.Stdout)
	}
	return OneLine(text)
}

// OneLine is the end of a text, on one line and printable.
func OneLine(text string) string {
	if len(text) > maxSaid {
		text = text[len(text)-maxSaid:]
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	return strings.Join(strings.Fields(text), " ")
}
