package slurm

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/hostlist"
)

// Inventory asks for the nodes and the partitions, and once for the version.
func (b *Backend) Inventory(ctx context.Context) (backends.Inventory, error) {
	const op = "inventory"
	fail := func(err error) (backends.Inventory, error) {
		return backends.Inventory{}, &backends.Error{Op: op, Kind: backends.KindTransient, Err: err}
	}
	version, err := b.readVersion(ctx)
	if err != nil {
		return backends.Inventory{}, err
	}
	nodes, _, err := b.query(ctx, op, "scontrol", "--oneliner", "--all", "--details", "show", "node")
	if err != nil {
		return backends.Inventory{}, err
	}
	partitions, _, err := b.query(ctx, op, "scontrol", "--oneliner", "--all", "show", "partition")
	if err != nil {
		return backends.Inventory{}, err
	}
	inv := backends.Inventory{System: "slurm", Version: version}
	if inv.Hosts, err = parseNodes(nodes); err != nil {
		return fail(fmt.Errorf("read the list of nodes: %w", err))
	}
	if inv.Partitions, err = parsePartitions(partitions); err != nil {
		return fail(fmt.Errorf("read the list of partitions: %w", err))
	}
	return inv, nil
}

// readVersion asks the commands, which know their release without a controller.
func (b *Backend) readVersion(ctx context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.version != "" {
		return b.version, nil
	}
	out, _, err := b.query(ctx, "inventory", "scontrol", "--version")
	if err != nil {
		return "", err
	}
	// "slurm-wlm 22.05.8" on Debian, "slurm 23.11.4" elsewhere.
	words := strings.Fields(out)
	if len(words) < 2 || !strings.HasPrefix(words[0], "slurm") {
		return "", &backends.Error{Op: "inventory", Kind: backends.KindTransient, Err: fmt.Errorf("scontrol gives the version %.80q", out)}
	}
	b.version = words[len(words)-1]
	return b.version, nil
}

// record reads one line of "scontrol --oneliner". Values may hold blanks; only
// the first word is kept, which is all of the values that matter here. The
// first of two equal keys counts: free text (a reason, a comment) comes last.
func record(line string) map[string]string {
	out := map[string]string{}
	for word := range strings.FieldsSeq(line) {
		key, value, ok := strings.Cut(word, "=")
		if _, twice := out[key]; ok && !twice {
			out[key] = value
		}
	}
	return out
}

// records gives the lines that start with key; scontrol says otherwise ("No
// nodes in the system") in plain words.
func records(out, key string) ([]map[string]string, error) {
	var all []map[string]string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "CLUSTER: ") || strings.HasPrefix(line, "No ") {
			continue
		}
		if !strings.HasPrefix(line, key+"=") {
			return nil, fmt.Errorf("a line starts with %.60q, want %s=", line, key)
		}
		if len(all) >= maxHosts {
			return nil, fmt.Errorf("more than %d lines", maxHosts)
		}
		all = append(all, record(line))
	}
	return all, nil
}

func parseNodes(out string) ([]backends.Host, error) {
	all, err := records(out, "NodeName")
	if err != nil {
		return nil, err
	}
	hosts := make([]backends.Host, 0, len(all))
	for _, r := range all {
		h, err := parseNode(r)
		if err != nil {
			return nil, fmt.Errorf("node %.80q: %w", r["NodeName"], err)
		}
		hosts = append(hosts, h)
	}
	slices.SortFunc(hosts, func(a, b backends.Host) int { return strings.Compare(a.Name, b.Name) })
	return hosts, nil
}

