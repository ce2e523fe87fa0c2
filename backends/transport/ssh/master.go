package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// MasterConfig makes a Master.
type MasterConfig struct {
	// ControlPath is the socket of OpenSSH's master connection: `ssh -M -S PATH`.
	ControlPath string
	// User is who logged in there; commands without a user run as him.
	User string
	// Sudo runs the commands of other users by `sudo -n -u USER`; otherwise there
	// are none.
	Sudo bool
	// MaxSessions bounds the sessions at once: 8 when 0. A quarter of them, at
	// least one, is for streams.
	MaxSessions int
}

// Master is a transport.Runner over a connection that a person opened with
// OpenSSH, for sites where logging in takes a second factor. It runs the system's
// ssh with the control socket and never logs in by itself: once the person's
// connection is gone, commands fail with transport.ErrDenied until he has opened
// another one at the same place. The host key was checked by the person's ssh.
type Master struct {
	config            MasterConfig
	program           string
	commands, streams *gate
	programs          programs
	pending           sync.WaitGroup
}

var _ transport.Runner = (*Master)(nil)

// NewMaster checks the configuration. It runs nothing.
func NewMaster(config MasterConfig) (*Master, error) {
	fail := func(format string, args ...any) (*Master, error) {
		return nil, fmt.Errorf("ssh transport: "+format, args...)
	}
	// ssh expands % in it.
	if !filepath.IsAbs(config.ControlPath) || strings.ContainsAny(config.ControlPath, "%\x00\n") {
		return fail("the control path %q is not an absolute path without percent signs", config.ControlPath)
	}
	if config.User == "root" || !userForm.MatchString(config.User) {
		return fail("%q is not a user to log in as", config.User)
	}
	if config.MaxSessions == 0 {
		config.MaxSessions = defaultSessions
	}
	if config.MaxSessions < 2 || config.MaxSessions > maxSessions {
		return fail("%d sessions on one connection: 2 to %d are possible", config.MaxSessions, maxSessions)
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return fail("a control path needs OpenSSH's client here: %w", err)
	}
	streams := max(1, config.MaxSessions/4)
	return &Master{
		config: config, program: program,
		commands: newGate(config.MaxSessions - streams), streams: newGate(streams),
	}, nil
}

// Close waits until what was run has gone.
func (m *Master) Close() { m.pending.Wait() }

// Run implements transport.Runner; see Runner.Run.
func (m *Master) Run(ctx context.Context, c transport.Command) (transport.Result, error) {
	if err := ctx.Err(); err != nil {
		return transport.Result{}, notStarted(err)
	}
	become, err := m.become(c.User)
	if err == nil {
		err = check(c)
	}
	if err != nil {
		return transport.Result{}, notStarted(err)
	}
	user := m.config.User
	if become != "" {
		user = become
	}
	text, err := encode(c, user, true)
	if err != nil {
		return transport.Result{}, notStarted(err)
	}
	gate := m.commands
	if c.Stdout != nil {
		gate = m.streams
	}
	if err := gate.enter(ctx); err != nil {
		return transport.Result{}, notStarted(fmt.Errorf("wait for a free session (%d at a time): %w", gate.most, err))
	}
	s, err := m.start(commandLine(become))
	if err != nil {
		gate.leave()
		return transport.Result{}, notStarted(err)
	}
	s.become = become
	m.pending.Add(1)
	defer func() {
		go func() {
			defer m.pending.Done()
			wait(s.over.c, drainTime)
			s.close()
			wait(s.over.c, drainTime)
			gate.leave()
		}()
	}()
	x, rewind := exchange{session: s, command: c, header: text}, transport.Rewind(c.Stdin)
	res, err := x.run(ctx)
	if err != nil && x.group.Load() == 0 && s.refused() {
		// ssh did not even get a session, though the master was there.
		err = notStarted(fmt.Errorf("the master connection gave no session: %s", s.complaint()))
	}
	return res, x.rewound(err, rewind)
}

func (m *Master) become(user string) (string, error) {
	switch {
	case user == "" || user == m.config.User:
		return "", nil
	case user == "root":
		return "", errors.New("commands never run as root")
	case !userForm.MatchString(user):
		return "", fmt.Errorf("%q is not a user name", user)
	case !m.config.Sudo:
		return "", denied("the master connection is %s's and cannot run commands of %s", m.config.User, user)
	default:
		return user, nil
	}
}

