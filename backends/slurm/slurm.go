// Package slurm drives Slurm through its commands: sbatch, scontrol, scancel
// and squeue. It uses text output only, which reads the same from release 20 to
// 26, and asks for it in a form that no job's name or comment can counterfeit.
//
// What a job is called, who owns it and where its script lies reach Slurm as
// single arguments; nothing is ever put into a shell or a script.
//
// Slurm keeps a record of some jobs that it refused at submit (state FAILED,
// reason BadConstraints). Observe lists them as what they are.
package slurm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmhistory"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/groupcommit"
)

const (
	// defaultQueryTimeout bounds squeue, scontrol and scancel. Slurm's own
	// message timeout is 10 s by default.
	defaultQueryTimeout = 60 * time.Second
	// defaultSubmitTimeout is above the 120 s that sbatch itself goes on trying
	// when the controller is busy.
	defaultSubmitTimeout = 150 * time.Second
	// maxOutput bounds the answer to a query: some 100,000 jobs. What a transport
	// leaves to the collector on the way comes on top; test/perf/replies measures it.
	maxOutput = 48 << 20
	// submitsAtOnce bounds the sbatch commands under way: more than a controller
	// serves at a time only wait for each other there.
	submitsAtOnce = 8
	// jobsAtOnce bounds the jobs of one release or cancel.
	jobsAtOnce = 100
	// linger is how long a release or cancel waits for others when there has just
	// been one.
	linger = 100 * time.Millisecond
)

// Config of a Backend.
type Config struct {
	// Runner runs the commands where Slurm's are installed. Required.
	Runner transport.Runner
	// Env is the environment of every command, such as SLURM_CONF and PATH.
	// sbatch passes it on to the job. Variables that change what Slurm's
	// commands do by default (SBATCH_*, SQUEUE_* and the like) are refused.
	Env []string
	// Cluster is the name of the cluster within a federation; "" is the local one.
	Cluster string
	// QueryTimeout and SubmitTimeout bound one command; 0 is 60 s and 150 s.
	QueryTimeout, SubmitTimeout time.Duration
}

// Backend is a backends.Backend for one Slurm cluster. It holds no state but
// the version and the licences it read, the requests under way and, where the
// cluster keeps books, which jobs it has seen.
type Backend struct {
	config   Config
	submits  chan struct{}
	releases *groupcommit.Committer[backends.JobRef]
	cancels  *groupcommit.Committer[backends.JobRef]

	mu       sync.Mutex
	version  string
	licenses []backends.License

	history    *slurmhistory.History
	booksKnown atomic.Bool // whether there is a database was read
}

var (
	_ backends.Backend  = (*Backend)(nil)
	_ backends.Recaller = (*Backend)(nil)
)

var clusterForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*$`)

// New checks the configuration. It runs nothing.
func New(config Config) (*Backend, error) {
	if config.Runner == nil {
		return nil, errors.New("slurm backend: no transport given")
	}
	if config.Cluster != "" && !clusterForm.MatchString(config.Cluster) {
		return nil, fmt.Errorf("slurm backend: %q is not a cluster name", config.Cluster)
	}
	for _, e := range config.Env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("slurm backend: environment entry %q is not NAME=value", e)
		}
		for _, prefix := range []string{"SBATCH_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SINFO_", "SACCT_", "SALLOC_", "SRUN_", "SPANK_", "_SLURM_SPANK_", "LD_"} {
			if strings.HasPrefix(name, prefix) {
				return nil, fmt.Errorf("slurm backend: environment variable %s changes what commands do by default and is refused", name)
			}
		}
	}
	if config.QueryTimeout <= 0 {
		config.QueryTimeout = defaultQueryTimeout
	}
	if config.SubmitTimeout <= 0 {
		config.SubmitTimeout = defaultSubmitTimeout
	}
	b := &Backend{config: config, submits: make(chan struct{}, submitsAtOnce)}
	b.history = slurmhistory.New(time.Now, b.askSacct)
	b.releases = groupcommit.New(groupcommit.Config[backends.JobRef]{Run: b.effects(release()), Most: jobsAtOnce, Linger: linger})
	b.cancels = groupcommit.New(groupcommit.Config[backends.JobRef]{Run: b.effects(cancel()), Most: jobsAtOnce, Linger: linger})
	return b, nil
}

// Capabilities is constant but for History, which is true once Inventory has
// read that the cluster has an accounting database (slurmdbd); without one ended
// jobs are known for MinJobAge only (5 minutes by default). ExclusiveComponents
// is true: measured on 22.05, a heterogeneous job waits for as many hosts as it
// has components.
func (b *Backend) Capabilities() backends.Capabilities {
	return backends.Capabilities{
		Heterogeneous: true, ExclusiveComponents: true, StartEstimate: true, Enter: true, Reservation: true, ExcludeHosts: true,
		After: true, Licenses: true, Switches: true, Shards: true, Reserve: true,
		History: b.history.On(),
	}
}

// command is one command of Slurm.
type command struct {
	argv    []string
	user    string // "" is the daemon's own
	env     []string
	stdin   io.Reader
	timeout time.Duration
	dir     string
}

// run runs c. started is false when it certainly did not run.
func (b *Backend) run(ctx context.Context, c command) (res transport.Result, started bool, err error) {
	ctx, stop := context.WithTimeout(ctx, c.timeout)
	defer stop()
	argv := c.argv
	// The program's own version needs no cluster, and naming one would need its
	// accounting database.
	if b.config.Cluster != "" && !slices.Contains(argv, "--version") {
		argv = append([]string{argv[0], "--clusters=" + b.config.Cluster}, argv[1:]...)
	}
	res, err = b.config.Runner.Run(ctx, transport.Command{
		User: c.user, Argv: argv, Env: append(append([]string{"LC_ALL=C"}, b.config.Env...), c.env...),
		Stdin: c.stdin, Dir: c.dir, MaxOutput: maxOutput,
	})
	return res, !errors.Is(err, transport.ErrNotStarted), err
}

// query runs a command that changes nothing and gives its output whole, with
// what it said beside. Every failure is worth another try, but for those that
// say otherwise.
func (b *Backend) query(ctx context.Context, op string, argv ...string) (stdout, stderr string, err error) {
	res, _, err := b.run(ctx, command{
		argv: argv, timeout: b.config.QueryTimeout,
		// Seconds since the epoch: no time zone, no locale.
		env: []string{"TZ=UTC", "SLURM_TIME_FORMAT=%s"},
	})
	if err != nil {
		return "", "", &backends.Error{Op: op, Kind: notDone(err), Err: err}
	}
	said := res.Said()
	if res.Exit != 0 {
		kind := slurmjob.Classify(said)
		if kind != backends.KindDenied {
			kind = backends.KindTransient
		}
		return "", "", &backends.Error{Op: op, Kind: kind, Err: fmt.Errorf("%s exited with %d: %s", argv[0], res.Exit, said)}
	}
	return string(res.Stdout), string(res.Stderr), nil
}
