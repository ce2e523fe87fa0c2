// Package slurmrest drives Slurm through slurmrestd. Jobs look exactly as those
// of package slurm (names, comments, dependency), so that a site may change
// from the one to the other while jobs run.
//
// No version of the REST API is common to all releases of Slurm, so a Backend
// asks the server for the newest that it knows: v0.0.38 (Slurm 22.05) to
// v0.0.45 (26.05). What each looks like is one dialect; the rest of the package
// knows one model only.
//
// Error numbers count here, not HTTP codes: v0.0.38 answers 500 to almost every
// request that failed, and "Unspecified error" to a query with a token that the
// controller refused as well as to one that the controller did not answer.
//
// Requests are made as the users whose jobs they are about, never as root or
// Slurm's own user. Files need another way to the cluster; slurmrestd has none.
package slurmrest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmhistory"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

const (
	// defaultTimeout of one request. slurmrestd tries for 9 s to reach a
	// controller that is away.
	defaultTimeout = 60 * time.Second
	// defaultMaxReply bounds a reply; a job takes about 3 KiB of it.
	defaultMaxReply = 64 << 20
)

// Config of a Backend. Errors of New start with the name of the field, in the
// spelling of the BatchCluster.
type Config struct {
	// URL is https://host:port, unix:///path/to/socket, or http:// with a
	// loopback address. Required.
	URL string
	// CAFile holds the authorities (PEM) of an https server; "" is the system's.
	CAFile string
	// Tokens of the users. Required.
	Tokens Tokens
	// Users are asked as when no call names any, in this order: for the
	// inventory, and by Observe without users.
	Users []string
	// Env is added to the environment of jobs, as NAME=value. Slurm 22.05 refuses
	// a job without one.
	Env []string
	// Timeout bounds one request; 0 is 60 s.
	Timeout time.Duration
	// MaxReply bounds one reply in bytes; 0 is 64 MiB.
	MaxReply int64
	// Now is the clock that tokens are judged by; nil is the system's.
	Now func() time.Time
}

// Backend is a backends.Backend for one Slurm cluster. It remembers the version
// it agreed on, tokens it made, which users' tokens were refused, and the licences.
type Backend struct {
	config  Config
	client  *http.Client
	base    string
	breaker breaker

	history *slurmhistory.History

	mu       sync.Mutex
	dialect  *dialect // nil before the first agreement
	proven   map[string]string
	cluster  string             // Slurm's name of it, as jobs tell it
	noBooks  time.Time          // when slurmrestd said last that it has no plugin for them
	licenses []backends.License // as read last
}

var (
	_ backends.Backend  = (*Backend)(nil)
	_ backends.Recaller = (*Backend)(nil)
)

// New checks the configuration and reads the CA file. It sends nothing.
func New(config Config) (*Backend, error) {
	if config.Tokens == nil {
		return nil, errors.New("tokens: one of tokenFile, tokenSecretRef, jwtKeyFile and jwtKeySecretRef is required")
	}
	if config.Timeout <= 0 {
		config.Timeout = defaultTimeout
	}
	if config.MaxReply <= 0 {
		config.MaxReply = defaultMaxReply
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	for _, e := range config.Env {
		if name, value, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(name+value, 0) {
			return nil, fmt.Errorf("env: entry %q is not NAME=value", name)
		}
	}
	client, base, err := connect(config.URL, config.CAFile)
	if err != nil {
		return nil, err
	}
	b := &Backend{
		config: config, client: client, base: base, breaker: breaker{now: config.Now}, proven: map[string]string{},
	}
	b.history = slurmhistory.New(config.Now, b.askBooks)
	return b, nil
}

// Capabilities is constant but for History, which is true once Inventory has
// found that slurmrestd speaks to an accounting database (its plugin for
// slurmdbd). slurmrestd itself cannot start a program inside a job: that takes
// srun, which takes no token. v0.0.38 has no field for switches (22.05 knows its
// name and refuses it as a disabled key, measured); before a version is agreed on
// nobody knows.
func (b *Backend) Capabilities() backends.Capabilities {
	b.mu.Lock()
	switches := b.dialect != nil && !b.dialect.plain
	b.mu.Unlock()
	return backends.Capabilities{
		Heterogeneous: true, ExclusiveComponents: true, StartEstimate: true, Reservation: true, ExcludeHosts: true, After: true,
		History: b.history.On(), Licenses: true, Switches: switches,
	}
}

// environment is what a job starts with. HOME is not known here; the launcher
// looks it up.
func (b *Backend) environment(user string, parts []slurmjob.Properties) []string {
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "USER=" + user, "LOGNAME=" + user}
	for _, e := range b.config.Env {
		name, _, _ := strings.Cut(e, "=")
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		env = append(env, e)
	}
	return append(env, stepEnv(parts)...)
}

// stepEnv is what sbatch tells srun in the batch script, and slurmrestd does
// not: without it a step of a heterogeneous job has one task a component, and
// no task has a GPU (measured on 22.05).
func stepEnv(parts []slurmjob.Properties) []string {
	var env []string
	for i, p := range parts {
		suffix := ""
		if len(parts) > 1 {
			suffix = fmt.Sprintf("_HET_GROUP_%d", i)
			env = append(env, fmt.Sprintf("SLURM_NTASKS%s=%d", suffix, p.Tasks), fmt.Sprintf("SLURM_NPROCS%s=%d", suffix, p.Tasks))
		}
		env = append(env, fmt.Sprintf("SLURM_CPUS_PER_TASK%s=%d", suffix, p.CPUs))
		if p.GPUs != "" {
			env = append(env, fmt.Sprintf("SLURM_GPUS_PER_TASK%s=%s", suffix, p.GPUs))
		}
	}
	return env
}

// askAs calls ask as one user after another until one's credentials are good.
// Any other failure ends it: what keeps one from an answer keeps all.
func (b *Backend) askAs(ctx context.Context, users []string, op string, ask func(s *session) error) error {
	if len(users) == 0 {
		users = b.config.Users
	}
	if len(users) == 0 {
		return &backends.Error{Op: op, Kind: backends.KindInvalid, Err: errors.New("no user is known as whom slurmrestd could be asked")}
	}
	var first error
	for _, user := range users {
		s, err := b.open(ctx, op, user)
		if err == nil {
			if err = ask(s); err == nil {
				return nil
			}
		}
		if backends.KindOf(err) != backends.KindDenied {
			return err
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// checkUsers refuses what is no user name.
func checkUsers(users []string) error {
	for _, u := range users {
		if err := slurmjob.CheckUser(u); err != nil {
			return err
		}
	}
	return nil
}
