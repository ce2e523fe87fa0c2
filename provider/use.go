package provider

import (
	"cmp"
	"maps"
	"slices"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Use says what our running jobs of each partition hold on each host, from the
// members' own reports. The rest of what is allocated there is foreign: to the
// node of one partition, our jobs of another that shares its hosts are, too. So
// are those that wait, as far as they will need hosts that are shared.
func (b *Bridge) Use() map[string]inventory.Use {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[string]inventory.Use{}
	type queued struct {
		job        backends.Job
		components []manifest.Component
	}
	var waiting []queued
	for key, jobs := range b.view.Jobs {
		for _, j := range jobs {
			waits := j.State == backends.StatePending
			if j.State.Terminal() || len(j.Hosts) == 0 && !waits {
				continue
			}
			out, ok := all[j.Partition]
			if !ok {
				out = inventory.Use{ByHost: map[string]backends.Amounts{}, Unsettled: map[string]bool{}}
				all[j.Partition] = out
			}
			gang := b.view.Files[key].gang
			if waits {
				waiting = append(waiting, queued{j, gang.Components})
				continue
			}
			requests := manifest.Requests(gang.Components)
			settled := len(requests) > 0
			for rank, req := range requests {
				st, ok := gang.Pods[rank]
				if !ok || st.Host == "" {
					settled = false
					continue
				}
				out.ByHost[st.Host] = plus(out.ByHost[st.Host], req)
			}
			if !settled {
				for _, h := range j.Hosts {
					out.Unsettled[h] = true
				}
			}
		}
	}
	slices.SortFunc(waiting, func(x, y queued) int {
		return cmp.Or(x.job.Submitted.Compare(y.job.Submitted), cmp.Compare(x.job.ID, y.job.ID))
	})
	for _, q := range waiting {
		components := make([]backends.Component, len(q.components))
		for i, c := range q.components {
			components[i] = backends.Component{Tasks: c.Tasks, CPUs: c.CPUs, MemoryMiB: c.MemoryMiB, GPUs: c.GPUs}
		}
		out := all[q.job.Partition]
		out.Waiting = append(out.Waiting, components)
		all[q.job.Partition] = out
	}
	return all
}

// plus adds what one task holds; the job holds it to its end, even when the
// task has ended before the others.
func plus(a backends.Amounts, c manifest.Component) backends.Amounts {
	a.CPUs += c.CPUs
	a.MemoryMiB += c.MemoryMiB
	a.GPUs = maps.Clone(a.GPUs)
	if a.GPUs == nil {
		a.GPUs = map[string]int64{}
	}
	for t, n := range c.GPUs {
		a.GPUs[t] += n
	}
	return a
}

// SetPartitions tells the translation about the partitions behind the nodes.
func (b *Bridge) SetPartitions(views []inventory.View) {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.views)
	for _, v := range views {
		b.views[v.VirtualNode.Name] = v
	}
}

// queues sums up our jobs on each virtual node. Nodes of one partition are told
// apart by where the pods are.
func (b *Bridge) queues(v View) map[string]inventory.Queue {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]inventory.Queue{}
	nodeOf := map[string]string{}
	for name, n := range b.vnodes {
		nodeOf[n.Partition] = name
	}
	for key, jobs := range v.Jobs {
		at, known := b.places[key]
		for _, j := range jobs {
			if !known {
				at = place{node: nodeOf[j.Partition]}
			}
			q := out[at.node]
			switch {
			case j.State.Terminal():
				continue
			case j.State == backends.StatePending:
				q.PendingJobs++
				q.PendingPods += at.pods
				if !j.Estimated.IsZero() && (q.Estimated.IsZero() || j.Estimated.Before(q.Estimated)) {
					q.Estimated = j.Estimated
				}
			default:
				q.RunningJobs++
			}
			out[at.node] = q
		}
	}
	return out
}
