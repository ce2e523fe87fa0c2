package slurmjob

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/hostlist"
)

// Reserved is Unusable of a node that only a reservation keeps jobs from.
const Reserved = "reserved"

// Unusable says why jobs cannot start on a node in this state, "" when they can.
func Unusable(state string) string {
	// Marks after the state: * not responding, ~ powered down, # powering up,
	// ! powering down, % powering down, $ maintenance, @ reboot, ^ reboot, - planned.
	marks := map[rune]string{'*': "not responding", '!': "powering down", '%': "powering down", '$': "in maintenance", '@': "reboot pending", '^': "rebooting"}
	var why []string
	words := strings.Split(state, "+")
	for i, w := range words {
		bare := strings.TrimRight(w, "*~#!%$@^-")
		for _, m := range w[len(bare):] {
			if text := marks[m]; text != "" {
				why = append(why, text)
			}
		}
		switch bare {
		case "IDLE", "MIXED", "ALLOCATED", "ALLOC", "COMPLETING", "PLANNED":
			continue
		case "RESERVED", "RESV":
			why = append(why, Reserved)
		case "MAINT", "MAINTENANCE":
			why = append(why, "in maintenance")
		case "DRAIN", "DRAINED", "DRAINING":
			why = append(why, "drained")
		case "DOWN", "FAIL", "FAILING", "ERROR", "FUTURE", "UNKNOWN", "INVAL", "INVALID", "INVALID_REG", "BLOCKED",
			"NOT_RESPONDING", "NO_RESPOND", "POWERING_DOWN", "POWER_DOWN", "REBOOT", "REBOOT_ISSUED", "REBOOT_REQUESTED", "UNDRAIN":
			why = append(why, strings.ToLower(strings.ReplaceAll(bare, "_", " ")))
		default:
			// CLOUD, POWERED_DOWN, POWERING_UP, DYNAMIC_NORM and the like can take
			// jobs; a base state that is not known cannot be relied on.
			if i == 0 {
				why = append(why, "in state "+bare)
			}
		}
	}
	slices.Sort(why)
	return strings.Join(slices.Compact(why), ", ")
}

// ParseGRES counts GPUs by type in "gpu:a100:4(S:0-1),gpu:2", and shares of them, whose
// type does not count, in "shard:t4:8" as backends.Shard. Of the shares in use Slurm 22.05
// gives no more than the GPUs that they are of, "shard:t4:2(IDX:0-1)" (measured with five
// shares of two GPUs): the least that they can be.
func ParseGRES(v string) (map[string]int64, error) {
	out := map[string]int64{}
	for item, rest := nextGres(Present(v)); item != ""; item, rest = nextGres(rest) {
		item, _, _ = strings.Cut(item, "(")
		parts := strings.Split(item, ":")
		shared := parts[0] == "shard"
		if parts[0] != "gpu" && !shared {
			continue
		}
		if len(parts) == 1 {
			parts = append(parts, "1") // "gpu" alone is one
		}
		// "gpu:no_consume:4" and "gpu:a100:no_consume:4" are not counted by Slurm.
		if slices.Contains(parts, "no_consume") {
			continue
		}
		n, err := gresCount(parts[len(parts)-1])
		if err != nil {
			return nil, err
		}
		name := strings.Join(parts[1:len(parts)-1], ":")
		if name != "" && !gresForm.MatchString(name) {
			return nil, fmt.Errorf("the GPU type %.80q", name)
		}
		if shared {
			name = backends.Shard
		}
		if n > 0 {
			out[name] += n
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// SharedGPUs is how many GPUs the shares in use are of, in "shard:t4:2(IDX:0-1)"; 0 where
// the text does not tell.
func SharedGPUs(used string) int64 {
	var n int64
	for item, rest := nextGres(Present(used)); item != ""; item, rest = nextGres(rest) {
		bare, list, ok := strings.Cut(strings.TrimSuffix(item, ")"), "(IDX:")
		if !ok || !strings.HasPrefix(bare, "shard:") || Present(list) == "" {
			continue
		}
		if names, err := hostlist.Expand("gpu["+list+"]", MaxHosts); err == nil {
			n += int64(len(names))
		}
	}
	return n
}

// nextGres cuts at the next comma outside of parentheses.
func nextGres(v string) (item, rest string) {
	depth := 0
	for i := range len(v) {
		switch v[i] {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth <= 0 {
				return v[:i], v[i+1:]
			}
		}
	}
	return v, ""
}

func gresCount(v string) (int64, error) {
	factor := int64(1)
	for suffix, f := range map[string]int64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30} {
		if bare, ok := strings.CutSuffix(v, suffix); ok {
			v, factor = bare, f
			break
		}
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%.40q is not a count", v)
	}
	return n * factor, nil
}
