package cache

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Devices splits a list of UUIDs as GPUIDs holds them.
func Devices(text string) []string { return listOf(text) }

// listOf splits a list with commas, leaving out what is empty.
func listOf(text string) []string {
	if text == "" {
		return nil
	}
	var out []string
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// number reads a decimal annotation; anything else is 0, as is a negative one.
func number(s string) int64 {
	if s == "" { // of most annotations; that it is no number would be an error, which is memory
		return 0
	}
	v, err := strconv.ParseInt(s, 10, 32)
	if err != nil || v < 0 {
		return 0
	}
	return v
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// duration reads a Go duration; anything else, or a negative one, is 0.
func duration(text string) time.Duration {
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0
	}
	return d
}

func sorted(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return slices.Compact(out)
}
