package provider

import (
	"cmp"
	"maps"
	"slices"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Use says what the jobs of each virtual node hold on each host, from the
// members' own reports. The rest of what is allocated there is foreign to the
// node, with the jobs of its neighbours, which may be of the same partition.
// Those that wait count as far as they will need hosts that are shared. A job
// whose pods are not known belongs to nobody, unless its partition has one node.
func (b *Bridge) Use() map[string]inventory.Use {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[string]inventory.Use{}
	type queued struct {
		job  backends.Job
		node string
		inventory.Waiting
	}
	var waiting []queued
	alone := b.soleNodes()
	for key, jobs := range b.view.Jobs {
		at := b.places[key]
		for _, j := range jobs {
			waits := j.State == backends.StatePending
			if j.State.Terminal() || len(j.Hosts) == 0 && !waits {
				continue
			}
			node := cmp.Or(at.node, alone[j.Partition])
			if node == "" {
				continue
			}
			out, ok := all[node]
			if !ok {
				out = inventory.Use{ByHost: map[string]backends.Amounts{}, Unsettled: map[string]bool{}, Guessed: map[string]backends.Amounts{}}
			}
			gang := b.view.Files[key].gang
			if waits {
				waiting = append(waiting, queued{j, node, inventory.Waiting{Components: asked(gang.Components), Tags: at.tags}})
				all[node] = out
				continue
			}
			running(&out, j, gang)
			for name, n := range gang.Licenses {
				if out.Licenses == nil {
					out.Licenses = map[string]int64{}
				}
				out.Licenses[name] += n
			}
			out.Tags = append(out.Tags, at.tags...)
			all[node] = out
		}
	}
	slices.SortFunc(waiting, func(x, y queued) int {
		return cmp.Or(x.job.Submitted.Compare(y.job.Submitted), cmp.Compare(x.job.ID, y.job.ID))
	})
	for _, q := range waiting {
		out := all[q.node]
		out.Waiting = append(out.Waiting, q.Waiting)
		all[q.node] = out
	}
	return all
}

// running adds what a job holds on its hosts. While a member has not said where
// it is, the job is spread evenly over them.
func running(out *inventory.Use, j backends.Job, gang manifest.CollectedGang) {
	requests := manifest.Requests(gang.Components)
	settled := len(requests) > 0
	held := map[string]backends.Amounts{}
	var sum backends.Amounts
	for rank, req := range requests {
		sum = plus(sum, req)
		st, ok := gang.Pods[rank]
		if !ok || st.Host == "" {
			settled = false
			continue
		}
		held[st.Host] = plus(held[st.Host], req)
	}
	if settled {
		for host, a := range held {
			out.ByHost[host] = plus(out.ByHost[host], manifest.Component{CPUs: a.CPUs, MemoryMiB: a.MemoryMiB, GPUs: a.GPUs})
		}
		return
	}
	for _, host := range j.Hosts {
		out.Unsettled[host] = true
		out.Guessed[host] = plus(out.Guessed[host], share(sum, int64(len(j.Hosts))))
	}
}

// share is one host's part of an amount, rounded up.
func share(a backends.Amounts, hosts int64) manifest.Component {
	up := func(n int64) int64 { return (n + hosts - 1) / hosts }
	out := manifest.Component{CPUs: up(a.CPUs), MemoryMiB: up(a.MemoryMiB), GPUs: map[string]int64{}}
	for t, n := range a.GPUs {
		out.GPUs[t] = up(n)
	}
	return out
}

func asked(components []manifest.Component) []backends.Component {
	out := make([]backends.Component, len(components))
	for i, c := range components {
		out[i] = backends.Component{Tasks: c.Tasks, CPUs: c.CPUs, MemoryMiB: c.MemoryMiB, GPUs: c.GPUs}
	}
	return out
}

// soleNodes gives the node of each partition that has one only. The lock must be held.
func (b *Bridge) soleNodes() map[string]string {
	out := map[string]string{}
	for name, n := range b.vnodes {
		if _, more := out[n.Partition]; more {
			name = ""
		}
		out[n.Partition] = name
	}
	return out
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
	alone := b.soleNodes()
	for key, jobs := range v.Jobs {
		at := b.places[key]
		for _, j := range jobs {
			node := cmp.Or(at.node, alone[j.Partition])
			q := out[node]
			switch {
			case j.State.Terminal():
				continue
			case j.State == backends.StatePending:
				q.PendingJobs++
				q.PendingPods += at.pods
				if !j.Estimated.IsZero() && (q.Estimated.IsZero() || j.Estimated.Before(q.Estimated)) {
					q.Estimated = j.Estimated
				}
				if !j.Held && !j.Never && j.Estimated.After(q.Last) {
					q.Last = j.Estimated
				}
			default:
				q.RunningJobs++
			}
			out[node] = q
		}
	}
	return out
}
