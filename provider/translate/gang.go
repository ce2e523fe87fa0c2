package translate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// clusterDomain ends the full DNS names of gang members.
const clusterDomain = "cluster.local"

// Gang translates. The error is a *Refusal that holds all causes found; the
// permanent ones come first.
func Gang(in Input) (Output, error) {
	g := &gang{in: in, notes: map[string]bool{}}
	members, ok := g.members()
	if !ok {
		return Output{}, g.refusal()
	}
	g.placement(members[0].Pod)
	shapes := make([]shape, len(members))
	pods := make([]manifest.Pod, len(members))
	files := make([]map[string]map[string]File, len(members))
	out := Output{Files: map[int]map[string]map[string]File{}, Ranks: map[string]int{}}
	var written int64
	for i, m := range members {
		p := g.pod(m)
		p.check()
		shapes[i] = p.shape()
		pods[i], files[i] = p.manifest(shapes[i])
		if written += size(files[i]); written > maxFileBytes {
			p.refuse("spec.volumes", "", fmt.Sprintf("the files of the gang's volumes have more than %d bytes in all; put large data on the cluster's file system and use a hostPath volume", maxFileBytes))
			break
		}
		if len(g.causes) >= maxCauses {
			break
		}
	}
	if len(g.causes) > 0 {
		return Output{}, g.refusal()
	}
	components, order := g.components(shapes)
	for rank, i := range order {
		m := members[i]
		pods[i].Rank = rank
		out.Pods = append(out.Pods, pods[i])
		if len(files[i]) > 0 {
			out.Files[rank] = files[i]
		}
		if s := g.pod(m).pullSecrets(); len(s) > 0 {
			if out.PullSecrets == nil {
				out.PullSecrets = map[int][][]byte{}
			}
			out.PullSecrets[rank] = s
		}
		out.Ranks[string(m.Pod.UID)] = rank
		out.Gang.Members = append(out.Gang.Members, manifest.Member{
			Rank: rank, Namespace: m.Pod.Namespace, Name: m.Pod.Name, UID: string(m.Pod.UID), Hostnames: hostnames(m.Pod),
		})
	}
	wall, grace := g.walltime(members), g.grace(members)
	qos, charged := g.chosen(members, g.qosChoice()), g.chosen(members, g.accountChoice())
	licenses := g.licenses(members)
	switches, switchesWait := g.switches(members)
	if switches > 0 && len(components) > 1 {
		g.note("the members of the gang ask for unequal resources: the hosts of each kind are at %d switches at most, not those of all kinds together", switches)
	}
	if len(g.causes) > 0 {
		return Output{}, g.refusal()
	}
	out.Gang.Version, out.Gang.Key, out.Gang.Attempt, out.Gang.Launcher = manifest.Version, string(in.Key), in.Attempt, in.Launcher
	out.Gang.Listen, out.Gang.Licenses = in.Listen, maps.Clone(licenses)
	out.Gang.Followed = slices.ContainsFunc(members, func(m Member) bool { return m.Pod.Annotations[wellknown.QueueEarly] == "true" })
	out.Gang.GraceSeconds = int64(grace / time.Second)
	if c := in.Cluster.Spec; c.Type != "slurm" || c.Connection.Type == "rest" {
		// The launcher watches the limit itself: only sbatch can ask for a signal to
		// the batch script (slurmrestd 22.05 refuses "B:" in "signal").
		out.Gang.LimitSeconds = int64(wall / time.Second)
	}
	for _, c := range components {
		out.Gang.Components = append(out.Gang.Components, manifest.Component{
			Tasks: c.Tasks, CPUs: c.CPUs, MemoryMiB: c.MemoryMiB, GPUs: maps.Clone(c.GPUs),
		})
	}
	excluded, host := g.hosts()
	if len(g.causes) > 0 {
		return Output{}, g.refusal()
	}
	out.Spec = backends.JobSpec{
		Key: in.Key, Owner: in.Owner, User: in.Account.User,
		Partition: in.Node.Partition, Account: cmp.Or(charged, in.Account.Account), QOS: cmp.Or(qos, in.Account.QOS, in.Node.QOS),
		Constraint: in.Node.Constraint, Reservation: in.Node.Reservation,
		ExcludedHosts: excluded, Host: host,
		Licenses: licenses, Switches: switches, SwitchesWait: switchesWait,
		Walltime: wall, Grace: grace, WorkDir: in.WorkDir, Components: components,
	}
	if err := out.Spec.Validate(); err != nil {
		g.refuse(&Refusal{Message: "the batch job cannot be made: " + strings.ReplaceAll(err.Error(), "\n", "; "), Permanent: true, Reason: ReasonInvalidSpec})
		return Output{}, g.refusal()
	}
	out.Notes, out.Events = slices.Sorted(maps.Keys(g.notes)), g.events
	return out, nil
}

