package slurm

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

const (
	// readyTime is how long a cluster may take to come up; it takes 2 s when idle.
	readyTime = 30 * time.Second
	stopGrace = 5 * time.Second
	// maxSocket is the longest path of a Unix socket.
	maxSocket = 100
)

// record is what Attach needs to know.
type record struct {
	Name       string `json:"name"`
	Place      place  `json:"place"`
	Hosts      []host `json:"hosts"`
	Temporary  bool   `json:"temporary"` // Stop removes the directory
	REST       bool   `json:"rest,omitempty"`
	Accounting bool   `json:"accounting,omitempty"`
	Confined   bool   `json:"confined,omitempty"` // see Config.LimitMemory
}

type host struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// Cluster is a running cluster. Its methods may be called from several
// goroutines, but not while it stops.
type Cluster struct {
	// Dir holds everything; StagingDir is a directory in it that every user may
	// write to, as a site's shared file system is.
	Dir, StagingDir string

	layout    layout
	record    record
	processes *process.Group
}

// Start starts a cluster and returns once all its hosts are ready. After an
// error nothing is left running; the error tells the ends of the logs.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("start Slurm: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("start Slurm: %w", errNotRoot)
	}
	needed := []func() error{plain().Installed}
	if config.Accounting {
		needed = append(needed, withAccounting().Installed)
	}
	if config.REST {
		needed = append(needed, withREST().Installed)
	}
	if config.LimitMemory {
		needed = append(needed, MemoryLimited)
	}
	for _, installed := range needed {
		if err := installed(); err != nil {
			return nil, fmt.Errorf("start Slurm: %w", err)
		}
	}
	for range 3 {
		var c *Cluster
		c, err = start(ctx, config)
		if err == nil {
			return c, nil
		}
		// Between looking for free ports and taking them another program may be faster.
		if ctx.Err() != nil || !strings.Contains(err.Error(), "Address already in use") {
			break
		}
		fmt.Fprintln(config.Progress, "another program took the ports; trying others")
	}
	return nil, fmt.Errorf("start Slurm: %w", err)
}

