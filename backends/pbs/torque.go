package pbs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
)

// torqueHosts makes hosts of Torque's nodes:
//
//	node1
//	     state = free
//	     np = 16
//	     properties = a100,nvlink
//	     jobs = 0-3/12.server,4/13.server
//	     status = opsys=linux,physmem=65920900kb,ncpus=16
//	     gpus = 8
func torqueHosts(nodes []*block, used map[string]int64) ([]backends.Host, error) {
	hosts := make([]backends.Host, 0, len(nodes))
	for _, n := range nodes {
		h := backends.Host{Name: n.name, State: n.get("state"), Why: unusable(n.get("state"))}
		h.Usable = h.Why == ""
		if p := n.get("properties"); p != "" {
			h.Features = strings.Split(p, ",")
			slices.Sort(h.Features)
		}
		var err error
		if h.CPUs, err = amount(n.get("np")); err != nil {
			return nil, fmt.Errorf("node %.80q: np: %w", n.name, err)
		}
		gpus, err := amount(n.get("gpus"))
		if err != nil {
			return nil, fmt.Errorf("node %.80q: gpus: %w", n.name, err)
		}
		addGPUs(&h.GPUs, "", gpus)
		addGPUs(&h.Allocated.GPUs, "", min(used[n.name], gpus))
		// Torque does not hand out memory by the host; what it has is in the report
		// of the node's daemon.
		for part := range strings.SplitSeq(n.get("status"), ",") {
			if v, ok := strings.CutPrefix(part, "physmem="); ok {
				if h.MemoryMiB, err = memoryMiB(v); err != nil {
					return nil, fmt.Errorf("node %.80q: physmem: %w", n.name, err)
				}
			}
		}
		if h.Allocated.CPUs, err = slots(n.get("jobs")); err != nil {
			return nil, fmt.Errorf("node %.80q: jobs: %w", n.name, err)
		}
		if slices.Contains(stateWords(h.State), "job-exclusive") {
			h.Allocated.CPUs = h.CPUs
		}
		hosts = append(hosts, h)
	}
	slices.SortFunc(hosts, func(a, b backends.Host) int { return strings.Compare(a.Name, b.Name) })
	return hosts, nil
}

// slots counts the CPUs in "0-3/12.server,4/13.server" or "0/12.server, 1/12.server".
func slots(jobs string) (int64, error) {
	var total int64
	for part := range strings.SplitSeq(jobs, ",") {
		where, _, _ := strings.Cut(strings.TrimSpace(part), "/")
		if where == "" {
			continue
		}
		first, last, isRange := strings.Cut(where, "-")
		if !isRange {
			last = first
		}
		lo, err := strconv.ParseUint(first, 10, 20)
		if err == nil {
			var hi uint64
			if hi, err = strconv.ParseUint(last, 10, 20); err == nil && hi >= lo {
				total += int64(hi - lo + 1) //nolint:gosec // both have 20 bits
				continue
			}
		}
		return 0, fmt.Errorf("%.40q is not a range of CPUs", where)
	}
	return total, nil
}

// gpusInUse counts the GPUs that jobs hold on each host, by the exec_gpus of the
// list of jobs: "node1-gpu/0+node1-gpu/1".
func gpusInUse(out string) (map[string]int64, error) {
	used := map[string]int64{}
	jobs, err := read(out, "Job Id: ")
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if _, live := stateOf(j.get("job_state")); !live {
			continue
		}
		for part := range strings.SplitSeq(j.get("exec_gpus"), "+") {
			if host, _, ok := strings.Cut(part, "-gpu/"); ok {
				used[host]++
			}
		}
	}
	return used, nil
}
