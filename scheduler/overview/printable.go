package overview

import (
	"strconv"
	"strings"
	"unicode"
)

// Printable writes what a terminal would act on, line ends among it, as Go would
// in quotes: names of queues and parts are free text of users, who must not move the
// cursor, clear the screen or make up lines of whoever looks.
func Printable(text string) string {
	if strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 && strings.ToValidUTF8(text, "") == text {
		return text
	}
	var out strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			out.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRune(r)
		out.WriteString(quoted[1 : len(quoted)-1])
	}
	return out.String()
}