// size sums the contents of a pod's files.
func size(volumes map[string]map[string]File) (n int64) {
	for _, files := range volumes {
		for _, f := range files {
			n += int64(len(f.Data))
		}
	}
	return n
}

// gang is one translation under way.
type gang struct {
	in     Input
	causes []*Refusal
	notes  map[string]bool
	events []Event
}

// maxCauses bounds how many causes are collected.
const maxCauses = 64

func (g *gang) refuse(r *Refusal) {
	if len(g.causes) < maxCauses {
		g.causes = append(g.causes, r)
	}
}

func (g *gang) refuseAll(message string) {
	g.refuse(&Refusal{Message: message, Permanent: true, Reason: ReasonInvalidSpec})
}

func (g *gang) note(format string, args ...any) {
	if len(g.notes) < maxCauses {
		g.notes[fmt.Sprintf(format, args...)] = true
	}
}

// refusal joins the causes, permanent ones first.
func (g *gang) refusal() error {
	slices.SortStableFunc(g.causes, func(a, b *Refusal) int {
		switch {
		case a.Permanent == b.Permanent:
			return 0
		case a.Permanent:
			return -1
		}
		return 1
	})
	first := *g.causes[0]
	first.Also = g.causes[1:]
	return &first
}

// members checks that the members can form one gang and sorts them by rank.
func (g *gang) members() ([]Member, bool) {
	switch {
	case g.in.Cluster == nil:
		g.refuseAll("there is no BatchCluster")
		return nil, false
	case len(g.in.Members) == 0:
		g.refuseAll("the gang has no members")
		return nil, false
	case len(g.in.Members) > backends.MaxTasks:
		g.refuseAll(fmt.Sprintf("the gang has %d members, more than %d", len(g.in.Members), backends.MaxTasks))
		return nil, false
	}
	members := slices.Clone(g.in.Members)
	uids, ranks := map[string]bool{}, map[int]bool{}
	for _, m := range members {
		switch {
		case m.Pod == nil:
			g.refuseAll(fmt.Sprintf("member %d has no pod", m.Rank))
			return nil, false
		case m.Pod.UID == "" || uids[string(m.Pod.UID)] || ranks[m.Rank]:
			g.refuseAll(fmt.Sprintf("member %d has the rank or UID of another", m.Rank))
			return nil, false
		case m.Pod.Namespace == "" || m.Pod.Namespace != members[0].Pod.Namespace:
			// The account belongs to a namespace: a gang across two would run
			// one tenant's pods as another's user.
			g.refuseAll("the members of a gang must be in one namespace")
			return nil, false
		}
		uids[string(m.Pod.UID)], ranks[m.Rank] = true, true
	}
	slices.SortFunc(members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.Pod.UID, b.Pod.UID))
	})
	return members, true
}

// placement checks what concerns the whole gang.
func (g *gang) placement(first *corev1.Pod) {
	if !g.in.Account.Allows(g.in.Node.Partition) {
		g.refuse(&Refusal{Pod: first.Namespace + "/" + first.Name, UID: string(first.UID), Permanent: true, Reason: ReasonInvalidSpec,
			Message: fmt.Sprintf("the account of namespace %s (user %s) may not use partition %s; it may use %s",
				first.Namespace, g.in.Account.User, g.in.Node.Partition, strings.Join(g.in.Account.Partitions, ", "))})
	}
	if !slices.Contains([]string{"slurm", "pbs", "torque", "local"}, g.in.Launcher) {
		g.refuseAll(fmt.Sprintf("launcher %q is not known", short(g.in.Launcher)))
	}
}