func start(ctx context.Context, config Config) (_ *Cluster, err error) {
	c, err := prepare(config)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
		}
	}()
	limit := readyTime
	if config.Accounting {
		limit += databaseTime
	}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	if config.Networks {
		if err := c.makeNetworks(ctx); err != nil {
			return nil, err
		}
	}
	if err := c.startMunge(ctx); err != nil {
		return nil, err
	}
	// Before the controller, so that it is stopped after it: a controller that
	// ends hands over what it has not yet recorded.
	if config.Accounting {
		if err := c.startAccounting(ctx); err != nil {
			return nil, err
		}
	}
	if err := c.StartController(ctx); err != nil {
		return nil, err
	}
	for _, h := range c.record.Hosts {
		if err := c.startDaemon(h.Name); err != nil {
			return nil, err
		}
	}
	if err := c.waitHosts(ctx, c.HostNames()...); err != nil {
		return nil, err
	}
	if config.REST {
		if err := c.StartREST(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// prepare writes all files.
func prepare(config Config) (*Cluster, error) {
	names := config.hostNames()
	at, err := findPlace(len(names))
	if err != nil {
		return nil, err
	}
	at.Networks = config.Networks
	c := &Cluster{record: record{Name: config.Name, Place: at, REST: config.REST, Accounting: config.Accounting, Confined: config.LimitMemory}}
	for i, n := range names {
		c.record.Hosts = append(c.record.Hosts, host{Name: n, Address: at.host(i)})
	}
	dir := config.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "slurm-"); err != nil {
			return nil, err
		}
		c.record.Temporary = !config.KeepFiles
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	c.at(dir)
	if err := c.write(config); err != nil {
		if c.record.Temporary {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return nil, err
	}
	c.processes, err = process.Open(dir, process.Options{Tether: !config.Detached})
	return c, err
}

func (c *Cluster) at(dir string) {
	c.Dir, c.layout = dir, layout{dir}
	c.StagingDir = c.layout.staging()
}

func (c *Cluster) write(config Config) error {
	l := c.layout
	if max(len(l.munge("socket")), len(l.database("socket")), len(l.restSocket())) > maxSocket {
		return fmt.Errorf("directory %s: too long for the path of a socket", c.Dir)
	}
	dirs := []string{c.Dir, l.munge(""), l.state(), l.spool(""), filepath.Dir(l.device("")), c.StagingDir}
	most := 0
	for _, h := range config.Hosts {
		most = max(most, h.GPUs)
	}
	for _, h := range c.record.Hosts {
		dirs = append(dirs, l.spool(h.Name))
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		// Whatever the umask: jobs of all users walk through here.
		if err := os.Chmod(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(c.StagingDir, 0o777|os.ModeSticky); err != nil {
		return err
	}
	if config.Accounting {
		if err := c.writeAccounting(config); err != nil {
			return err
		}
	}
	if config.REST {
		if err := c.writeREST(); err != nil {
			return err
		}
	}
	if err := traversable(c.Dir); err != nil {
		return err
	}
	for i := range most {
		// Slurm wants device files; a link to one will do.
		if err := os.Symlink("/dev/null", l.device(strconv.Itoa(i))); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	key := make([]byte, 128)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(c.record, "", "  ")
	if err != nil {
		return err
	}
	cgroup, err := config.cgroupConf()
	if err != nil {
		return err
	}
	known := "127.0.0.1\tlocalhost\n"
	for _, h := range c.record.Hosts {
		known += h.Address + "\t" + h.Name + "\n"
	}
	return errors.Join(
		os.WriteFile(l.hosts(), []byte(known), 0o644),
		os.WriteFile(l.munge("key"), key, 0o400),
		os.WriteFile(l.conf(), []byte(config.slurmConf(l, c.record.Place)), 0o644),
		os.WriteFile(l.gres(), []byte(config.gresConf(l)), 0o644),
		os.WriteFile(l.cgroup(), []byte(cgroup), 0o644),
		os.WriteFile(l.topology(), []byte(config.topologyConf()), 0o644),
		os.WriteFile(l.record(), raw, 0o644),
	)
}

// traversable says which directory above dir keeps other users out.
func traversable(dir string) error {
	for d := dir; ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("directory %s keeps other users out (%s); jobs run as other users and must get through it", d, info.Mode())
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

// Attach gives the cluster that another program started in dir and did not
// stop, running or not.
func Attach(dir string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("attach to Slurm: %w", err)
	}
	c := &Cluster{}
	c.at(dir)
	raw, err := os.ReadFile(c.layout.record())
	if err != nil {
		return nil, fmt.Errorf("attach to Slurm: %w", err)
	}
	if err := json.Unmarshal(raw, &c.record); err != nil {
		return nil, fmt.Errorf("attach to Slurm: parse %s: %w", c.layout.record(), err)
	}
	// What Attach starts later was asked for by a short-lived program and
	// stays, as what it found does.
	if c.processes, err = process.Open(dir, process.Options{}); err != nil {
		return nil, fmt.Errorf("attach to Slurm: %w", err)
	}
	return c, nil
}

// Env is what commands of this cluster need in their environment.
func (c *Cluster) Env() []string {
	return []string{"SLURM_CONF=" + c.layout.conf(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

// Name is Slurm's name of the cluster.
func (c *Cluster) Name() string { return c.record.Name }

// HostNames lists all hosts in the order of the configuration.
func (c *Cluster) HostNames() []string {
	var out []string
	for _, h := range c.record.Hosts {
		out = append(out, h.Name)
	}
	return out
}

// Address is the network address of a host, "" when there is none of the name.
func (c *Cluster) Address(name string) string {
	if i := slices.IndexFunc(c.record.Hosts, func(h host) bool { return h.Name == name }); i >= 0 {
		return c.record.Hosts[i].Address
	}
	return ""
}

// Run runs a command of Slurm as its administrator and gives its standard
// output. A command that fails is an error with what it said.
func (c *Cluster) Run(ctx context.Context, argv ...string) (string, error) {
	path, err := debian.Find(argv[0])
	if err != nil {
		return "", fmt.Errorf("run %s: %w", argv[0], err)
	}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Env = append(c.Env(), "LC_ALL=C", "HOME=/")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, lastLines(exit.Stderr, 5))
	}
	if err != nil {
		err = fmt.Errorf("run %s: %w", strings.Join(argv, " "), err)
	}
	return string(out), err
}

// LogTails gives the last lines of every log, for people.
func (c *Cluster) LogTails(lines int) string {
	var b strings.Builder
	for _, p := range c.processes.Members() {
		fmt.Fprintf(&b, "== %s\n%s\n", p.Log, process.Tail(p.Log, lines))
	}
	return b.String()
}
