package hostlist

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// numbered is a name that ends with a number of a certain width.
type numbered struct {
	prefix string
	width  int // of the digits; 0 when the name ends with none
	n      uint64
}

// Compress gives a list that Expand turns into names again, sorted and each once:
// "gpu[1-4,7],login". Names that Expand could not give are not for it.
func Compress(names []string) string {
	var all []numbered
	for _, name := range names {
		digits := len(name) - len(strings.TrimRight(name, "0123456789"))
		digits = min(digits, 18) // fits in 64 bits
		it := numbered{prefix: name[:len(name)-digits], width: digits}
		if digits > 0 {
			it.n, _ = strconv.ParseUint(name[len(name)-digits:], 10, 64) // digits only, and few
			if name[len(name)-digits] != '0' {
				it.width = 1 // 9 and 10 are of one range
			}
		}
		all = append(all, it)
	}
	slices.SortFunc(all, func(a, b numbered) int {
		return cmp.Or(cmp.Compare(a.prefix, b.prefix), cmp.Compare(a.width, b.width), cmp.Compare(a.n, b.n))
	})
	all = slices.Compact(all)
	var out []string
	for i := 0; i < len(all); {
		group := i
		for group < len(all) && all[group].prefix == all[i].prefix && all[group].width == all[i].width {
			group++
		}
		out = append(out, item(all[i:group]))
		i = group
	}
	return strings.Join(out, ",")
}

// item writes names of one prefix and width.
func item(names []numbered) string {
	first := names[0]
	if first.width == 0 {
		return first.prefix
	}
	text := func(n uint64) string { return fmt.Sprintf("%0*d", first.width, n) }
	if len(names) == 1 {
		return first.prefix + text(first.n)
	}
	var ranges []string
	for i := 0; i < len(names); {
		last := i
		for last+1 < len(names) && names[last+1].n == names[last].n+1 {
			last++
		}
		r := text(names[i].n)
		if last > i {
			r += "-" + text(names[last].n)
		}
		ranges = append(ranges, r)
		i = last + 1
	}
	return first.prefix + "[" + strings.Join(ranges, ",") + "]"
}