func parseNode(r map[string]string) (backends.Host, error) {
	h := backends.Host{Name: r["NodeName"], Addr: present(r["NodeAddr"]), State: r["State"]}
	if h.Name == "" || h.State == "" {
		return h, fmt.Errorf("the name or the state is missing")
	}
	h.Why = unusable(h.State)
	h.Usable = h.Why == ""
	if f := present(r["ActiveFeatures"]); f != "" {
		h.Features = strings.Split(f, ",")
	}
	cpus := r["CPUEfctv"] // without what is set aside for the system; 22.05 and later
	if cpus == "" {
		cpus = r["CPUTot"]
	}
	var reserved int64
	for _, a := range []struct {
		name, value string
		into        *int64
	}{
		{"CPUs", cpus, &h.CPUs}, {"CPUAlloc", r["CPUAlloc"], &h.Allocated.CPUs},
		{"RealMemory", r["RealMemory"], &h.MemoryMiB}, {"AllocMem", r["AllocMem"], &h.Allocated.MemoryMiB},
		{"MemSpecLimit", r["MemSpecLimit"], &reserved},
	} {
		var err error
		if *a.into, err = amount(a.value); err != nil {
			return h, fmt.Errorf("%s: %w", a.name, err)
		}
	}
	h.MemoryMiB = max(0, h.MemoryMiB-reserved)
	var err error
	if h.GPUs, err = parseGres(r["Gres"]); err != nil {
		return h, fmt.Errorf("gres: %w", err)
	}
	if h.Allocated.GPUs, err = parseGres(r["GresUsed"]); err != nil {
		return h, fmt.Errorf("gres in use: %w", err)
	}
	return h, nil
}

// amount reads a count; a missing one is 0.
func amount(v string) (int64, error) {
	if v = present(v); v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > 1<<50 {
		return 0, fmt.Errorf("%.40q is not an amount", v)
	}
	return n, nil
}

// unusable says why jobs cannot start on a node in this state, "" when they can.
func unusable(state string) string {
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
			why = append(why, "reserved")
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

// parseGres counts GPUs by type in "gpu:a100:4(S:0-1),gpu:2,shard:8(IDX:0-1)".
func parseGres(v string) (map[string]int64, error) {
	out := map[string]int64{}
	for item, rest := nextGres(present(v)); item != ""; item, rest = nextGres(rest) {
		item, _, _ = strings.Cut(item, "(")
		parts := strings.Split(item, ":")
		if parts[0] != "gpu" {
			continue
		}
		if len(parts) == 1 {
			out[""]++ // "gpu" alone is one
			continue
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
		if n > 0 {
			out[name] += n
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
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

func parsePartitions(out string) ([]backends.Partition, error) {
	all, err := records(out, "PartitionName")
	if err != nil {
		return nil, err
	}
	parts := make([]backends.Partition, 0, len(all))
	budget := 10 * maxHosts // partitions overlap
	for _, r := range all {
		p := backends.Partition{Name: r["PartitionName"], Up: r["State"] == "UP", Default: r["Default"] == "YES"}
		if p.Name == "" || r["State"] == "" {
			return nil, fmt.Errorf("partition %.80q: the name or the state is missing", p.Name)
		}
		if p.Hosts, err = hostlist.Expand(present(r["Nodes"]), budget); err != nil {
			return nil, fmt.Errorf("partition %.80q: %w", p.Name, err)
		}
		budget -= len(p.Hosts)
		for _, t := range []struct {
			name string
			into *time.Duration
		}{{"MaxTime", &p.MaxWalltime}, {"DefaultTime", &p.DefaultWalltime}} {
			if *t.into, err = parseDuration(r[t.name]); err != nil {
				return nil, fmt.Errorf("partition %.80q: %s: %w", p.Name, t.name, err)
			}
		}
		parts = append(parts, p)
	}
	slices.SortFunc(parts, func(a, b backends.Partition) int { return strings.Compare(a.Name, b.Name) })
	return parts, nil
}

// parseDuration reads "[days-]hours:minutes:seconds" and its shorter forms
// "minutes" and "minutes:seconds"; 0 stands for unlimited and for none.
func parseDuration(v string) (time.Duration, error) {
	if v = present(v); v == "" || v == "UNLIMITED" || v == "INFINITE" {
		return 0, nil
	}
	bad := fmt.Errorf("%.40q is not a time", v)
	days, clock, hasDays := strings.Cut(v, "-")
	if !hasDays {
		days, clock = "0", v
	}
	parts := strings.Split(clock, ":")
	units := map[int][]time.Duration{
		1: {time.Minute}, 2: {time.Minute, time.Second}, 3: {time.Hour, time.Minute, time.Second},
	}[len(parts)]
	if hasDays {
		units = []time.Duration{time.Hour, time.Minute, time.Second}
	}
	if len(parts) > len(units) {
		return 0, bad
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, bad
	}
	total := time.Duration(n) * 24 * time.Hour
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil || n > 1<<22 {
			return 0, bad
		}
		total += time.Duration(n) * units[i]
	}
	return total, nil
}
