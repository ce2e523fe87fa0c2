package inventory

import (
	"maps"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

// takings is what our jobs take of hosts: by host, then by virtual node.
type takings struct {
	ours     map[string]map[string]backends.Amounts // of jobs that run
	promised map[string]map[string]backends.Amounts // of jobs that wait
}

func taken(use map[string]Use, promised map[string]map[string]backends.Amounts) takings {
	t := takings{ours: map[string]map[string]backends.Amounts{}, promised: map[string]map[string]backends.Amounts{}}
	put := func(into map[string]map[string]backends.Amounts, node, host string, a backends.Amounts) {
		if into[host] == nil {
			into[host] = map[string]backends.Amounts{}
		}
		held := into[host][node]
		held.GPUs = maps.Clone(held.GPUs)
		give(&held, a)
		into[host][node] = held
	}
	for node, u := range use {
		for host, a := range u.ByHost {
			put(t.ours, node, host, a)
		}
		for host, a := range u.Guessed {
			put(t.ours, node, host, a)
		}
	}
	for node, held := range promised {
		for host, a := range held {
			put(t.promised, node, host, a)
		}
	}
	return t
}

// sharing names, by host, the virtual nodes that have it, where it is more than one.
func sharing(nodes []hpcv1alpha1.VirtualNode, members []map[string]bool) map[string][]string {
	out := map[string][]string{}
	for i, n := range nodes {
		for host := range members[i] {
			out[host] = append(out[host], n.Name)
		}
	}
	for host, names := range out {
		if len(names) < 2 {
			delete(out, host)
			continue
		}
		slices.Sort(names)
	}
	return out
}

func without(names []string, name string) []string {
	var out []string
	for _, n := range names {
		if n != name {
			out = append(out, n)
		}
	}
	return out
}

// counted lists the tags of what the view of a node has taken off for the nodes
// that it overlaps with; what waits comes first, since nothing else says of that
// whether it is counted. A job that waits and whose directory was not read yet
// was not counted.
func counted(overlaps []string, use map[string]Use) (tags []string, more bool) {
	for _, name := range overlaps {
		for _, w := range use[name].Waiting {
			if len(w.Components) > 0 {
				tags = append(tags, w.Tags...)
			}
		}
	}
	for _, name := range overlaps {
		tags = append(tags, use[name].Tags...)
	}
	if len(tags) > hostshape.MaxCounted {
		tags, more = tags[:hostshape.MaxCounted], true
	}
	slices.Sort(tags)
	return slices.Compact(tags), more
}

// constrained says which hosts of a partition the jobs of a node can get, as far
// as its constraint is one that can be read here: names that all have to be
// there ("a&b" and "a,b" of Slurm, "a:b" of PBS and Torque) or of which one has
// to ("a|b" of Slurm). Counts, brackets and negations leave it to the batch
// system, and so does a constraint that no host meets as it is now: features of
// a host may change with the job.
func constrained(n hpcv1alpha1.VirtualNode, p backends.Partition, hosts map[string]backends.Host, system string) func(backends.Host) bool {
	all := func(backends.Host) bool { return true }
	if n.Constraint == "" {
		return all
	}
	meets := all
	has := func(h backends.Host, name string) bool { return slices.Contains(h.Features, name) }
	switch pbs := system == "pbs" || system == "torque"; {
	case pbs:
		names := strings.Split(n.Constraint, ":")
		meets = func(h backends.Host) bool {
			return !slices.ContainsFunc(names, func(name string) bool { return !has(h, name) })
		}
	case strings.ContainsAny(n.Constraint, "!()[]*"):
		return all
	case !strings.Contains(n.Constraint, "|"):
		names := strings.FieldsFunc(n.Constraint, func(r rune) bool { return r == '&' || r == ',' })
		meets = func(h backends.Host) bool {
			return !slices.ContainsFunc(names, func(name string) bool { return !has(h, name) })
		}
	case !strings.ContainsAny(n.Constraint, "&,"):
		names := strings.Split(n.Constraint, "|")
		meets = func(h backends.Host) bool {
			return slices.ContainsFunc(names, func(name string) bool { return has(h, name) })
		}
	default: // Slurm reads these from left to right, which hardly anybody means
		return all
	}
	for _, name := range p.Hosts {
		if h, known := hosts[name]; known && meets(h) {
			return meets
		}
	}
	return all
}
