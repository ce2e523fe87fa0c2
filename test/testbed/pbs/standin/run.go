package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// marker is the testbed's variable, see package process.
const marker = "ISTHMUS_TESTBED"

// why says what ended a run, other than itself.
type why int

const (
	whyNone why = iota
	whyDeleted
	whyWalltime
	whyRequeue
	whyNode
)

// running is one run of a job.
type running struct {
	why      why // guarded by the server's lock
	pid      int
	cookie   string
	env      []string
	identity *syscall.Credential
	home     string
	done     chan struct{}
	code     int // Exit_status of the script, once done is closed

	mu       sync.Mutex
	sessions []int
	over     bool // no further task may start
}

// launch starts the batch script as the job's user.
func (s *server) launch(j *job) (*running, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(j.uid), 10))
	if err != nil {
		return nil, err
	}
	identity, err := credential(u)
	if err != nil {
		return nil, err
	}
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return nil, err
	}
	run := &running{cookie: strings.ToUpper(hex.EncodeToString(raw[:])), identity: identity, home: u.HomeDir, done: make(chan struct{})}
	if info, err := os.Stat(run.home); err != nil || !info.IsDir() {
		// A real host refuses such a user; ours have no home.
		run.home = "/"
	}
	nodefile := filepath.Join(s.dir, "aux", j.id())
	scriptFile := filepath.Join(s.dir, "spool", j.id()+".SC")
	if err := errors.Join(
		os.WriteFile(nodefile, []byte(j.nodeFile(s.Torque)), 0o644),                                                                       //nolint:gosec // all users read it
		os.WriteFile(nodefile+"gpu", []byte(strings.ReplaceAll(strings.ReplaceAll(j.gpuText(), "+", "\n"), "-gpu/", "-gpu")+"\n"), 0o644), //nolint:gosec // all users read it
		os.WriteFile(scriptFile, j.script, 0o600),
		os.Chown(scriptFile, int(j.uid), int(identity.Gid)),
	); err != nil {
		return nil, err
	}
	run.env = slices.Concat([]string{
		"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username,
		"PATH=" + filepath.Join(s.dir, "bin") + ":/usr/local/bin:/usr/bin:/bin",
		"PBS_ENVIRONMENT=PBS_BATCH", "PBS_JOBCOOKIE=" + run.cookie, "PBS_JOBDIR=" + run.home, "PBS_JOBID=" + j.id(),
		"PBS_JOBNAME=" + j.name, "PBS_NODEFILE=" + nodefile, "PBS_NODENUM=0", "PBS_QUEUE=" + j.queue, "PBS_TASKNUM=1",
	}, j.vars)
	if s.Torque {
		run.env = append(run.env, "PBS_GPUFILE="+nodefile+"gpu")
	}
	if mark := os.Getenv(marker); mark != "" {
		// By it the testbed finds what is left when the server was killed.
		run.env = append(run.env, marker+"="+mark)
	}
	out, err := s.output(j, j.stdout, "OU", identity)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	errs := out
	if j.join == "n" {
		if errs, err = s.output(j, j.stderr, "ER", identity); err != nil {
			return nil, err
		}
		defer errs.Close()
	}
	shell := j.shell
	if shell == "" {
		shell = "/bin/sh"
	}
	cmd := &exec.Cmd{
		Path: shell, Args: []string{shell, scriptFile}, Env: run.env, Dir: run.home, Stdout: out, Stderr: errs,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Credential: switched(identity)},
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	run.pid = cmd.Process.Pid
	run.sessions = []int{run.pid}
	go func() {
		_ = cmd.Wait() // the state says how it ended
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			run.code = 256 + int(status.Signal())
		} else {
			run.code = cmd.ProcessState.ExitCode()
		}
		close(run.done)
	}()
	return run, nil
}

// switched gives the credential to switch to, nil when it is ours already.
func switched(c *syscall.Credential) *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	return c
}