// hosts are the partition's hosts that are not part of the virtual node or, where
// the batch system cannot leave hosts out, the one that is left, if it is one. That
// a configuration does not fit the batch system is no fault of the pod, which waits.
func (g *gang) hosts() (excluded []string, only string) {
	n := &g.in.Node
	if len(n.IncludeHosts) == 0 && len(n.ExcludeHosts) == 0 {
		return nil, ""
	}
	wait := func(reason, format string, args ...any) {
		g.refuse(&Refusal{Reason: reason, Message: fmt.Sprintf("node %s: includeHosts, excludeHosts: ", n.Name) + fmt.Sprintf(format, args...)})
	}
	if len(g.in.Partition.Hosts) == 0 {
		wait("PartitionNotKnown", "the hosts of partition %s are not known yet", n.Partition)
		return nil, ""
	}
	out := slices.DeleteFunc(slices.Clone(g.in.Partition.Hosts), n.Includes)
	switch {
	case len(out) == len(g.in.Partition.Hosts):
		wait("PartitionNotUsable", "they leave none of the %d hosts of partition %s", len(out), n.Partition)
	case len(out) > 0 && !g.in.Capabilities.ExcludeHosts && g.in.Capabilities.OneHost && len(out) == len(g.in.Partition.Hosts)-1:
		return nil, g.in.Partition.Hosts[slices.IndexFunc(g.in.Partition.Hosts, n.Includes)]
	case len(out) > 0 && !g.in.Capabilities.ExcludeHosts:
		wait("HostsNotSupported", "this batch system cannot keep a job off hosts, unless one is left; leave both out, and use a queue with the hosts that are wanted, or a constraint that only they meet")
	}
	slices.Sort(out)
	return slices.Compact(out), ""
}

// runtimes are those that the cluster allows, host being the default.
func runtimes(c *hpcv1alpha1.BatchCluster) []hpcv1alpha1.Runtime {
	if len(c.Spec.Runtimes) == 0 {
		return []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost}
	}
	return c.Spec.Runtimes
}

// pod is one member under translation.
type pod struct {
	*gang
	Member
	name string
}

func (g *gang) pod(m Member) *pod {
	return &pod{gang: g, Member: m, name: m.Pod.Namespace + "/" + m.Pod.Name}
}

// refuse notes a permanent cause with its field.
func (p *pod) refuse(field, value, message string) {
	p.gang.refuse(&Refusal{Pod: p.name, UID: string(p.Pod.UID), Field: field, Value: short(value), Message: message,
		Permanent: true, Reason: ReasonInvalidSpec})
}

// event notes a warning that a kubelet gives as well.
func (p *pod) event(reason, message string) {
	if len(p.events) < maxCauses {
		p.events = append(p.events, Event{UID: string(p.Pod.UID), Reason: reason, Message: message})
	}
}

// wait notes a cause that may pass.
func (p *pod) wait(reason, field, message string) {
	p.gang.refuse(&Refusal{Pod: p.name, UID: string(p.Pod.UID), Field: field, Message: message, Reason: reason})
}

// short bounds what is quoted from a pod.
func short(s string) string {
	s = strings.ToValidUTF8(s, "?")
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// hostname is what the pod is called on its node, as a kubelet decides it.
func hostname(p *corev1.Pod) string {
	name := p.Name
	if p.Spec.Hostname != "" {
		name = p.Spec.Hostname
	}
	if len(name) > validation.DNS1123LabelMaxLength {
		name = strings.TrimRight(name[:validation.DNS1123LabelMaxLength], "-.")
	}
	return name
}

// hostnames are the names under which the others find the member.
func hostnames(p *corev1.Pod) []string {
	host := hostname(p)
	names := []string{host}
	if sub := p.Spec.Subdomain; sub != "" {
		full := host + "." + sub + "." + p.Namespace
		names = append(names, host+"."+sub, full, full+".svc", full+".svc."+clusterDomain)
	}
	return names
}
