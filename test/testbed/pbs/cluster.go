// Package pbs runs a stand-in for OpenPBS or Torque: one server process that
// plays the scheduler and all hosts, and the commands that talk to it (see
// standin for what is real of it and what is not). Real PBS is in no Debian
// release, so that this is what tests and trials of type pbs and torque run on.
package pbs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

const (
	readyTime = 20 * time.Second
	stopGrace = 5 * time.Second
	// maxSocket is the longest path of a Unix socket.
	maxSocket = 100
)

// Host is a group of pretended hosts.
type Host struct {
	Name string `json:"name"`
	// VNodes, when more than one, makes the host of that many vnodes, each with
	// all of what follows.
	VNodes    int   `json:"vnodes,omitempty"`
	CPUs      int64 `json:"cpus"`
	MemoryMiB int64 `json:"memoryMiB"`
	GPUs      int64 `json:"gpus,omitempty"`
	// Resources of PBS, such as accelerator_model, and Properties of Torque.
	Resources  map[string]string `json:"resources,omitempty"`
	Properties []string          `json:"properties,omitempty"`
}

// Queue is an execution queue; without hosts it may use all. The first is the
// default.
type Queue struct {
	Name            string   `json:"name"`
	Hosts           []string `json:"hosts,omitempty"`
	MaxWalltime     string   `json:"maxWalltime,omitempty"`
	DefaultWalltime string   `json:"defaultWalltime,omitempty"`
	Disabled        bool     `json:"disabled,omitempty"`
	Route           bool     `json:"route,omitempty"`
}

// Config of a stand-in. Without hosts there are n1 and n2 of 4 CPUs; without
// queues there is workq.
type Config struct {
	Torque bool
	// History keeps ended jobs, which PBS does not do unless it is told to.
	History bool
	// HideOthers lets users see their own jobs only.
	HideOthers bool
	// KillDelay is the time from SIGTERM to SIGKILL; PBS's default is 10 s.
	KillDelay time.Duration
	// KeepCompleted is how long Torque lists an ended job; 0 forgets it at once.
	KeepCompleted time.Duration
	Hosts         []Host
	Queues        []Queue
	// Dir holds everything; empty makes one that Stop removes.
	Dir string
	// Detached lets the server outlive this program.
	Detached bool
	Progress io.Writer
}

// record is DIR/config.json, which the server reads.
type record struct {
	Name          string  `json:"name"`
	Torque        bool    `json:"torque"`
	History       bool    `json:"history"`
	HideOthers    bool    `json:"hideOthers"`
	KillDelay     int64   `json:"killDelay"`
	KeepCompleted int64   `json:"keepCompleted"`
	Hosts         []Host  `json:"hosts"`
	Queues        []Queue `json:"queues"`
	Temporary     bool    `json:"temporary"`
}

// Cluster is a running stand-in.
type Cluster struct {
	// Dir holds everything; StagingDir is a directory in it that every user may
	// write to, as a site's shared file system is.
	Dir, StagingDir string

	record    record
	processes *process.Group
}

// commands are the names under which the program is called.
func commands() []string {
	return []string{"qsub", "qstat", "qdel", "qrls", "qhold", "qselect", "qsig", "qrerun", "pbsnodes", "pbs_tmrsh", "pbsdsh"}
}

// Start starts a stand-in and returns once it answers. After an error nothing
// is left running. Only root can start jobs as other users; anybody else's
// stand-in runs jobs of its own account.
func Start(ctx context.Context, config Config) (_ *Cluster, err error) {
	if config.Progress == nil {
		config.Progress = io.Discard
	}
	if len(config.Hosts) == 0 {
		config.Hosts = []Host{{Name: "n1", CPUs: 4, MemoryMiB: 4000}, {Name: "n2", CPUs: 4, MemoryMiB: 4000}}
	}
	if len(config.Queues) == 0 {
		config.Queues = []Queue{{Name: "workq"}}
	}
	dir := config.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "pbs-"); err != nil {
			return nil, fmt.Errorf("start PBS stand-in: %w", err)
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("start PBS stand-in: %w", err)
	}
	c := &Cluster{Dir: dir, StagingDir: filepath.Join(dir, "staging"), record: record{
		Name: "pbs", Torque: config.Torque, History: config.History, HideOthers: config.HideOthers,
		KillDelay: config.KillDelay.Milliseconds(), KeepCompleted: config.KeepCompleted.Milliseconds(),
		Hosts: config.Hosts, Queues: config.Queues, Temporary: config.Dir == "",
	}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start PBS stand-in: %w", err), c.Stop())
		}
	}()
	if err := c.write(ctx, config.Progress); err != nil {
		return nil, err
	}
	if c.processes, err = process.Open(dir, process.Options{Tether: !config.Detached}); err != nil {
		return nil, err
	}
	return c, c.serve(ctx)
}

