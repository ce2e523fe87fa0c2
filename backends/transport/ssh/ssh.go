// Package ssh runs commands on login nodes across SSH.
//
// A host is talked to only when known_hosts has a key for it, and only with that
// kind of key; nothing switches that off. One connection a login user carries up
// to MaxSessions commands at a time; commands with a Stdout of their own, which
// are streams such as followed logs, have a second connection, so that they never
// starve the others. Connections are made when needed, kept alive, closed when
// idle, and made anew on the next login node when one is lost. A command whose
// connection is lost is never run again: its outcome is unknown.
//
// What is run, its arguments and its environment reach the login node as data
// over standard input of one constant script (see script.go); no text of theirs
// meets a shell's parser, and exit codes and the certainty that a command did not
// start come from frames with a random marker, never from guessing.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

const (
	defaultSessions  = 8
	maxSessions      = 1000
	defaultKeepalive = 15 * time.Second
	defaultTimeout   = 15 * time.Second
	defaultIdle      = 10 * time.Minute
	maxHeader        = 1 << 20
	maxArgument      = 128<<10 - 1 // bytes, Linux' MAX_ARG_STRLEN
)

var userForm = regexp.MustCompile(`\A([A-Za-z_]|[0-9]+[A-Za-z_.@-])[A-Za-z0-9_.@-]{0,255}\z`)

// Config of a Runner.
type Config struct {
	// Hosts are the login nodes, host or host:port, in the order they are tried.
	Hosts []string
	// User is logged in as for commands without a user. With Sudo it is
	// logged in as for all.
	User string
	// Sudo runs the commands of other users by `sudo -n -u USER` from User's
	// login; otherwise every user logs in himself.
	Sudo bool
	// Credentials gives those that the user logs in with, as they are now. It may
	// block; what it reads is read anew for every login.
	Credentials func(ctx context.Context, user string) (Credentials, error)
	// KnownHosts gives the text of known_hosts as it is now.
	KnownHosts func(ctx context.Context) ([]byte, error)
	// ProxyJump are the hosts to go through, [user@]host[:port], nearest first.
	// They are verified and logged in to like login nodes.
	ProxyJump []string
	// MaxSessions bounds the sessions at once on one connection: 8 when 0. It must
	// be lower than sshd's own MaxSessions, 10 by default, since one more may be
	// needed to kill a command.
	MaxSessions int
	// Keepalive is the time between signs of life, 15 s when 0; three that stay
	// unanswered end the connection.
	Keepalive time.Duration
	// ConnectTimeout bounds the making of a connection, 15 s when 0.
	ConnectTimeout time.Duration
	// Idle is how long an unused connection is kept, 10 min when 0.
	Idle time.Duration
	// Warn is told what a person should know though commands work, such as a login
	// node whose key does not match; it may be nil. It must not block.
	Warn func(text string)
}

// Runner is a transport.Runner for login nodes. Make it with New; Close it.
type Runner struct {
	config Config
	jumps  []hop
	hosts  *hosts

	mu       sync.Mutex
	accounts map[string]*account
	closed   bool
	active   sync.WaitGroup // commands
	routines sync.WaitGroup
	programs programs
}

var _ transport.Runner = (*Runner)(nil)

// New checks the configuration. It connects to nothing.
func New(config Config) (*Runner, error) {
	fail := func(format string, args ...any) (*Runner, error) {
		return nil, fmt.Errorf("ssh transport: "+format, args...)
	}
	if len(config.Hosts) == 0 {
		return fail("no login node is given")
	}
	if config.Credentials == nil || config.KnownHosts == nil {
		return fail("credentials and known_hosts are required")
	}
	if config.User == "root" || config.User != "" && !userForm.MatchString(config.User) {
		return fail("%q is not a user to log in as", config.User)
	}
	if config.Sudo && config.User == "" {
		return fail("sudo needs a user to log in as")
	}
	if config.MaxSessions == 0 {
		config.MaxSessions = defaultSessions
	}
	if config.MaxSessions < 1 || config.MaxSessions > maxSessions {
		return fail("%d sessions on one connection: 1 to %d are possible", config.MaxSessions, maxSessions)
	}
	for d, standard := range map[*time.Duration]time.Duration{
		&config.Keepalive: defaultKeepalive, &config.ConnectTimeout: defaultTimeout, &config.Idle: defaultIdle,
	} {
		if *d <= 0 {
			*d = standard
		}
	}
	r := &Runner{accounts: map[string]*account{}}
	addresses := make([]string, 0, len(config.Hosts))
	for _, h := range config.Hosts {
		a, err := parseAddress(h)
		if err != nil {
			return fail("login node %w", err)
		}
		addresses = append(addresses, a)
	}
	for _, j := range config.ProxyJump {
		h, err := parseHop(j)
		if err == nil && h.user == "root" {
			err = errors.New("nobody logs in as root")
		}
		if err != nil {
			return fail("jump host %w", err)
		}
		r.jumps = append(r.jumps, h)
	}
	r.config, r.hosts = config, newHosts(addresses)
	return r, nil
}

