package provider

import (
	"maps"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Use says what our running jobs of each partition hold on each host, from the
// members' own reports. The rest of what is allocated there is foreign: to the
// node of one partition, our jobs of another that shares its hosts are, too.
func (b *Bridge) Use() map[string]inventory.Use {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[string]inventory.Use{}
	for key, jobs := range b.view.Jobs {
		for _, j := range jobs {
			if j.State.Terminal() || len(j.Hosts) == 0 {
				continue
			}
			out, ok := all[j.Partition]
			if !ok {
				out = inventory.Use{ByHost: map[string]backends.Amounts{}, Unsettled: map[string]bool{}}
				all[j.Partition] = out
			}
			gang := b.view.Files[key].gang
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
