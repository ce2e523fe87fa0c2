package slurmrest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/hostlist"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

// Inventory asks for the nodes and for the partitions. The version names that
// of the REST API, too.
func (b *Backend) Inventory(ctx context.Context) (backends.Inventory, error) {
	var inv backends.Inventory
	err := b.askAs(ctx, nil, "inventory", func(s *session) error {
		inv = backends.Inventory{System: "slurm"}
		release, err := s.hosts(ctx, &inv)
		if err != nil {
			return err
		}
		if release == "" {
			release = "unknown release"
		}
		inv.Version = fmt.Sprintf("%s (REST %s)", release, s.dialect.version)
		if err := s.partitions(ctx, &inv); err != nil {
			return err
		}
		if err := b.readLicenses(ctx, s, &inv); err != nil {
			return err
		}
		b.findBooks(ctx, s)
		return nil
	})
	if err != nil {
		return backends.Inventory{}, err
	}
	return inv, nil
}

// readLicenses asks for what jobs may hold of each. Nothing else waits for it: when the
// list cannot be had the last one holds, and inv says so. A token that is refused is
// another matter.
func (b *Backend) readLicenses(ctx context.Context, s *session, inv *backends.Inventory) error {
	now, err := s.licenses(ctx)
	if err != nil && (ctx.Err() != nil || backends.KindOf(err) == backends.KindDenied) {
		return err
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

func (s *session) licenses(ctx context.Context) (all []backends.License, err error) {
	_, err = s.read(ctx, "licenses", func(dec *json.Decoder) error {
		var raw struct {
			Name     text   `json:"LicenseName"`
			Total    number `json:"Total"`
			Used     number `json:"Used"`
			Reserved number `json:"Reserved"`
		}
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		if len(all) >= slurmjob.MaxHosts {
			return fmt.Errorf("more than %d licences", slurmjob.MaxHosts)
		}
		if backends.ValidLicense(raw.Name.v) { // none of another form can be asked for
			all = append(all, backends.License{
				Name: raw.Name.v, Total: max(0, raw.Total.n-raw.Reserved.n), Used: max(0, raw.Used.n),
			})
		}
		return nil
	})
	slices.SortFunc(all, func(a, b backends.License) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// rawNode is one host. Only v0.0.38 has state_flags, only later ones have
// effective_cpus and specialized_memory.
type rawNode struct {
	Name        text   `json:"name"`
	Address     text   `json:"address"`
	State       words  `json:"state"`
	Flags       words  `json:"state_flags"`
	Features    words  `json:"active_features"`
	CPUs        number `json:"cpus"`
	Effective   number `json:"effective_cpus"`
	AllocCPUs   number `json:"alloc_cpus"`
	Memory      number `json:"real_memory"`
	Specialized number `json:"specialized_memory"`
	AllocMemory number `json:"alloc_memory"`
	Gres        text   `json:"gres"`
	GresUsed    text   `json:"gres_used"`
}

func (s *session) hosts(ctx context.Context, inv *backends.Inventory) (release string, err error) {
	out, err := s.read(ctx, "nodes", func(dec *json.Decoder) error {
		var raw rawNode
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		if len(inv.Hosts) >= slurmjob.MaxHosts {
			return fmt.Errorf("more than %d hosts", slurmjob.MaxHosts)
		}
		h, err := raw.host(s.dialect)
		if err != nil {
			return fmt.Errorf("host %.80q: %w", raw.Name.v, err)
		}
		inv.Hosts = append(inv.Hosts, h)
		return nil
	})
	slices.SortFunc(inv.Hosts, func(a, b backends.Host) int { return strings.Compare(a.Name, b.Name) })
	return out.Release, err
}

// read asks for a list and gives each element to f.
func (s *session) read(ctx context.Context, what string, f func(*json.Decoder) error) (reply, error) {
	seen := false
	out, err := s.do(ctx, request{method: http.MethodGet, path: s.dialect.path(what), on: map[string]func(*json.Decoder) error{
		what: func(dec *json.Decoder) error {
			seen = true
			return each(dec, func() error { return f(dec) })
		},
	}})
	if err == nil && !seen {
		err = s.fail(backends.KindTransient, fmt.Errorf("the reply has no list of %s", what))
	}
	return out, err
}

func (r rawNode) host(d *dialect) (backends.Host, error) {
	h := backends.Host{Name: r.Name.v, Addr: slurmjob.Present(r.Address.v)}
	state := r.State.v
	if d.plain {
		if !r.Flags.seen {
			return h, errors.New("state_flags is missing")
		}
		state = append(slices.Clone(state), r.Flags.v...)
	}
	h.State = strings.ToUpper(strings.Join(state, "+")) // v0.0.38 writes the base state small
	if h.Name == "" || len(r.State.v) == 0 {
		return h, errors.New("the name or the state is missing")
	}
	for name, seen := range map[string]bool{
		"address": r.Address.seen, "active_features": r.Features.seen, "gres": r.Gres.seen, "gres_used": r.GresUsed.seen,
		"effective_cpus":     d.plain || r.Effective.seen,
		"specialized_memory": d.plain || r.Specialized.seen,
	} {
		if !seen {
			return h, fmt.Errorf("%s is missing", name)
		}
	}
	h.Why = slurmjob.Unusable(h.State)
	h.Usable = h.Why == ""
	h.Features = r.Features.v
	cpus := r.CPUs
	if !d.plain {
		cpus = r.Effective // without what is set aside for the system
	}
	r.Specialized.seen = true
	var reserved int64
	for _, a := range []struct {
		name string
		from number
		into *int64
	}{
		{"cpus", r.CPUs, &h.CPUs}, {"effective_cpus", cpus, &h.CPUs}, {"alloc_cpus", r.AllocCPUs, &h.Allocated.CPUs},
		{"real_memory", r.Memory, &h.MemoryMiB}, {"alloc_memory", r.AllocMemory, &h.Allocated.MemoryMiB},
		{"specialized_memory", r.Specialized, &reserved},
	} {
		var err error
		if *a.into, err = a.from.amount(a.name); err != nil {
			return h, err
		}
	}
	h.MemoryMiB = max(0, h.MemoryMiB-reserved)
	var err error
	if h.GPUs, err = slurmjob.ParseGRES(r.Gres.v); err != nil {
		return h, fmt.Errorf("gres: %w", err)
	}
	if h.Allocated.GPUs, err = slurmjob.ParseGRES(r.GresUsed.v); err != nil {
		return h, fmt.Errorf("gres_used: %w", err)
	}
	h.Shared = slurmjob.SharedGPUs(r.GresUsed.v)
	return h, nil
}

// rawPartition is a partition of either kind of version.
type rawPartition struct {
	Name  text            `json:"name"`
	Nodes json.RawMessage `json:"nodes"` // a host list, later an object
	// To v0.0.38.
	State   words  `json:"state"`
	Flags   words  `json:"flags"`
	Max     number `json:"max_time_limit"`
	Default number `json:"default_time_limit"`
	// Later.
	Partition struct {
		State words `json:"state"`
	} `json:"partition"`
	Maximums struct {
		Time number `json:"time"`
	} `json:"maximums"`
	Defaults struct {
		Time number `json:"time"`
	} `json:"defaults"`
}

func (s *session) partitions(ctx context.Context, inv *backends.Inventory) error {
	budget := 10 * slurmjob.MaxHosts // partitions overlap
	_, err := s.read(ctx, "partitions", func(dec *json.Decoder) error {
		var raw rawPartition
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		p, err := raw.partition(s.dialect, &budget)
		if err != nil {
			return fmt.Errorf("partition %.80q: %w", raw.Name.v, err)
		}
		inv.Partitions = append(inv.Partitions, p)
		return nil
	})
	slices.SortFunc(inv.Partitions, func(a, b backends.Partition) int { return strings.Compare(a.Name, b.Name) })
	return err
}

func (r rawPartition) partition(d *dialect, budget *int) (backends.Partition, error) {
	p := backends.Partition{Name: r.Name.v}
	var nodes text
	state, most, usual := r.State, r.Max, r.Default
	if d.plain {
		if err := json.Unmarshal(orNull(r.Nodes), &nodes); err != nil {
			return p, fmt.Errorf("nodes: %w", err)
		}
	} else {
		var list struct {
			Configured text `json:"configured"`
		}
		if err := json.Unmarshal(orNull(r.Nodes), &list); err != nil {
			return p, fmt.Errorf("nodes: %w", err)
		}
		nodes = list.Configured
		state, most, usual = r.Partition.State, r.Maximums.Time, r.Defaults.Time
	}
	if p.Name == "" || len(state.v) == 0 || len(r.Nodes) == 0 || !nodes.seen {
		return p, errors.New("the name, the state or the list of nodes is missing")
	}
	p.Up = len(state.v) == 1 && state.v[0] == "UP"
	p.Default = slices.ContainsFunc(r.Flags.v, func(f string) bool { return strings.EqualFold(f, "default") })
	var err error
	if p.Hosts, err = hostlist.Expand(slurmjob.Present(nodes.v), *budget); err != nil {
		return p, err
	}
	*budget -= len(p.Hosts)
	for _, t := range []struct {
		name string
		from number
		into *time.Duration
	}{{"the time limit", most, &p.MaxWalltime}, {"the default time", usual, &p.DefaultWalltime}} {
		if *t.into, err = t.from.minutes(t.name); err != nil {
			return p, err
		}
	}
	return p, nil
}

func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}
