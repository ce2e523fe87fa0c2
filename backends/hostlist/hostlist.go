// Package hostlist expands and makes Slurm's notation for sets of host names, such as
// "gpu[1-4,7],login" or "rack[0-1]n[01-16]". It is pure, and bounded against
// lists that stand for more names than anybody has.
package hostlist

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxInput is the longest text that Expand reads, in bytes.
const MaxInput = 1 << 20

const (
	// maxName bounds one name; the Domain Name System allows 253 bytes.
	maxName = 255
	// maxBrackets bounds the bracket pairs of one name.
	maxBrackets = 8
)

// ErrTooMany says that a list stands for more names than the caller allowed.
var ErrTooMany = errors.New("too many host names")

// Expand gives the names in the order of the list, duplicates included; width
// is kept, so that "n[08-10]" is n08, n09, n10. The empty list gives none. A
// list of more than most names is an error that wraps ErrTooMany.
func Expand(list string, most int) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	if len(list) > MaxInput {
		return nil, fmt.Errorf("expand host list: %d bytes, more than %d", len(list), MaxInput)
	}
	var out []string
	for item, rest, more := cutItem(list); ; item, rest, more = cutItem(rest) {
		names, err := expandItem(item, most-len(out))
		if err != nil {
			return nil, fmt.Errorf("expand host list item %.100q: %w", item, err)
		}
		out = append(out, names...)
		if !more {
			return out, nil
		}
	}
}

// cutItem cuts at the first comma outside of brackets.
func cutItem(list string) (item, rest string, more bool) {
	depth := 0
	for i := range len(list) {
		switch list[i] {
		case '[':
			depth++
		case ']':
			depth--
		case ',':
			if depth <= 0 {
				return list[:i], list[i+1:], true
			}
		}
	}
	return list, "", false
}

func expandItem(item string, most int) ([]string, error) {
	if item == "" {
		return nil, errors.New("an empty name")
	}
	names := []string{""}
	for brackets := 0; item != ""; brackets++ {
		if brackets > maxBrackets {
			return nil, fmt.Errorf("more than %d bracket pairs", maxBrackets)
		}
		open := strings.IndexByte(item, '[')
		if open < 0 {
			open = len(item)
		}
		if err := checkLiteral(item[:open]); err != nil {
			return nil, err
		}
		parts := []string{item[:open]}
		if open < len(item) {
			closing := strings.IndexByte(item, ']')
			if closing < open {
				return nil, errors.New("brackets do not match")
			}
			var err error
			if parts, err = expandRanges(item[:open], item[open+1:closing], most/max(1, len(names))); err != nil {
				return nil, err
			}
			open = closing + 1
		}
		if len(names)*len(parts) > most {
			return nil, ErrTooMany
		}
		names = product(names, parts)
		item = item[open:]
	}
	for _, n := range names {
		if len(n) > maxName {
			return nil, fmt.Errorf("a name of %d bytes, more than %d", len(n), maxName)
		}
	}
	return names, nil
}

func product(heads, tails []string) []string {
	out := make([]string, 0, len(heads)*len(tails))
	for _, h := range heads {
		for _, t := range tails {
			out = append(out, h+t)
		}
	}
	return out
}

func checkLiteral(s string) error {
	if len(s) > maxName {
		return fmt.Errorf("a name of %d bytes, more than %d", len(s), maxName)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || c == ']' {
			return fmt.Errorf("the character %q in a name", c)
		}
	}
	return nil
}

// expandRanges expands "1-3,07" to prefix1, prefix2, prefix3, prefix07.
func expandRanges(prefix, ranges string, most int) ([]string, error) {
	var out []string
	for r := range strings.SplitSeq(ranges, ",") {
		first, last, isRange := strings.Cut(r, "-")
		if !isRange {
			last = first
		}
		lo, err := number(first)
		if err != nil {
			return nil, err
		}
		hi, err := number(last)
		if err != nil {
			return nil, err
		}
		if hi < lo {
			return nil, fmt.Errorf("the range %q runs backwards", r)
		}
		if hi-lo >= uint64(max(0, most-len(out))) {
			return nil, ErrTooMany
		}
		for n := lo; n <= hi; n++ {
			out = append(out, fmt.Sprintf("%s%0*d", prefix, len(first), n))
		}
	}
	return out, nil
}

func number(s string) (uint64, error) {
	if s == "" || len(s) > 18 || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%.40q is not a number", s)
	}
	return strconv.ParseUint(s, 10, 64)
}
