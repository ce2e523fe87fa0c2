package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

const controller = "slurmctld"

func (c *Cluster) daemon(name, program string, args ...string) (*process.Process, error) {
	return c.daemonWith(nil, name, program, args...)
}

func (c *Cluster) daemonWith(env []string, name, program string, args ...string) (*process.Process, error) {
	path, err := debian.Find(program)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c.processes.Start(process.Spec{Name: name, Argv: append([]string{path}, args...), Env: append(c.Env(), env...)})
}

// startMunge starts the authentication service with a key and a socket of the
// cluster's own.
func (c *Cluster) startMunge(ctx context.Context) error {
	l := c.layout
	p, err := c.daemon("munged", "munged", "--foreground",
		"--force", // runs as root, which munged warns of
		"--key-file="+l.munge("key"), "--socket="+l.munge("socket"), "--pid-file="+l.munge("pid"),
		"--log-file="+l.munge("log"), "--seed-file="+l.munge("seed"))
	if err != nil {
		return err
	}
	return p.WaitReady(ctx, func(context.Context) error {
		_, err := os.Stat(l.munge("socket"))
		return err
	})
}

// StartController starts slurmctld with the state it left, and returns once it
// answers.
func (c *Cluster) StartController(ctx context.Context) error {
	p, err := c.daemon(controller, controller, "-D", "-f", c.layout.conf())
	if err != nil {
		return err
	}
	return p.WaitReady(ctx, func(ctx context.Context) error {
		ctx, stop := context.WithTimeout(ctx, 2*time.Second)
		defer stop()
		out, err := c.Run(ctx, "scontrol", "ping")
		if err == nil && !strings.Contains(out, "is UP") {
			err = errors.New(strings.TrimSpace(out))
		}
		return err
	})
}

// StopController ends slurmctld in order: no command gets an answer until
// StartController. Jobs go on.
func (c *Cluster) StopController() error {
	if p := c.processes.Find(controller); p != nil {
		return p.Stop(stopGrace)
	}
	return nil
}

// KillController ends slurmctld as a crash would. It saves its state every few
// seconds: jobs younger than that are lost for good, though they may run.
func (c *Cluster) KillController() error {
	if p := c.processes.Find(controller); p != nil {
		return p.Kill()
	}
	return nil
}

func daemonOf(host string) string { return "slurmd-" + host }

// stepMarker is the environment variable that slurmd hands on to its step
// daemons and they to nobody; Slurm itself marks a job's processes only.
const stepMarker = "ISTHMUS_TESTBED_HOST"

// becomeHost gives what it starts a host name of its own, and a hosts file that
// knows all of them: programs look their own address up by their host's name.
const becomeHost = `hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"`

func (c *Cluster) startDaemon(host string) error {
	program, args := "slurmd", []string{"-D", "-N", host, "-f", c.layout.conf()}
	if c.record.Place.Networks { // nsenter becomes the daemon: the process stays the same
		path, err := debian.Find(program)
		if err != nil {
			return fmt.Errorf("start host %s: %w", host, err)
		}
		// Unlike "ip netns exec" it leaves /sys alone, where Slurm looks for cgroups.
		program, args = "nsenter", slices.Concat([]string{"--net=/run/netns/" + c.networkOf(host),
			"unshare", "--uts", "--mount", "/bin/sh", "-c", becomeHost, "sh", host, c.layout.hosts(), path}, args)
	}
	_, err := c.daemonWith([]string{stepMarker + "=" + host}, daemonOf(host), program, args...)
	return err
}

// StartHost brings a stopped host back and returns once it is ready.
func (c *Cluster) StartHost(ctx context.Context, host string) error {
	if c.Address(host) == "" {
		return fmt.Errorf("start host %q: no such host", host)
	}
	if err := c.startDaemon(host); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, readyTime)
	defer stop()
	return c.waitHosts(ctx, host)
}

// StopHost kills a host: its slurmd and all its jobs' processes at once, as a
// loss of power would. Slurm finds out by itself after a while.
func (c *Cluster) StopHost(host string) error {
	p := c.processes.Find(daemonOf(host))
	if p == nil {
		return fmt.Errorf("stop host %q: no such host", host)
	}
	if err := p.Kill(); err != nil {
		return err
	}
	return c.killJobs(func(j jobProcess) bool { return j.host == host })
}

