package pbs

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Inventory asks for the server's settings, the vnodes and the queues, and once
// for the version. Torque's nodes do not tell which GPUs are in use, so there
// the list of jobs is read too.
func (b *Backend) Inventory(ctx context.Context) (backends.Inventory, error) {
	const op = "inventory"
	fail := func(what string, err error) (backends.Inventory, error) {
		return backends.Inventory{}, &backends.Error{Op: op, Kind: backends.KindTransient, Err: fmt.Errorf("read the list of %s: %w", what, err)}
	}
	version, err := b.identified(ctx, op)
	if err != nil {
		return backends.Inventory{}, err
	}
	settings, err := b.readServer(ctx, op)
	if err != nil {
		return backends.Inventory{}, err
	}
	vnodes, err := b.vnodes(ctx, op)
	if err != nil {
		return backends.Inventory{}, err
	}
	queues, err := b.query(ctx, op, "qstat", "-Q", "-f")
	if err != nil {
		return backends.Inventory{}, err
	}
	inv := backends.Inventory{System: string(b.config.Dialect), Version: version}
	if b.config.Dialect == Torque {
		out, err := b.query(ctx, op, "qstat", "-f")
		if err != nil {
			return backends.Inventory{}, err
		}
		used, err := gpusInUse(out)
		if err != nil {
			return fail("jobs", err)
		}
		if inv.Hosts, err = torqueHosts(vnodes, used); err != nil {
			return fail("nodes", err)
		}
	} else if inv.Hosts, err = proHosts(vnodes, b.keepGPUType(vnodes)); err != nil {
		return fail("vnodes", err)
	}
	if inv.Partitions, err = partitions(queues, settings, vnodes); err != nil {
		return fail("queues", err)
	}
	return inv, nil
}

// vnodes asks for all vnodes.
func (b *Backend) vnodes(ctx context.Context, op string) ([]*block, error) {
	argv := []string{"pbsnodes", "-a", "-v"}
	if b.config.Dialect == Torque {
		argv = []string{"pbsnodes", "-a"}
	}
	out, err := b.query(ctx, op, argv...)
	if err != nil {
		return nil, err
	}
	all, err := readNodes(out)
	if err != nil {
		return nil, &backends.Error{Op: op, Kind: backends.KindTransient, Err: fmt.Errorf("read the list of vnodes: %w", err)}
	}
	return all, nil
}

// readNodes reads the answer of pbsnodes: a name at the beginning of a line,
// then lines of attributes, then an empty line. A line end within a value (a
// comment) makes something that looks like a name, but a vnode has a state.
func readNodes(out string) ([]*block, error) {
	var all []*block
	var now *block
	last := ""
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if len(line) > maxLine {
			return nil, errLongAnswer
		}
		if rest, ok := strings.CutPrefix(line, "\t"); ok {
			if now != nil && last != "" {
				now.attrs[last] += rest
			}
			continue
		}
		if name, value, ok := attribute(line); ok {
			if now == nil {
				return nil, fmt.Errorf("the line %.60q comes before a vnode's name", line)
			}
			last = ""
			if _, twice := now.attrs[name]; !twice {
				now.attrs[name], last = value, name
			}
			continue
		}
		if line == "" || line[0] == ' ' {
			continue
		}
		if now != nil && now.get("state") == "" {
			// A banner, or text within a value.
			all = all[:len(all)-1]
		}
		if len(all) >= maxHosts {
			return nil, fmt.Errorf("more than %d vnodes", maxHosts)
		}
		now, last = &block{name: line, attrs: map[string]string{}}, ""
		all = append(all, now)
	}
	if now != nil && now.get("state") == "" {
		all = all[:len(all)-1]
	}
	return all, nil
}

// hostOf gives the host that a vnode is a part of.
func hostOf(v *block) string {
	if h := v.get("resources_available.host"); h != "" {
		return h
	}
	return v.name
}

// proHosts makes hosts of vnodes. What lies on vnodes that take no jobs does
// not count, unless that is all of the host.
func proHosts(vnodes []*block, gpuType string) ([]backends.Host, error) {
	byName := map[string][]*block{}
	for _, v := range vnodes {
		byName[hostOf(v)] = append(byName[hostOf(v)], v)
	}
	hosts := make([]backends.Host, 0, len(byName))
	for name, parts := range byName {
		h, err := proHost(name, parts, gpuType)
		if err != nil {
			return nil, fmt.Errorf("host %.80q: %w", name, err)
		}
		hosts = append(hosts, h)
	}
	slices.SortFunc(hosts, func(a, b backends.Host) int { return strings.Compare(a.Name, b.Name) })
	return hosts, nil
}

func proHost(name string, parts []*block, gpuType string) (backends.Host, error) {
	h := backends.Host{Name: name}
	var states, why []string
	var usable, broken []*block
	features := map[string]bool{}
	for _, v := range parts {
		if h.Addr == "" {
			h.Addr = v.get("mom")
		}
		states = append(states, v.get("state"))
		if reason := unusable(v.get("state")); reason != "" {
			why = append(why, reason)
			broken = append(broken, v)
			continue
		}
		cpus, err := amount(v.get("resources_available.ncpus"))
		if err != nil {
			return h, fmt.Errorf("ncpus: %w", err)
		}
		if cpus == 0 {
			continue // stands for the host as such and holds nothing
		}
		usable = append(usable, v)
	}
	h.State = joined(states)
	h.Usable = len(usable) > 0
	count := usable
	if !h.Usable {
		count = broken
		if h.Why = joined(why); h.Why == "" {
			h.Why = "no CPUs"
		}
	}
	for _, v := range count {
		if err := addVnode(&h, v, gpuType); err != nil {
			return h, fmt.Errorf("vnode %.80q: %w", v.name, err)
		}
		for name, value := range v.attrs {
			if resource, ok := strings.CutPrefix(name, "resources_available."); ok && feature(resource) {
				for part := range strings.SplitSeq(value, ",") {
					features[resource+"="+part] = true
				}
			}
		}
	}
	for f := range features {
		h.Features = append(h.Features, f)
	}
	slices.Sort(h.Features)
	return h, nil
}

