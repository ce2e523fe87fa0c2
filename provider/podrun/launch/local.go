package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
)

// Variables that this program and backends/local agree on.
const (
	// TasksVariable says where each task runs: a JSON list of localTask.
	TasksVariable = "ISTHMUS_LOCAL_TASKS"
	// RestartVariable is the batch job's restart count where Slurm's own
	// variable does not say it.
	RestartVariable = "ISTHMUS_RESTART_COUNT"
)

// localTask is where one member runs.
type localTask struct {
	Rank int    `json:"rank"`
	Host string `json:"host"`
	GPUs []int  `json:"gpus"`
	// Addr is the host's address; "" is loopback.
	Addr string `json:"addr,omitempty"`
}

// killWait bounds the wait for what members have left behind.
const killWait = 10 * time.Second

func localTasks(env []string) (map[int]localTask, error) {
	text := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, TasksVariable+"="); ok {
			text = v
		}
	}
	tasks := map[int]localTask{}
	if text == "" {
		return tasks, nil
	}
	var list []localTask
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("decode %s: %w", TasksVariable, err)
	}
	for _, t := range list {
		tasks[t.Rank] = t
	}
	return tasks, nil
}

// localAddresses gives every host its address: all are this machine.
func localAddresses(env []string) (map[string]string, error) {
	tasks, err := localTasks(env)
	if err != nil {
		return nil, err
	}
	out := map[string]string{"localhost": "127.0.0.1"}
	for rank, t := range tasks {
		if t.Host == "" {
			continue
		}
		out[t.Host] = "127.0.0.1"
		if t.Addr != "" {
			if _, err := netip.ParseAddr(t.Addr); err != nil {
				return nil, fmt.Errorf("decode %s: address of task %d: %w", TasksVariable, rank, err)
			}
			out[t.Host] = t.Addr
		}
	}
	return out, nil
}

// startLocal runs the members as children on this machine.
func startLocal(ctx context.Context, o Options, g *manifest.Gang) error {
	tasks, err := localTasks(o.Env)
	if err != nil {
		return err
	}
	all := make([]child, 0, len(g.Members))
	for _, m := range g.Members {
		t := tasks[m.Rank]
		if t.Host == "" {
			t.Host = "localhost"
		}
		args := append([]string{"pod", "--rank=" + strconv.Itoa(m.Rank), "--host=" + t.Host}, o.PodArgs...)
		cmd := exec.Command("/proc/self/exe", append(args, ".")...)
		cmd.Args[0] = "podrun"
		cmd.Dir, cmd.Env = o.Dir, localEnv(o.Env, t.GPUs, o.Restart)
		all = append(all, child{cmd: cmd, rank: m.Rank, terminate: true})
	}
	return runChildren(o, all)
}

// child is a process that runs a member, or stands for one that runs elsewhere.
type child struct {
	cmd  *exec.Cmd
	rank int
	// terminate passes the terminate signal on to it.
	terminate bool
	// session gives it a session of its own instead of only a process group.
	session bool
}

// runChildren starts all children and waits for them, and for what they left.
func runChildren(o Options, all []child) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of orphans: %w", err)
	}
	// The members die with this thread: it stays until they have ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var started []child
	var errs []error
	for _, c := range all {
		c.cmd.Stdout, c.cmd.Stderr = o.Stdout, o.Stderr
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: !c.session, Setsid: c.session, Pdeathsig: syscall.SIGKILL}
		if err := c.cmd.Start(); err != nil {
			errs = append(errs, fmt.Errorf("start rank %d: %w", c.rank, err))
			continue
		}
		started = append(started, c)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, c := range started {
		wg.Go(func() {
			if err := c.cmd.Wait(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	ended := make(chan struct{})
	var forward sync.WaitGroup
	forward.Go(func() {
		select {
		case <-o.Terminate:
			for _, c := range started {
				if c.terminate {
					_ = c.cmd.Process.Signal(syscall.SIGTERM) // one that has ended needs none
				}
			}
		case <-ended:
		}
	})
	wg.Wait()
	close(ended)
	forward.Wait()
	if err := process.KillDescendants(killWait); err != nil {
		errs = append(errs, err)
	}
	return joined(errs)
}

// localEnv is a member's environment: the devices of its task and of no other.
func localEnv(env []string, gpus []int, restart int) []string {
	out := make([]string, 0, len(env)+2)
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "CUDA_VISIBLE_DEVICES", TasksVariable, RestartVariable:
			continue
		}
		out = append(out, kv)
	}
	ids := make([]string, len(gpus))
	for i, id := range gpus {
		ids[i] = strconv.Itoa(id)
	}
	return append(out, "CUDA_VISIBLE_DEVICES="+strings.Join(ids, ","), RestartVariable+"="+strconv.Itoa(restart))
}

// RestartCount reads the batch job's restart count from its environment.
func RestartCount(env []string) (int, error) {
	for _, name := range []string{RestartVariable, "SLURM_RESTART_COUNT"} {
		for _, kv := range env {
			v, ok := strings.CutPrefix(kv, name+"=")
			if !ok {
				continue
			}
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 {
				return 0, errors.New(name + " is not a count: " + strconv.Quote(v))
			}
			return n, nil
		}
	}
	return 0, nil
}
