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
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

// Inventory asks for the nodes and the partitions, and once for the version and
// whether the cluster keeps books.
func (b *Backend) Inventory(ctx context.Context) (backends.Inventory, error) {
	const op = "inventory"
	fail := func(err error) (backends.Inventory, error) {
		return backends.Inventory{}, &backends.Error{Op: op, Kind: backends.KindTransient, Err: err}
	}
	version, err := b.readVersion(ctx)
	if err != nil {
		return backends.Inventory{}, err
	}
	if err := b.readAccounting(ctx); err != nil {
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
	if err := b.readLicenses(ctx, &inv); err != nil {
		return backends.Inventory{}, err
	}
	// Where no host is reserved there is nothing to ask for.
	reservations := ""
	if slices.ContainsFunc(inv.Hosts, func(h backends.Host) bool { return h.Reserved }) {
		if reservations, _, err = b.query(ctx, op, "scontrol", "--oneliner", "--all", "show", "reservation"); err != nil {
			return backends.Inventory{}, err
		}
	}
	if inv.Reservations, err = parseReservations(reservations); err != nil {
		return fail(fmt.Errorf("read the list of reservations: %w", err))
	}
	return inv, nil
}

// parseReservations gives the hosts of the reservations that are in force.
func parseReservations(out string) (map[string][]string, error) {
	all, err := records(out, "ReservationName")
	if err != nil {
		return nil, err
	}
	reservations := map[string][]string{}
	for _, r := range all {
		if r["State"] != "ACTIVE" {
			continue
		}
		hosts, err := hostlist.Expand(slurmjob.Present(r["Nodes"]), slurmjob.MaxHosts)
		if err != nil {
			return nil, fmt.Errorf("reservation %.80q: %w", r["ReservationName"], err)
		}
		reservations[r["ReservationName"]] = hosts
	}
	return reservations, nil
}

// readLicenses asks for what jobs may hold of each. Nothing else waits for it: when the
// list cannot be had the last one holds, and inv says so.
func (b *Backend) readLicenses(ctx context.Context, inv *backends.Inventory) error {
	out, _, err := b.query(ctx, "inventory", "scontrol", "--oneliner", "show", "licenses")
	if err != nil && ctx.Err() != nil {
		return err
	}
	var now []backends.License
	if err == nil {
		now, err = parseLicenses(out)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		inv.LicensesUnread = err.Error()
	} else {
		b.licenses = now
	}
	inv.Licenses = slices.Clone(b.licenses)
	return nil
}

// parseLicenses gives what jobs may hold of each, in the order of the names.
func parseLicenses(out string) ([]backends.License, error) {
	all, err := records(out, "LicenseName")
	if err != nil {
		return nil, err
	}
	var licenses []backends.License
	for _, r := range all {
		l := backends.License{Name: r["LicenseName"]}
		var reserved int64
		for name, into := range map[string]*int64{"Total": &l.Total, "Used": &l.Used, "Reserved": &reserved} {
			if *into, err = amount(r[name]); err != nil {
				return nil, fmt.Errorf("licence %.80q: %s: %w", l.Name, name, err)
			}
		}
		l.Total = max(0, l.Total-reserved)
		if backends.ValidLicense(l.Name) { // none of another form can be asked for
			licenses = append(licenses, l)
		}
	}
	slices.SortFunc(licenses, func(a, b backends.License) int { return strings.Compare(a.Name, b.Name) })
	return licenses, nil
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
		if len(all) >= slurmjob.MaxHosts {
			return nil, fmt.Errorf("more than %d lines", slurmjob.MaxHosts)
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
	h := backends.Host{Name: r["NodeName"], Addr: slurmjob.Present(r["NodeAddr"]), State: r["State"]}
	if h.Name == "" || h.State == "" {
		return h, fmt.Errorf("the name or the state is missing")
	}
	h.Why = slurmjob.Unusable(h.State)
	h.Usable, h.Reserved = h.Why == "", h.Why == slurmjob.Reserved
	if f := slurmjob.Present(r["ActiveFeatures"]); f != "" {
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
	if h.GPUs, err = slurmjob.ParseGRES(r["Gres"]); err != nil {
		return h, fmt.Errorf("gres: %w", err)
	}
	if h.Allocated.GPUs, err = slurmjob.ParseGRES(r["GresUsed"]); err != nil {
		return h, fmt.Errorf("gres in use: %w", err)
	}
	h.Shared = slurmjob.SharedGPUs(r["GresUsed"])
	return h, nil
}

// amount reads a count; a missing one is 0.
func amount(v string) (int64, error) {
	if v = slurmjob.Present(v); v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > 1<<50 {
		return 0, fmt.Errorf("%.40q is not an amount", v)
	}
	return n, nil
}

func parsePartitions(out string) ([]backends.Partition, error) {
	all, err := records(out, "PartitionName")
	if err != nil {
		return nil, err
	}
	parts := make([]backends.Partition, 0, len(all))
	budget := 10 * slurmjob.MaxHosts // partitions overlap
	for _, r := range all {
		p := backends.Partition{Name: r["PartitionName"], Up: r["State"] == "UP", Default: r["Default"] == "YES"}
		if p.Name == "" || r["State"] == "" {
			return nil, fmt.Errorf("partition %.80q: the name or the state is missing", p.Name)
		}
		if p.Hosts, err = hostlist.Expand(slurmjob.Present(r["Nodes"]), budget); err != nil {
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
	if v = slurmjob.Present(v); v == "" || v == "UNLIMITED" || v == "INFINITE" {
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