// feature reports whether a resource tells what a host is, not how much it has.
func feature(resource string) bool {
	switch resource {
	case "host", "vnode", "ncpus", "mem", "vmem", "ngpus", "hpmem", "naccelerators", "accelerator_memory", "nodect", "hbmem":
		return false
	}
	return true
}

func joined(words []string) string {
	slices.Sort(words)
	return strings.Join(slices.DeleteFunc(slices.Compact(words), func(w string) bool { return w == "" }), ", ")
}

func addVnode(h *backends.Host, v *block, gpuType string) error {
	kind := ""
	if gpuType != "" {
		kind, _, _ = strings.Cut(v.get("resources_available."+gpuType), ",")
	}
	full := exclusive(v)
	for _, r := range []struct {
		name           string
		read           func(string) (int64, error)
		has, allocated func(int64)
	}{
		{"ncpus", amount, func(n int64) { h.CPUs += n }, func(n int64) { h.Allocated.CPUs += n }},
		{"mem", memoryMiB, func(n int64) { h.MemoryMiB += n }, func(n int64) { h.Allocated.MemoryMiB += n }},
		{"ngpus", amount, func(n int64) { addGPUs(&h.GPUs, kind, n) }, func(n int64) { addGPUs(&h.Allocated.GPUs, kind, n) }},
	} {
		total, err := r.read(v.get("resources_available." + r.name))
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		used, err := r.read(v.get("resources_assigned." + r.name))
		if err != nil {
			return fmt.Errorf("%s in use: %w", r.name, err)
		}
		if full {
			used = total
		}
		r.has(total)
		r.allocated(used)
	}
	return nil
}

// exclusive reports whether the jobs on a vnode leave nothing of it to others.
func exclusive(v *block) bool {
	if slices.Contains(stateWords(v.get("state")), "job-exclusive") {
		return true
	}
	if v.get("jobs") == "" {
		return false
	}
	switch v.get("sharing") {
	case "force_excl", "force_exclhost", "default_excl", "default_exclhost":
		return true
	}
	return false
}

func addGPUs(to *map[string]int64, kind string, n int64) {
	if n == 0 {
		return
	}
	if *to == nil {
		*to = map[string]int64{}
	}
	(*to)[kind] += n
}

func stateWords(state string) []string {
	return strings.FieldsFunc(state, func(r rune) bool { return r == ',' || r == ' ' })
}

// unusable says why a vnode in this state takes no jobs, "" when it does.
func unusable(state string) string {
	var why []string
	for _, word := range stateWords(state) {
		switch word {
		case "free", "job-busy", "job-exclusive", "job-sharing", "<various>":
		case "offline", "maintenance":
			why = append(why, "set "+word)
		case "resv-exclusive", "reserve":
			why = append(why, "reserved")
		case "busy":
			why = append(why, "its load is too high")
		default:
			// down, stale, state-unknown, unresolvable, provisioning,
			// wait-provisioning, sleep, and what is not known yet.
			why = append(why, strings.ReplaceAll(word, "-", " "))
		}
	}
	if state == "" {
		why = append(why, "without a state")
	}
	return joined(why)
}

// amount reads a count; a missing one is 0.
func amount(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return 0, fmt.Errorf("%.40q is not an amount", text)
	}
	return n, nil
}

// memoryMiB reads a size such as "128gb", "4194304kb", "0b" or "1024", in whole
// MiB, rounded down. A word ("mw") is 8 bytes.
func memoryMiB(text string) (int64, error) {
	digits := strings.TrimRight(strings.ToLower(text), "kmgtpbw")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%.40q is not an amount of memory", text)
	}
	unit := strings.ToLower(text[len(digits):])
	if bare, ok := strings.CutSuffix(unit, "w"); ok {
		unit = bare
		if n > 1<<50 {
			return 0, fmt.Errorf("%.40q is too much memory", text)
		}
		n *= 8
	}
	shift, ok := map[string]int{"": 0, "b": 0, "k": 10, "kb": 10, "m": 20, "mb": 20, "g": 30, "gb": 30, "t": 40, "tb": 40, "p": 50, "pb": 50}[unit]
	if !ok {
		return 0, fmt.Errorf("%.40q has no unit of memory", text)
	}
	if shift < 20 {
		return n >> (20 - shift), nil
	}
	if n > 1<<50>>(shift-20) {
		return 0, fmt.Errorf("%.40q is too much memory", text)
	}
	return n << (shift - 20), nil
}

// duration reads "[[hours:]minutes:]seconds"; "" is none.
func duration(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	parts := strings.Split(text, ":")
	if len(parts) > 4 {
		return 0, fmt.Errorf("%.40q is not a time", text)
	}
	units := []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour}
	var total time.Duration
	for i, p := range slices.Backward(parts) {
		n, err := strconv.ParseUint(p, 10, 31)
		unit := units[len(parts)-1-i]
		if err != nil || n > uint64(100*366*24*time.Hour/unit) {
			return 0, fmt.Errorf("%.40q is not a time", text)
		}
		total += time.Duration(n) * unit
	}
	return total, nil
}
