package pbs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
)

// partitions makes partitions of execution queues. A routing queue runs
// nothing: its jobs go to others, under whose names they are then observed.
func partitions(out string, settings server, vnodes []*block) ([]backends.Partition, error) {
	all, err := read(out, "Queue: ")
	if err != nil {
		return nil, err
	}
	limit, err := duration(settings.walltime)
	if err != nil {
		return nil, fmt.Errorf("the server's resources_default.walltime: %w", err)
	}
	parts := make([]backends.Partition, 0, len(all))
	for _, q := range all {
		if !strings.HasPrefix(strings.ToLower(q.get("queue_type")), "e") {
			continue
		}
		p := backends.Partition{
			Name: q.name, Default: q.name == settings.defaultQueue, DefaultWalltime: limit,
			Up: strings.EqualFold(q.get("enabled"), "true") && strings.EqualFold(q.get("started"), "true"),
		}
		if p.MaxWalltime, err = duration(q.get("resources_max.walltime")); err != nil {
			return nil, fmt.Errorf("queue %.80q: resources_max.walltime: %w", q.name, err)
		}
		if v := q.get("resources_default.walltime"); v != "" {
			if p.DefaultWalltime, err = duration(v); err != nil {
				return nil, fmt.Errorf("queue %.80q: resources_default.walltime: %w", q.name, err)
			}
		}
		for _, v := range vnodes {
			if host := hostOf(v); serves(v, q) && !slices.Contains(p.Hosts, host) {
				p.Hosts = append(p.Hosts, host)
			}
		}
		slices.Sort(p.Hosts)
		parts = append(parts, p)
	}
	slices.SortFunc(parts, func(a, b backends.Partition) int { return strings.Compare(a.Name, b.Name) })
	return parts, nil
}

// serves reports whether jobs of a queue may run on a vnode: a vnode can belong
// to one queue (attribute queue), and a queue can ask for a resource that only
// its vnodes have (default_chunk, by custom Qlist) or for a node property
// (resources_default.neednodes in Torque).
func serves(v, q *block) bool {
	if owner := v.get("queue"); owner != "" && owner != q.name {
		return false
	}
	if need := q.get("resources_default.neednodes"); need != "" {
		properties := strings.Split(v.get("properties"), ",")
		for part := range strings.SplitSeq(need, ":") {
			if part != v.name && !slices.Contains(properties, part) {
				return false
			}
		}
	}
	for name, want := range q.attrs {
		resource, ok := strings.CutPrefix(name, "default_chunk.")
		if !ok || !feature(resource) || resource == "mpiprocs" || resource == "ompthreads" {
			continue
		}
		if have := v.get("resources_available." + resource); !slices.Contains(strings.Split(have, ","), want) {
			return false
		}
	}
	return true
}

// gpuTypes are the resources by which sites say which GPUs a vnode has;
// accelerator_model is PBS's own.
func gpuTypes() []string {
	return []string{"gpu_model", "gpu_type", "gputype", "accelerator_model"}
}

// keepGPUType finds the one that the vnodes use.
func (b *Backend) keepGPUType(vnodes []*block) string {
	found := ""
	for _, name := range gpuTypes() {
		if found == "" && slices.ContainsFunc(vnodes, func(v *block) bool { return v.get("resources_available."+name) != "" }) {
			found = name
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gpuType = &found
	return found
}

// gpuTypeFor gives that resource when the job needs it.
func (b *Backend) gpuTypeFor(ctx context.Context, spec backends.JobSpec) (string, error) {
	typed := false
	for _, c := range spec.Components {
		for kind, n := range c.GPUs {
			typed = typed || kind != "" && n > 0
		}
	}
	if !typed || b.config.Dialect == Torque {
		return "", nil
	}
	b.mu.Lock()
	known := b.gpuType
	b.mu.Unlock()
	if known != nil && *known != "" {
		return *known, nil
	}
	vnodes, err := b.vnodes(ctx, "submit")
	if err != nil {
		return "", err
	}
	return b.keepGPUType(vnodes), nil
}