// write makes the directory.
func (c *Cluster) write(ctx context.Context, progress io.Writer) error {
	if len(filepath.Join(c.Dir, "control")) > maxSocket {
		return fmt.Errorf("directory %s: too long for the path of a socket", c.Dir)
	}
	for _, d := range []string{c.Dir, c.bin(), c.StagingDir} {
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
	program, err := build(ctx, progress)
	if err != nil {
		return err
	}
	// A copy: the cache may be where other users cannot go. Another program makes
	// it, since a file that we write ourselves is busy as long as a child that
	// some other test starts at that moment has it open.
	own := filepath.Join(c.bin(), "standin")
	if out, err := exec.CommandContext(ctx, "cp", "--", program, own).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the stand-in: %w: %s", err, out)
	}
	if err := os.Chmod(own, 0o755); err != nil {
		return err
	}
	for _, name := range commands() {
		if err := os.Symlink("standin", filepath.Join(c.bin(), name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	text, err := json.MarshalIndent(c.record, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Dir, "config.json"), text, 0o644)
}

func (c *Cluster) bin() string { return filepath.Join(c.Dir, "bin") }

// build builds the program into the cache.
func build(ctx context.Context, progress io.Writer) (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	cache, err := checkout.CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := checkout.Lock(ctx, filepath.Join(dir, "lock-pbs"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	b := checkout.GoBuild{Module: root, Package: "./test/testbed/pbs/standin", Output: filepath.Join(dir, "pbs-standin")}
	return b.Output, b.Run(ctx, progress, "building the PBS stand-in")
}

// serve starts the server and waits until it answers.
func (c *Cluster) serve(ctx context.Context) error {
	p, err := c.processes.Start(process.Spec{Name: "pbs", Argv: []string{filepath.Join(c.bin(), "standin"), "serve", c.Dir}})
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, readyTime)
	defer stop()
	return p.WaitReady(ctx, func(ctx context.Context) error {
		_, err := c.Run(ctx, "qstat", "-B", "-f")
		return err
	})
}

// Attach gives the stand-in that another program started in dir and did not stop.
func Attach(dir string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("attach to PBS stand-in: %w", err)
	}
	c := &Cluster{Dir: dir, StagingDir: filepath.Join(dir, "staging")}
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err == nil {
		err = json.Unmarshal(raw, &c.record)
	}
	if err == nil {
		c.processes, err = process.Open(dir, process.Options{})
	}
	if err != nil {
		return nil, fmt.Errorf("attach to PBS stand-in: %w", err)
	}
	return c, nil
}

// Env is what commands of this stand-in need in their environment.
func (c *Cluster) Env() []string {
	return []string{"PATH=" + c.bin() + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

// Run runs a command as this program's user, the manager when that is root, and
// gives its standard output. A command that fails is an error with what it said.
func (c *Cluster) Run(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin(), argv[0]), argv[1:]...)
	cmd.Env = append(c.Env(), "LC_ALL=C", "HOME=/", "TZ=UTC")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		err = fmt.Errorf("run %s: %w", strings.Join(argv, " "), err)
	}
	return string(out), err
}

// Control lets something happen to the site: "gone" and "back" (the server
// refuses connections, jobs go on), "down HOST" and "up HOST" (with all
// processes of its jobs), "history on|off", "lose COMMAND N" (carry the next N
// of that command out and lose the reply), "suspend JOB" and "resume JOB".
func (c *Cluster) Control(ctx context.Context, args ...string) error {
	_, err := c.Run(ctx, append([]string{"standin"}, args...)...)
	return err
}

// Processes are the server's.
func (c *Cluster) Processes() *process.Group { return c.processes }

// LogTails gives the end of the server's log, for people.
func (c *Cluster) LogTails(lines int) string {
	var b strings.Builder
	for _, p := range c.processes.Members() {
		fmt.Fprintf(&b, "== %s\n%s\n", p.Log, process.Tail(p.Log, lines))
	}
	return b.String()
}

// Stop ends the stand-in and its jobs, and removes the directory when Start
// made it. It may be repeated.
func (c *Cluster) Stop() error {
	var errs []error
	if c.processes != nil {
		errs = append(errs, c.processes.StopAll(stopGrace))
		_, err := process.Sweep(time.Second, c.Dir)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop PBS stand-in: %w", err)
	}
	if c.record.Temporary {
		if err := os.RemoveAll(c.Dir); err != nil {
			return fmt.Errorf("stop PBS stand-in: %w", err)
		}
	}
	return nil
}
