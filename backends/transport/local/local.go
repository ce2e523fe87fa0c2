// Package local runs commands on this host. When the process is root, a command
// may run as another user: with that user's uid, gid and supplementary groups,
// and nothing of root's environment.
//
// Every command is the leader of a process group of its own. The whole group is
// killed when the context ends, when an output limit is exceeded, and when the
// command itself has ended but left something behind: nothing outlives Run.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

const (
	// defaultMaxOutput is the bound on collected output when the command sets none.
	defaultMaxOutput = 64 << 20
	// stderrTail is how much of the standard error stream is kept.
	stderrTail = 64 << 10
	// drainTime is how long output is awaited after all processes of the group
	// are gone: only a process that left the group can hold a stream open then.
	drainTime = 2 * time.Second
	// defaultPath is the search path of a command that brings none.
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Runner is a transport.Runner for this host. Make it with New.
type Runner struct {
	// Warn is told once what a person should know though commands work; nil drops it.
	// It is set before the first command.
	Warn func(text string)

	accounts  *accounts
	euid      int
	pipesOnly sync.Once // tells that this host has nothing better for inputs
}

var _ transport.Runner = (*Runner)(nil)

// New gives a Runner. It may be used from several goroutines.
func New() *Runner {
	return &Runner{accounts: newAccounts(), euid: os.Geteuid()}
}

// Run runs the command and blocks until it ended or ctx did. See
// transport.Runner for errors. A command never runs as root unless its User is
// empty and the process itself is root. A Reader given as Stdin that blocks for
// ever does not block Run, but one goroutine then waits for it.
func (r *Runner) Run(ctx context.Context, c transport.Command) (transport.Result, error) {
	if err := ctx.Err(); err != nil {
		return transport.Result{}, notStarted("run", err)
	}
	cmd, err := r.prepare(ctx, c)
	if err != nil {
		return transport.Result{}, notStarted("prepare command", err)
	}
	rewind := transport.Rewind(c.Stdin)
	res, err := r.run(ctx, cmd, c)
	if rewind != nil && errors.Is(err, transport.ErrNotStarted) {
		// Run again, the command would read an empty input and not know.
		if back := rewind(); back != nil {
			err = fmt.Errorf("%w; wind the standard input back: %w", err, back)
		}
	}
	return res, err
}

func notStarted(what string, err error) error {
	return fmt.Errorf("%s: %w: %w", what, transport.ErrNotStarted, err)
}

func (r *Runner) prepare(ctx context.Context, c transport.Command) (*exec.Cmd, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return nil, errors.New("no program given")
	}
	for _, s := range slices.Concat(c.Argv, c.Env, []string{c.Dir}) {
		if strings.ContainsRune(s, 0) {
			return nil, errors.New("a NUL byte in an argument, the environment or the directory")
		}
	}
	for _, e := range c.Env {
		if i := strings.IndexByte(e, '='); i < 1 {
			return nil, fmt.Errorf("environment entry %q is not NAME=value", e)
		}
	}
	acct, cred, err := r.identity(ctx, c.User)
	if err != nil {
		return nil, err
	}
	env := complete(c.Env, acct)
	path, err := lookPath(c.Argv[0], value(env, "PATH"))
	if err != nil {
		return nil, err
	}
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	return &exec.Cmd{
		Path: path, Args: slices.Clone(c.Argv), Env: env, Dir: dir,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Credential: cred},
	}, nil
}

// identity gives the account a command runs under and the credential to switch
// to; the credential is nil when none is needed.
func (r *Runner) identity(ctx context.Context, name string) (account, *syscall.Credential, error) {
	if name == "" {
		// A process whose uid has no account still runs its own commands.
		own, err := r.accounts.byID(ctx, r.euid)
		if err != nil {
			own = account{name: strconv.Itoa(r.euid), home: "/"}
		}
		return own, nil, nil
	}
	if name == "root" {
		return account{}, nil, errors.New("commands never run as root on behalf of a user")
	}
	acct, err := r.accounts.byName(ctx, name)
	if err != nil {
		return account{}, nil, err
	}
	switch {
	case acct.uid == 0:
		return account{}, nil, fmt.Errorf("user %s has uid 0: commands never run as root on behalf of a user", name)
	case r.euid == 0:
		return acct, &syscall.Credential{Uid: acct.uid, Gid: acct.gid, Groups: acct.groups}, nil
	case acct.uid == uint32(r.euid):
		return acct, nil, nil
	default:
		return account{}, nil, fmt.Errorf("run as user %s: this process has uid %d and is not root, so it runs commands as itself only", name, r.euid)
	}
}

// complete adds what the contract promises to an environment that lacks it.
func complete(env []string, acct account) []string {
	out := slices.Clone(env)
	for _, d := range [][2]string{
		{"PATH", defaultPath}, {"HOME", acct.home}, {"USER", acct.name}, {"LOGNAME", acct.name}, {"LC_ALL", "C"},
	} {
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, d[0]+"=") }) {
			out = append(out, d[0]+"="+d[1])
		}
	}
	return out
}

func value(env []string, name string) string {
	for _, e := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// lookPath searches the command's own PATH, not the daemon's. Relative entries
// are passed over, since they would depend on a directory.
func lookPath(program, path string) (string, error) {
	if strings.ContainsRune(program, '/') {
		return program, nil
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		full := filepath.Join(dir, program)
		if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", fmt.Errorf("find program %s: not in %s", program, path)
}

// run starts cmd and sees it to its end.
func (r *Runner) run(ctx context.Context, cmd *exec.Cmd, c transport.Command) (transport.Result, error) {
	pipes, err := r.openPipes(cmd, c)
	if err != nil {
		return transport.Result{}, notStarted("open pipes", err)
	}
	defer pipes.close()
	if err := cmd.Start(); err != nil {
		return transport.Result{}, notStarted("start "+c.Argv[0], err)
	}
	pipes.started()

	pid := cmd.Process.Pid
	ended := make(chan struct{})
	go func() {
		// The process is not reaped here: as long as it is a zombie its pid, and
		// so the id of its group, cannot be another's, and killing is safe.
		waitable(pid)
		close(ended)
	}()

	limit := defaultMaxOutput
	if c.MaxOutput > 0 {
		limit = int(c.MaxOutput)
	}
	streams := pipes.copy(c, limit)
	var cause error
	select {
	case <-ended:
	case <-ctx.Done():
		cause = ctx.Err()
	case cause = <-streams.failed:
	}
	killGroup(pid)
	<-ended
	err = cmd.Wait()
	streams.drain()

	res := transport.Result{Stdout: streams.stdout.Bytes(), Stderr: streams.stderr.bytes(), Exit: -1}
	if cause == nil {
		cause = streams.error()
	}
	if cause != nil {
		return res, fmt.Errorf("run %s: %w", c.Argv[0], cause)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return res, fmt.Errorf("wait for %s: %w", c.Argv[0], err)
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return res, fmt.Errorf("wait for %s: no wait status", c.Argv[0])
	}
	res.Exit = status.ExitStatus()
	if status.Signaled() {
		res.Exit = 128 + int(status.Signal())
	}
	return res, nil
}

// waitable blocks until the process has ended and leaves it unreaped. Other
// errors than an interruption cannot happen for a child of ours.
func waitable(pid int) {
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
}

// killGroup ends whatever is left of the group; an empty group is no error.
func killGroup(pid int) {
	_ = syscall.Kill(-pid, syscall.SIGKILL)
}

// closeAll closes what was opened.
func closeAll(files ...io.Closer) {
	for _, f := range files {
		_ = f.Close()
	}
}
