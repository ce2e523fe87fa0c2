// Package slurm runs a real Slurm cluster on this machine: munged, slurmctld
// and one slurmd for each host, all in one directory, all on ports of their own,
// so that several clusters run side by side. Each host has an address of its
// own in 127/8: programs of different hosts may listen on the same port.
//
// GPUs are names only: their device files are links to /dev/null. CPU and
// memory figures are what the configuration says, not what the machine has.
//
// It needs root, since Slurm starts jobs as their users. It knows nothing of
// Isthmus.
package slurm

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Hosts is a group of equal hosts, named Prefix1, Prefix2 and so on.
type Hosts struct {
	Prefix    string
	Count     int
	CPUs      int
	MemoryMiB int
	GPUType   string // GRES type; "" with GPUs is an untyped GPU
	GPUs      int
	Shards    int // of all GPUs of a host together (GRES shard); needs GPUs
	Features  []string
}

// Partition is a set of host groups.
type Partition struct {
	Name    string
	Hosts   []string // host names or Slurm lists of them
	Default bool
	MaxTime string // in Slurm's format; "" is unlimited
	Extra   string // further options of the PartitionName line
}

// Config of a cluster. The zero value is usable: four hosts of 64 CPUs and 8
// a100 GPUs, partitions "a" (gpu1, gpu2; default) and "b" (gpu3, gpu4).
type Config struct {
	// Name is Slurm's cluster name and the prefix of the process names; "" is "testbed".
	Name string
	// Dir holds everything. Users must be able to walk into it. "" makes one
	// below the system's temporary directory, removed by Stop.
	Dir string
	// Detached lets the cluster outlive this program; Attach finds it again.
	Detached   bool
	Hosts      []Hosts
	Partitions []Partition
	// MinJobAge is how long ended jobs stay known; 0 is five minutes. Slurm adds up to a minute.
	MinJobAge time.Duration
	// KillWait is from the terminate to the kill signal; 0 is 5 s.
	KillWait time.Duration
	// Accounting adds an accounting database, so that sacct and sacctmgr work:
	// slurmdbd and a mariadbd of the cluster's own. The users of the testbed are
	// known to it with the account AccountName. Nothing is enforced: other users'
	// jobs run and are recorded, too. It takes the programs that
	// EnsureAccountingInstalled installs, some 50 MiB
	// of disk, 100 MiB of memory and 5 s more to start.
	Accounting bool
	// REST adds slurmrestd on a Unix socket and a loopback port, with tokens
	// (auth/jwt) as the only way in. It takes the programs that
	// EnsureRESTInstalled installs.
	REST bool
	// Networks gives every host a network namespace and an address of its own
	// there, joined by a bridge: programs of different hosts meet over a real
	// network, and a port of one host is no other's. The hosts have their names,
	// too, and know each other's. It takes the programs that
	// EnsureNetworksInstalled installs.
	Networks bool
	// LimitMemory keeps jobs to the memory they ask for, by cgroups: see MemoryLimited.
	// No other cluster on the machine may have it and hosts of the same names.
	LimitMemory bool
	// KillOverMemory has Slurm itself end steps that are seen to use more memory than
	// their job asked for (OverMemoryKill), as sites without cgroups do. It looks each
	// second.
	KillOverMemory bool
	// Licenses that jobs may ask for, by name.
	Licenses map[string]int
	// Switches are hosts by the switch that they are at, with one switch above all;
	// nil is no topology.
	Switches map[string][]string
	// Extra lines for slurm.conf.
	Extra []string
	// KeepFiles leaves a directory that Start made in place after Stop.
	KeepFiles bool
	// Progress tells people what is waited for; nil is silence.
	Progress io.Writer
}

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9]{0,30}$`)

func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = "testbed"
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []Hosts{{Prefix: "gpu", Count: 4, CPUs: 64, MemoryMiB: 500000, GPUType: "a100", GPUs: 8}}
	}
	if len(c.Partitions) == 0 {
		names := c.hostNames()
		half := (len(names) + 1) / 2
		c.Partitions = []Partition{{Name: "a", Hosts: names[:half], Default: true}}
		if half < len(names) {
			c.Partitions = append(c.Partitions, Partition{Name: "b", Hosts: names[half:]})
		}
	}
	if c.MinJobAge == 0 {
		c.MinJobAge = 5 * time.Minute
	}
	if c.KillWait == 0 {
		c.KillWait = 5 * time.Second
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if !nameForm.MatchString(c.Name) {
		return c, fmt.Errorf("cluster name %q: want a short lower-case word", c.Name)
	}
	for _, h := range c.Hosts {
		if !nameForm.MatchString(h.Prefix) || h.Count < 1 || h.CPUs < 1 || h.MemoryMiB < 1 || h.GPUs < 0 {
			return c, fmt.Errorf("host group %+v: prefix, count, CPUs and memory are required", h)
		}
	}
	if n := len(c.hostNames()); n > maxHosts {
		return c, fmt.Errorf("%d hosts, more than %d", n, maxHosts)
	}
	return c, nil
}

func (c Config) hostNames() []string {
	var out []string
	for _, h := range c.Hosts {
		for i := range h.Count {
			out = append(out, fmt.Sprintf("%s%d", h.Prefix, i+1))
		}
	}
	return out
}

// layout is where a cluster's files are.
type layout struct{ dir string }

func (l layout) conf() string             { return filepath.Join(l.dir, "slurm.conf") }
func (l layout) hosts() string            { return filepath.Join(l.dir, "hosts") }
func (l layout) gres() string             { return filepath.Join(l.dir, "gres.conf") }
func (l layout) topology() string         { return filepath.Join(l.dir, "topology.conf") }
func (l layout) cgroup() string           { return filepath.Join(l.dir, "cgroup.conf") }
func (l layout) munge(f string) string    { return filepath.Join(l.dir, "munge", f) }
func (l layout) slurmdbd() string         { return filepath.Join(l.dir, "slurmdbd.conf") }
func (l layout) database(f string) string { return filepath.Join(l.dir, "database", f) }
func (l layout) state() string            { return filepath.Join(l.dir, "state") }
func (l layout) spool(h string) string    { return filepath.Join(l.dir, "spool", h) }
func (l layout) device(i string) string   { return filepath.Join(l.dir, "dev", "nvidia"+i) }
func (l layout) staging() string          { return filepath.Join(l.dir, "staging") }
func (l layout) tokenKey() string         { return filepath.Join(l.dir, "jwt.key") }
func (l layout) restSocket() string       { return filepath.Join(l.dir, "rest", "socket") }
func (l layout) record() string           { return filepath.Join(l.dir, "cluster.json") }

// slurmConf writes the configuration for the given place.
func (c Config) slurmConf(l layout, at place) string {
	lines := []string{
		"ClusterName=" + c.Name,
		fmt.Sprintf("SlurmctldHost=localhost(%s)", at.controller()),
		fmt.Sprintf("SlurmctldPort=%d", at.Port),
		"AuthType=auth/munge", "CredType=cred/munge",
		"AuthInfo=socket=" + l.munge("socket"),
		"SlurmUser=root", "SlurmdUser=root",
		"StateSaveLocation=" + l.state(),
		"SlurmdSpoolDir=" + l.spool("%n"),
		"SlurmctldPidFile=" + filepath.Join(l.dir, "slurmctld.pid"),
		"SlurmdPidFile=" + l.spool("%n") + "/slurmd.pid",
		// The machine has fewer CPUs and less memory than the hosts claim.
		"SlurmdParameters=config_overrides",
		"ProctrackType=proctrack/linuxproc", "TaskPlugin=" + c.taskPlugin(),
		"JobAcctGatherType=" + c.gatherType(),
		"MpiDefault=none", "SwitchType=switch/none",
		"SelectType=select/cons_tres", "SelectTypeParameters=CR_Core_Memory",
		"GresTypes=" + c.gresTypes(),
		"SchedulerType=sched/backfill",
		// Het jobs start in the backfill pass only, 30 s apart by default.
		"SchedulerParameters=bf_interval=1,bf_resolution=1,batch_sched_delay=0,sched_min_interval=10000",
		// Without it a job that asks for no memory takes its host's whole memory.
		"DefMemPerCPU=100",
		fmt.Sprintf("KillWait=%d", int(c.KillWait.Seconds())),
		fmt.Sprintf("MinJobAge=%d", int(c.MinJobAge.Seconds())),
		"InactiveLimit=0", "ReturnToService=2", "SlurmctldTimeout=10", "SlurmdTimeout=30", "MessageTimeout=10",
	}
	if c.Accounting {
		lines = append(lines, "AccountingStorageType=accounting_storage/slurmdbd",
			"AccountingStorageHost="+at.controller(), fmt.Sprintf("AccountingStoragePort=%d", at.accounting()),
			// Towards slurmdbd munge's socket is taken from here, not from AuthInfo.
			"AccountingStoragePass="+l.munge("socket"),
			"AccountingStorageTRES=gres/gpu")
	} else {
		lines = append(lines, "AccountingStorageType=accounting_storage/none")
	}
	if c.KillOverMemory {
		lines = append(lines, "JobAcctGatherFrequency=task=1", "JobAcctGatherParams=OverMemoryKill")
	}
	if c.REST {
		lines = append(lines, restConf(l)...)
	}
	if len(c.Licenses) > 0 {
		var all []string
		for _, name := range slices.Sorted(maps.Keys(c.Licenses)) {
			all = append(all, fmt.Sprintf("%s:%d", name, c.Licenses[name]))
		}
		lines = append(lines, "Licenses="+strings.Join(all, ","))
	}
	if len(c.Switches) > 0 {
		lines = append(lines, "TopologyPlugin=topology/tree")
	}
	n := 0
	for _, h := range c.Hosts {
		for i := range h.Count {
			line := fmt.Sprintf("NodeName=%s%d NodeHostname=localhost NodeAddr=%s Port=%d CPUs=%d Boards=1 SocketsPerBoard=1 CoresPerSocket=%d ThreadsPerCore=1 RealMemory=%d",
				h.Prefix, i+1, at.host(n), at.Port+1+n, h.CPUs, h.CPUs, h.MemoryMiB)
			if h.GPUs > 0 {
				line += fmt.Sprintf(" Gres=gpu:%s%d", typed(h.GPUType), h.GPUs)
				if h.Shards > 0 {
					line += fmt.Sprintf(",shard:%d", h.Shards)
				}
			}
			if len(h.Features) > 0 {
				line += " Feature=" + strings.Join(h.Features, ",")
			}
			lines = append(lines, line)
			n++
		}
	}
	for _, p := range c.Partitions {
		line := fmt.Sprintf("PartitionName=%s Nodes=%s State=UP", p.Name, strings.Join(p.Hosts, ","))
		if p.Default {
			line += " Default=YES"
		}
		if p.MaxTime != "" {
			line += " MaxTime=" + p.MaxTime
		}
		lines = append(lines, strings.TrimSpace(line+" "+p.Extra))
	}
	return strings.Join(append(lines, c.Extra...), "\n") + "\n"
}

func typed(gpuType string) string {
	if gpuType == "" {
		return ""
	}
	return gpuType + ":"
}

func (c Config) taskPlugin() string {
	if c.LimitMemory {
		return "task/cgroup"
	}
	return "task/none"
}

func (c Config) gatherType() string {
	if c.KillOverMemory {
		return "jobacct_gather/linux"
	}
	return "jobacct_gather/none"
}

func (c Config) gresTypes() string {
	if slices.ContainsFunc(c.Hosts, func(h Hosts) bool { return h.Shards > 0 }) {
		return "gpu,shard"
	}
	return "gpu"
}

func (c Config) gresConf(l layout) string {
	var b strings.Builder
	for _, h := range c.Hosts {
		if h.GPUs == 0 {
			continue
		}
		fmt.Fprintf(&b, "NodeName=%s[1-%d] Name=gpu", h.Prefix, h.Count)
		if h.GPUType != "" {
			b.WriteString(" Type=" + h.GPUType)
		}
		fmt.Fprintf(&b, " File=%s\n", l.device(fmt.Sprintf("[0-%d]", h.GPUs-1)))
		if h.Shards > 0 {
			fmt.Fprintf(&b, "NodeName=%s[1-%d] Name=shard Count=%d\n", h.Prefix, h.Count, h.Shards)
		}
	}
	return b.String()
}

// topologyConf says which hosts are at which switch.
func (c Config) topologyConf() string {
	var b strings.Builder
	names := slices.Sorted(maps.Keys(c.Switches))
	for _, name := range names {
		fmt.Fprintf(&b, "SwitchName=%s Nodes=%s\n", name, strings.Join(c.Switches[name], ","))
	}
	fmt.Fprintf(&b, "SwitchName=top Switches=%s\n", strings.Join(names, ","))
	return b.String()
}

// errNotRoot says what a cluster needs.
var errNotRoot = errors.New("a real Slurm cluster needs root, because Slurm starts each job as its user")