func credential(u *user.User) (*syscall.Credential, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		g, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, err
		}
		c.Groups = append(c.Groups, uint32(g))
	}
	return c, nil
}

// output opens a stream of the job: /dev/null, or a file in the spool that is
// copied at the end.
func (s *server) output(j *job, path, ending string, identity *syscall.Credential) (*os.File, error) {
	if path == "/dev/null" {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	name := filepath.Join(s.dir, "spool", j.id()+"."+ending)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return f, os.Chown(name, int(identity.Uid), int(identity.Gid))
}

// stageOut copies the streams to where the job wants them, as its user.
func (s *server) stageOut(j *job, run *running) {
	for ending, to := range map[string]string{"OU": j.stdout, "ER": j.stderr} {
		from := filepath.Join(s.dir, "spool", j.id()+"."+ending)
		if _, err := os.Stat(from); err != nil || to == "/dev/null" || to == "" {
			continue
		}
		cmd := exec.Command("cp", "--", from, to)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: switched(run.identity)}
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "stage out %s: %v: %s\n", j.id(), err, out)
		}
		_ = os.Remove(from)
	}
	_ = os.Remove(filepath.Join(s.dir, "spool", j.id()+".SC"))
}

// watch sees a run to its end.
func (s *server) watch(j *job, run *running) {
	var limit <-chan time.Time
	if j.walltime > 0 {
		timer := time.NewTimer(j.walltime)
		defer timer.Stop()
		limit = timer.C
	}
	for running := true; running; {
		select {
		case <-run.done:
			running = false
		case <-limit:
			s.mu.Lock()
			if run.why == whyNone {
				run.why = whyWalltime
				j.comment += " and exceeded resource walltime"
			}
			s.mu.Unlock()
			s.terminate(run)
		}
	}
	// What the script left behind does not outlive the job.
	run.mu.Lock()
	run.over = true
	run.mu.Unlock()
	run.kill()
	s.stageOut(j, run)
	s.mu.Lock()
	defer s.mu.Unlock()
	j.run = nil
	j.obit = time.Now()
	if run.why == whyRequeue {
		j.state, j.substate, j.placed, j.comment = "Q", 10, nil, ""
		if j.holds != "" {
			j.state, j.substate = "H", 20
		}
		j.touch()
		s.schedule()
		return
	}
	code := run.code
	switch {
	case run.why == whyWalltime && s.Torque:
		code = -11
	case run.why == whyWalltime:
		code = -29
	case run.why == whyNode:
		code = -20
	}
	j.exit = &code
	s.finish(j)
	s.schedule()
}

// finish ends a job for good. The lock must be held.
func (s *server) finish(j *job) {
	j.state, j.historyAt, j.holds = "F", time.Now(), ""
	j.touch()
	switch {
	case j.terminatedBy != "":
		j.substate = 91
	case j.exit != nil && *j.exit == 0:
		j.substate = 92
		j.comment += " and finished"
	default:
		j.substate = 93
		if j.exit != nil && *j.exit != -29 {
			j.comment += " and failed"
		}
	}
	s.settleAfter(j)
	switch {
	case s.Torque && s.KeepCompleted > 0:
		j.state = "C"
		keep := time.Duration(s.KeepCompleted) * time.Millisecond
		j.keepCompleted = time.Now().Add(keep)
		time.AfterFunc(keep, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.schedule()
		})
	case s.Torque, !s.History:
		delete(s.jobs, j.seq)
	}
}

// terminate asks a run to end, and insists after the kill delay.
func (s *server) terminate(run *running) {
	run.signal(syscall.SIGTERM)
	delay := time.Duration(s.KillDelay) * time.Millisecond
	if delay == 0 {
		delay = 10 * time.Second
	}
	time.AfterFunc(delay, func() {
		select {
		case <-run.done:
		default:
			run.kill()
		}
	})
}