// EnsureProgram is as Runner.EnsureProgram, without sftp.
func (m *Master) EnsureProgram(ctx context.Context, user, root, local, digest string) (string, error) {
	if !path.IsAbs(root) || path.Clean(root) != root || !digestForm.MatchString(digest) {
		return "", fmt.Errorf("install %s: %w: %q is not a clean absolute path, or %q no digest", path.Base(local), transport.ErrNotStarted, root, digest)
	}
	return upload{runner: m, user: user, root: root, local: local, digest: digest, programs: &m.programs}.ensure(ctx)
}

// ForgetPrograms is as Runner.ForgetPrograms.
func (m *Master) ForgetPrograms(user string) { m.programs.forget(user) }

// start runs a command line over the master connection.
func (m *Master) start(line string) (*slave, error) {
	// Without a master, ssh would log in by itself.
	c, err := net.DialTimeout("unix", m.config.ControlPath, defaultTimeout)
	if err != nil {
		return nil, denied("the master connection is gone; log in again with ssh -M -S %s: %w", m.config.ControlPath, err)
	}
	_ = c.Close()
	s := &slave{master: m, over: newOnce()}
	s.cmd = exec.Command(m.program, "-F", "none", "-S", m.config.ControlPath, "-T",
		"-o", "ControlMaster=no", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
		// Should the master end just now, this is what ssh would connect through.
		"-o", "ProxyCommand=false", "-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes", "-o", "IdentityFile=none",
		"-l", m.config.User, "--", "master", line)
	s.cmd.Env = []string{"PATH=" + systemPath, "HOME=/", "LC_ALL=C"}
	s.cmd.Dir = "/"
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	// Wait must not close the streams before they were read.
	outR, outW := io.Pipe()
	errR, errW := io.Pipe()
	s.out, s.errs = outR, &tee{Reader: errR}
	s.cmd.Stdout, s.cmd.Stderr = outW, errW
	s.cmd.WaitDelay = drainTime
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.closers = []io.Closer{outR, errR}
	m.pending.Go(func() {
		err := s.cmd.Wait()
		_, _ = outW.Close(), errW.Close()
		var exit *exec.ExitError
		// 255 is ssh's own.
		if err == nil || errors.As(err, &exit) && exit.ExitCode() != 255 {
			s.status.Store(true)
		}
		s.over.close()
	})
	return s, nil
}

// slave is one run of ssh over the master connection.
type slave struct {
	master  *Master
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     io.Reader
	errs    *tee
	closers []io.Closer
	become  string
	over    *once
	status  atomic.Bool
}

var _ session = (*slave)(nil)

func (s *slave) Write(p []byte) (int, error) { return s.in.Write(p) }
func (s *slave) CloseWrite() error           { return s.in.Close() }
func (s *slave) stdout() io.Reader           { return s.out }
func (s *slave) stderr() io.Reader           { return s.errs }
func (s *slave) exited() <-chan struct{}     { return s.over.c }
func (s *slave) whole() bool                 { return s.status.Load() }

func (s *slave) close() {
	_ = s.in.Close()
	_ = s.cmd.Process.Kill() // it may have ended by itself
	for _, c := range s.closers {
		_ = c.Close()
	}
}

func (s *slave) kill(ctx context.Context, group int) {
	k, err := s.master.start(killLine(s.become, group))
	if err != nil {
		return
	}
	go func() { _, _ = io.Copy(io.Discard, k.out) }()
	go func() { _, _ = io.Copy(io.Discard, k.errs) }()
	select {
	case <-k.exited():
	case <-ctx.Done():
	}
	k.close()
	wait(k.exited(), drainTime)
}

// refused reports that ssh ended without having had a session.
func (s *slave) refused() bool {
	select {
	case <-s.over.c:
	case <-time.After(drainTime):
		return false
	}
	text := s.complaint()
	return !s.whole() && (strings.Contains(text, "mux_client_request_session") || strings.Contains(text, "Session open refused") ||
		strings.Contains(text, "Control socket connect"))
}

func (s *slave) complaint() string { return printable(s.errs.text()) }

// tee keeps the beginning of what was read.
type tee struct {
	io.Reader
	mu  sync.Mutex
	buf []byte
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := keptNoise - len(t.buf); room > 0 {
		t.buf = append(t.buf, p[:min(n, room)]...)
	}
	return n, err
}

func (t *tee) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