// Finish takes no more commands, waits for those that are under way, and closes.
func (r *Runner) Finish() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.active.Wait()
	r.Close()
}

// Close ends all connections and with them the commands that are under way. It
// returns when nothing of the Runner is left but goroutines that wait for a
// caller's Stdin.
func (r *Runner) Close() {
	r.mu.Lock()
	r.closed = true
	accounts := r.accounts
	r.accounts = map[string]*account{}
	r.mu.Unlock()
	for _, a := range accounts {
		a.close()
	}
	r.active.Wait()
	r.routines.Wait()
}

// Run runs the command on a login node and blocks until it ended or ctx did. See
// transport.Runner for errors; those that a person must see to wrap
// transport.ErrDenied. Commands never run as root.
func (r *Runner) Run(ctx context.Context, c transport.Command) (transport.Result, error) {
	if err := ctx.Err(); err != nil {
		return transport.Result{}, notStarted(err)
	}
	login, become, err := r.identity(c.User)
	if err != nil {
		return transport.Result{}, notStarted(err)
	}
	user := login
	if become != "" {
		user = become
	}
	if err := check(c); err != nil {
		return transport.Result{}, notStarted(err)
	}
	a, err := r.begin(login)
	if err != nil {
		return transport.Result{}, notStarted(err)
	}
	defer r.active.Done()
	s, done, err := a.session(ctx, c.Stdout != nil, become)
	if err != nil {
		return transport.Result{}, notStarted(err)
	}
	defer done()
	conn := s.conn
	conn.mu.Lock()
	known := conn.checked[user]
	conn.mu.Unlock()
	text, err := encode(c, user, !known)
	if err != nil {
		s.close()
		return transport.Result{}, notStarted(err)
	}
	x, rewind := exchange{session: s, command: c, header: text}, transport.Rewind(c.Stdin)
	res, err := x.run(ctx)
	err = x.rewound(err, rewind)
	if !known && x.group.Load() != 0 { // it got past the check
		conn.mu.Lock()
		conn.checked[user] = true
		conn.mu.Unlock()
	}
	return res, err
}

func notStarted(err error) error {
	return fmt.Errorf("run over ssh: %w: %w", transport.ErrNotStarted, err)
}

// identity tells who logs in for a command's user, and whom he becomes then.
func (r *Runner) identity(user string) (login, become string, err error) {
	switch {
	case user == "" && r.config.User == "":
		return "", "", errors.New("the command has no user, and no user to log in as is configured")
	case user == "" || user == r.config.User:
		return r.config.User, "", nil
	case user == "root":
		return "", "", errors.New("commands never run as root")
	case !userForm.MatchString(user):
		return "", "", fmt.Errorf("%q is not a user name", user)
	case r.config.Sudo:
		return r.config.User, user, nil
	default:
		return user, "", nil
	}
}

// check refuses what cannot be run.
func check(c transport.Command) error {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return errors.New("no program given")
	}
	for _, s := range slices.Concat(c.Argv, c.Env, []string{c.Dir}) {
		if strings.ContainsRune(s, 0) {
			return errors.New("a NUL byte in an argument, the environment or the directory")
		}
		if len(s) > maxArgument {
			return fmt.Errorf("an argument or entry of the environment has more than %d bytes", maxArgument)
		}
	}
	for _, e := range c.Env {
		if i := strings.IndexByte(e, '='); i < 1 || e[0] == '-' {
			return fmt.Errorf("environment entry %q is not NAME=value", e)
		}
	}
	return nil
}

// encode gives the header of a checked command.
func encode(c transport.Command, user string, checkRoot bool) (string, error) {
	var h header
	has := func(name string) bool {
		return slices.ContainsFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	}
	for _, e := range c.Env {
		h.line('e', e)
	}
	for _, d := range [][2]string{{"PATH", systemPath}, {"USER", user}, {"LOGNAME", user}, {"LC_ALL", "C"}} {
		if !has(d[0]) {
			h.line('e', d[0]+"="+d[1])
		}
	}
	if !has("HOME") {
		h.line('h', "")
	}
	if checkRoot {
		h.line('r', "")
	}
	if c.Dir != "" {
		h.line('d', c.Dir)
	} else {
		h.line('d', "/")
	}
	h.line('p', c.Argv[0])
	for _, a := range c.Argv[1:] {
		h.line('a', a)
	}
	if c.Stdin != nil {
		h.line('i', "")
	}
	h.b.WriteString(".\n")
	if h.b.Len() > maxHeader {
		return "", fmt.Errorf("arguments and environment have more than %d bytes", maxHeader)
	}
	return h.b.String(), nil
}

// begin gives the account and holds Close up until active.Done.
func (r *Runner) begin(user string) (*account, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errors.New("the transport is closed")
	}
	a := r.accounts[user]
	if a == nil {
		a = newAccount(r, user)
		r.accounts[user] = a
	}
	r.active.Add(1)
	return a, nil
}

func (r *Runner) warn(format string, args ...any) {
	if r.config.Warn != nil {
		r.config.Warn(fmt.Sprintf(format, args...))
	}
}