// signal signals all processes of the run's sessions.
func (r *running) signal(sig syscall.Signal) {
	r.mu.Lock()
	sessions := slices.Clone(r.sessions)
	r.mu.Unlock()
	for _, p := range processes() {
		if slices.Contains(sessions, p.session) {
			_ = syscall.Kill(p.pid, sig) // one that has ended needs none
		}
	}
}

// kill ends what is left of a run, also what left its sessions: a real site
// has cgroups for that.
func (r *running) kill() {
	mark := []byte("PBS_JOBCOOKIE=" + r.cookie)
	for range 200 {
		r.mu.Lock()
		sessions := slices.Clone(r.sessions)
		r.mu.Unlock()
		found := false
		for _, p := range processes() {
			env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid)) // gone, or a zombie
			if p.state != "Z" && (slices.Contains(sessions, p.session) || bytes.Contains(env, mark)) {
				found = true
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
			}
		}
		if !found {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

type process struct {
	pid, session int
	state        string
}

func processes() []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything.
		_, rest, ok := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
		f := strings.Fields(rest)
		if !ok || len(f) < 4 {
			continue
		}
		session, err := strconv.Atoi(f[3])
		if err != nil {
			continue
		}
		out = append(out, process{pid: pid, session: session, state: f[0]})
	}
	return out
}

// suspend stops or continues a job's processes. The lock must be held.
func (j *job) suspend(on bool) {
	if on {
		j.run.signal(syscall.SIGSTOP)
		j.state, j.substate = "S", 43
	} else {
		j.run.signal(syscall.SIGCONT)
		j.state, j.substate = "R", 42
	}
	j.touch()
}

// spawn starts a task on a host of a running job and waits for it: what
// pbs_tmrsh does with "HOST COMMAND", and Torque's pbsdsh with "-h HOST COMMAND".
func (s *server) spawn(r *request) reply {
	args := r.Args
	if r.Name == "pbsdsh" {
		if !s.Torque || len(args) < 1 || args[0] != "-h" {
			return reply{Err: "pbsdsh: only -h HOST of Torque is known to the stand-in\n", Code: 1}
		}
		args = args[1:]
	} else if s.Torque {
		return reply{Err: "pbs_tmrsh: command not found\n", Code: 127}
	}
	if len(args) < 2 {
		return reply{Err: "usage: " + r.Name + " host command [args]\n", Code: 2}
	}
	host, argv := args[0], args[1:]
	s.mu.Lock()
	j := s.find(r.Env["PBS_JOBID"])
	var run *running
	if j != nil {
		run = j.run
	}
	known := j != nil && slices.ContainsFunc(j.placed, func(p placement) bool { return p.vnode.host == host })
	s.mu.Unlock()
	switch {
	case run == nil || r.uid != j.uid && r.uid != 0:
		return reply{Err: r.Name + ": not in a job\n", Code: 254}
	case !known:
		return reply{Err: fmt.Sprintf("%s: host %q is not a node in job %s\n", r.Name, host, j.id()), Code: 255}
	case len(r.files) < 2:
		return reply{Err: r.Name + ": no streams\n", Code: 1}
	}
	cmd := &exec.Cmd{
		Path: argv[0], Args: argv, Env: append(slices.Clone(run.env), "PBS_TASKNUM=2"), Dir: run.home, Stdout: r.files[0], Stderr: r.files[1],
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Credential: switched(run.identity)},
	}
	run.mu.Lock()
	if run.over {
		run.mu.Unlock()
		return reply{Err: r.Name + ": the job has ended\n", Code: 254}
	}
	err := cmd.Start()
	if err == nil {
		run.sessions = append(run.sessions, cmd.Process.Pid)
	}
	run.mu.Unlock()
	if err != nil {
		return reply{Err: fmt.Sprintf("%s: %v\n", r.Name, err), Code: 254}
	}
	_ = cmd.Wait() // the code says how it ended
	code := cmd.ProcessState.ExitCode()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	return reply{Code: code}
}
