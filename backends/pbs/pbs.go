// Package pbs drives PBS Professional, OpenPBS and Torque through their
// commands: qsub, qrls, qdel, qstat and pbsnodes. It reads text output only: the
// JSON of these systems is known to be broken by ordinary values.
//
// What a job is called, who owns it and where its files lie reach the batch
// system as single arguments; nothing is ever put into a shell or a script.
//
// A job carries the variable ISTHMUS_TAG, "isthmus/<owner>/<key>", which qstat
// shows: that tag alone says that a job is ours. It is named by its key too, but
// a name is only for people, since anybody may give one.
//
// Servers forget a job the moment it ends unless job history is switched on,
// and Torque keeps it for some minutes. Where that is so, the batch script and
// Cancel leave records in a directory of the job's user, and Observe reads them
// beside the queue.
package pbs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

const (
	defaultQueryTimeout  = 60 * time.Second
	defaultSubmitTimeout = 120 * time.Second
	// maxOutput bounds an answer that is collected whole. The list of jobs is
	// read as it comes instead.
	maxOutput = 48 << 20
)

// Dialect is a family of batch systems with PBS's commands.
type Dialect string

// The dialects.
const (
	// Pro is PBS Professional and OpenPBS.
	Pro Dialect = "pbs"
	// Torque differs in how resources are asked for (nodes=N:ppn=P), in its
	// options and in its exit codes.
	Torque Dialect = "torque"
)

// Config of a Backend.
type Config struct {
	// Runner runs the commands where the batch system's are installed. Required.
	Runner transport.Runner
	// Dialect that is expected. Required; a batch system of the other one is an
	// error of every call that says so.
	Dialect Dialect
	// Env is the environment of every command, such as PBS_CONF_FILE and PATH.
	Env []string
	// Records gives the directory, visible on all hosts and the user's own, where
	// records of that user's jobs are kept. Required.
	Records func(user string) (string, error)
	// Now tells the time, for estimates only; time.Now when nil.
	Now func() time.Time
	// QueryTimeout and SubmitTimeout bound one command; 0 is 60 s and 120 s.
	QueryTimeout, SubmitTimeout time.Duration
}

// Backend is a backends.Backend for one PBS or Torque server. It holds no state
// but what it read of the server's settings and history.
type Backend struct {
	config Config
	past   past

	mu       sync.Mutex
	version  string  // of the commands; "" before it was read
	settings *server // nil before they were read
	narrow   bool    // qstat does not know -w together with -f
	gpuType  *string // resource that holds a vnode's GPU type, "" when there is none; nil before it was looked for
}

var _ backends.Backend = (*Backend)(nil)

// New checks the configuration. It runs nothing.
func New(config Config) (*Backend, error) {
	switch {
	case config.Runner == nil:
		return nil, errors.New("pbs backend: no transport given")
	case config.Dialect != Pro && config.Dialect != Torque:
		return nil, fmt.Errorf("pbs backend: %q is not a dialect", config.Dialect)
	case config.Records == nil:
		return nil, errors.New("pbs backend: no directory for records given")
	}
	for _, e := range config.Env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("pbs backend: environment entry %q is not NAME=value", e)
		}
		for _, refused := range []string{"PBS_DPREFIX", "PBS_QSTAT_EXECHOST", "PBS_O_", "ISTHMUS_", "LD_"} {
			if strings.HasPrefix(name, refused) {
				return nil, fmt.Errorf("pbs backend: environment variable %s changes what commands do by default and is refused", name)
			}
		}
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.QueryTimeout <= 0 {
		config.QueryTimeout = defaultQueryTimeout
	}
	if config.SubmitTimeout <= 0 {
		config.SubmitTimeout = defaultSubmitTimeout
	}
	return &Backend{config: config}, nil
}

// Capabilities says what the dialect can do. History is a setting of the server
// and false until it was read. Components of one job may share a host.
func (b *Backend) Capabilities() backends.Capabilities {
	b.mu.Lock()
	defer b.mu.Unlock()
	return backends.Capabilities{
		History:       b.settings != nil && b.settings.history,
		Heterogeneous: true,
		StartEstimate: b.config.Dialect == Pro,
		Reservation:   true,
		OneHost:       true,
		After:         servesAfter(b.config.Dialect, b.version),
	}
}

// command is one command of the batch system.
type command struct {
	argv    []string
	user    string // "" is the daemon's own
	env     []string
	stdin   io.Reader
	stdout  io.Writer
	timeout time.Duration
}

// run runs c. started is false when it certainly did not run.
func (b *Backend) run(ctx context.Context, c command) (res transport.Result, started bool, err error) {
	ctx, stop := context.WithTimeout(ctx, c.timeout)
	defer stop()
	res, err = b.config.Runner.Run(ctx, transport.Command{
		User: c.user, Argv: c.argv, Env: append(append([]string{"LC_ALL=C", "TZ=UTC"}, b.config.Env...), c.env...),
		Stdin: c.stdin, Stdout: c.stdout, MaxOutput: maxOutput,
	})
	return res, !errors.Is(err, transport.ErrNotStarted), err
}

// ask runs a command that changes nothing and gives how it ended. Only a
// command that could not be run to its end is an error.
func (b *Backend) ask(ctx context.Context, op string, c command) (transport.Result, error) {
	c.timeout = b.config.QueryTimeout
	res, _, err := b.run(ctx, c)
	if err != nil {
		kind := backends.KindTransient
		if errors.Is(err, transport.ErrDenied) {
			kind = backends.KindDenied
		}
		return res, &backends.Error{Op: op, Kind: kind, Err: err}
	}
	return res, nil
}

// query is ask for a command that must succeed. Every failure is worth another
// try, but for those that say otherwise.
func (b *Backend) query(ctx context.Context, op string, argv ...string) (stdout string, err error) {
	res, err := b.ask(ctx, op, command{argv: argv})
	if err != nil {
		return "", err
	}
	if res.Exit != 0 {
		return "", refusal(op, argv[0], res)
	}
	return string(res.Stdout), nil
}

// refusal is the error of a query that a command ended with a complaint.
func refusal(op, program string, res transport.Result) error {
	said := res.Said()
	kind := classify(said)
	if kind != backends.KindDenied {
		kind = backends.KindTransient
	}
	return &backends.Error{Op: op, Kind: kind, Err: fmt.Errorf("%s exited with %d: %s", program, res.Exit, said)}
}