// waitHosts waits until the hosts have registered and may take jobs.
func (c *Cluster) waitHosts(ctx context.Context, names ...string) error {
	for _, name := range names {
		p := c.processes.Find(daemonOf(name))
		err := p.WaitReady(ctx, func(ctx context.Context) error {
			out, err := c.Run(ctx, "scontrol", "-o", "show", "node", name)
			if err != nil {
				return err
			}
			fields := strings.Fields(out)
			state := ""
			for _, f := range fields {
				if v, ok := strings.CutPrefix(f, "State="); ok {
					state = v
				}
			}
			// A host shows as idle before it has registered.
			if slices.Contains(fields, "SlurmdStartTime=None") || !slices.Contains([]string{"IDLE", "MIXED", "ALLOCATED"}, state) {
				return fmt.Errorf("host %s is %s", name, state)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%w\n%s", err, c.LogTails(8))
		}
	}
	return nil
}

// Stop ends the cluster, its jobs too, and removes the directory when Start
// made it, in a few seconds. It may be called again after an error. A cluster
// that is stopped already is no error. It does its work to the end even when
// ctx, which only completes the usual shape of such a method, has ended: it is
// what a test calls when its own time is over.
func (c *Cluster) Stop(ctx context.Context) error {
	var errs []error
	if c.processes != nil {
		// Jobs are not children of slurmd: they would outlive it.
		errs = append(errs, c.processes.StopAll(stopGrace))
		_, err := process.Sweep(time.Second, c.Dir)
		errs = append(errs, err, c.killJobs(func(jobProcess) bool { return true }))
		deadline := time.Now().Add(stopGrace)
		for left := c.jobProcesses(); len(left) > 0; left = c.jobProcesses() {
			if time.Now().After(deadline) {
				errs = append(errs, fmt.Errorf("stop Slurm: %d processes of jobs are still there, first %d", len(left), left[0].PID))
				break
			}
			<-time.After(20 * time.Millisecond) // they are not our children
		}
	}
	if c.record.Confined {
		errs = append(errs, c.removeCgroups())
	}
	if c.record.Place.Networks {
		errs = append(errs, c.removeNetworks(context.WithoutCancel(ctx)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if c.record.Temporary {
		if err := os.RemoveAll(c.Dir); err != nil {
			return fmt.Errorf("stop Slurm: %w", err)
		}
	}
	return nil
}

// jobProcess is a process that Slurm started, or a child of one.
type jobProcess struct {
	process.Identity
	host string
	step bool // a step daemon
}

// jobProcesses finds them by the configuration in their environment, which
// Slurm's step daemons, all jobs and commands that talk to the cluster carry.
func (c *Cluster) jobProcesses() []jobProcess {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	daemons := c.processes.Members()
	var out []jobProcess
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || slices.ContainsFunc(daemons, func(p *process.Process) bool { return p.PID == pid }) {
			continue
		}
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		vars := bytes.Split(env, []byte{0})
		if !slices.ContainsFunc(vars, func(v []byte) bool { return string(v) == "SLURM_CONF="+c.layout.conf() }) {
			continue
		}
		id, err := process.Identify(pid)
		if err != nil || !id.Alive() {
			continue
		}
		j := jobProcess{Identity: id}
		for _, v := range vars {
			if name, ok := bytes.CutPrefix(v, []byte("SLURMD_NODENAME=")); ok {
				j.host = string(name)
			}
			if name, ok := bytes.CutPrefix(v, []byte(stepMarker+"=")); ok {
				j.host, j.step = string(name), true
			}
		}
		out = append(out, j)
	}
	// Step daemons first: one that sees its job die would still report the end.
	slices.SortStableFunc(out, func(a, b jobProcess) int {
		switch {
		case a.step == b.step:
			return a.PID - b.PID
		case a.step:
			return -1
		}
		return 1
	})
	return out
}

// killJobs kills the processes that match.
func (c *Cluster) killJobs(match func(jobProcess) bool) error {
	for _, j := range c.jobProcesses() {
		if !match(j) {
			continue
		}
		p, err := os.FindProcess(j.PID)
		if err != nil {
			continue
		}
		if j.Alive() {
			err = p.Kill()
		}
		_ = p.Release()
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("kill process %d of a job: %w", j.PID, err)
		}
	}
	return nil
}
