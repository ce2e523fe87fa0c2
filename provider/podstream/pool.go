// Package podstream keeps the connections from the daemon to the runners of
// pods: one a pod, opened for the first exec, attach or port-forward, shared by
// all that come while it is open, and closed some time after the last.
package podstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
)

const (
	// linger is how long a connection outlives its last exchange: opening one may
	// cost the batch system a job step.
	linger = 20 * time.Second
	// openLimit bounds the opening of a connection.
	openLimit = time.Minute
	// maxOpen bounds the connections of one Pool.
	maxOpen = 256
)

// Target is a running pod.
type Target struct {
	Job     backends.JobRef
	Rank    int
	Restart int // of the batch job
	Host    string
	WorkDir string // of the gang
}

// Way gives the command that, run by the connection's runner, joins its standard
// streams with the runner of a pod. It does no I/O.
type Way func(to Target) (backends.Entry, error)

// Through starts that command in the pod's batch job.
func Through(system backends.Enterer) Way {
	return func(to Target) (backends.Entry, error) { return system.Enter(to.Job, to.Host, joining(to)) }
}

// Network starts it where the batch system's commands are, from where it reaches
// a runner that listens (manifest.Gang.Listen).
func Network(to Target) (backends.Entry, error) {
	return backends.Entry{Argv: joining(to, "--network"), User: to.Job.User, Env: []string{"LC_ALL=C"}}, nil
}

// joining is the command line of the joining program.
func joining(to Target, options ...string) []string {
	argv := append([]string{to.WorkDir + "/podrun", "stream", "--rank=" + strconv.Itoa(to.Rank)}, options...)
	return append(argv, to.WorkDir)
}

// Pool opens connections to pods in one way. Its methods may be called
// concurrently.
type Pool struct {
	way    Way
	runner transport.Runner
	linger time.Duration

	mu    sync.Mutex
	lines map[Target]*line
	done  bool
	wg    sync.WaitGroup
}

// New gives a Pool without connections. runner is where the batch system's
// commands are run.
func New(way Way, runner transport.Runner) *Pool {
	return &Pool{way: way, runner: runner, linger: linger, lines: map[Target]*line{}}
}

// line is one connection. Its fields but ready belong to the Pool's lock.
type line struct {
	ready  chan struct{} // closed once client or err is there
	client *stream.Client
	err    error
	users  int
	idle   *time.Timer
}

// ErrRetired says that the Pool takes no more exchanges.
var ErrRetired = errors.New("the daemon is changing its configuration or ending; try again")

// ErrFull says that as many connections are open as may be.
var ErrFull = fmt.Errorf("connections to %d pods are open, and that is the limit", maxOpen)

// Do carries out one exchange with a pod and blocks until it has ended. When
// ctx ends, what was started in the pod is killed.
func (p *Pool) Do(ctx context.Context, to Target, req stream.Request, streams stream.IO) (stream.Exit, error) {
	l, err := p.take(to)
	if err != nil {
		return stream.Exit{}, err
	}
	defer p.giveBack(to, l)
	select {
	case <-l.ready:
	case <-ctx.Done():
		return stream.Exit{}, ctx.Err()
	}
	if l.err != nil {
		return stream.Exit{}, l.err
	}
	return l.client.Do(ctx, req, streams)
}

// take gives the connection to a pod, opening one if need be.
func (p *Pool) take(to Target) (*line, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return nil, ErrRetired
	}
	l := p.lines[to]
	if l != nil && l.client != nil {
		select {
		case <-l.client.Done(): // lost; the next one may do better
			l = nil
		default:
		}
	}
	if l == nil {
		if len(p.lines) >= maxOpen {
			return nil, ErrFull
		}
		l = &line{ready: make(chan struct{})}
		p.lines[to] = l
		p.wg.Go(func() { p.open(to, l) })
	}
	if l.idle != nil {
		l.idle.Stop()
		l.idle = nil
	}
	l.users++
	return l, nil
}

func (p *Pool) giveBack(to Target, l *line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.users--; l.users > 0 || l.client == nil {
		return
	}
	if p.done {
		p.drop(to, l)
		return
	}
	l.idle = time.AfterFunc(p.linger, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if l.users == 0 {
			p.drop(to, l)
		}
	})
}

// drop closes a connection. The lock must be held.
func (p *Pool) drop(to Target, l *line) {
	if p.lines[to] == l {
		delete(p.lines, to)
	}
	if l.client != nil {
		go l.client.Close() //nolint:errcheck // it may wait for the other side, and its end is all there is to know
	}
}

// open runs the way to the pod's host for as long as the connection lives.
func (p *Pool) open(to Target, l *line) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := p.run(ctx, to, inR, outW)
		_ = inR.CloseWithError(io.ErrClosedPipe)
		_ = outW.CloseWithError(io.EOF)
		ended <- err
	}()
	timer := time.AfterFunc(openLimit, cancel)
	client, err := stream.Dial(outR, inW, func() error { return errors.Join(inW.Close(), outR.Close()) })
	timer.Stop()
	if err != nil {
		timely := ctx.Err() == nil
		_, _ = inW.Close(), outR.Close() // so that the program ends
		cancel()
		cause := <-ended
		switch {
		case !timely:
			err = fmt.Errorf("reach host %s: no answer within %s", to.Host, openLimit)
		case cause != nil:
			err = fmt.Errorf("reach host %s: %w", to.Host, cause)
		default:
			err = fmt.Errorf("reach host %s: %w", to.Host, err)
		}
		p.mu.Lock()
		l.err = err
		p.drop(to, l)
		p.mu.Unlock()
		close(l.ready)
		return
	}
	p.mu.Lock()
	l.client = client
	if l.users == 0 { // one that waits for it is under way, also where the Pool is retired
		p.drop(to, l)
	}
	p.mu.Unlock()
	close(l.ready)
	select {
	case <-ended:
	case <-client.Done():
		// It ends by itself at the end of its input; one that does not is ended.
		timer := time.NewTimer(openLimit)
		select {
		case <-ended:
		case <-timer.C:
		}
		timer.Stop()
	}
	cancel()
	_ = client.Close()
	p.mu.Lock()
	p.drop(to, l)
	p.mu.Unlock()
}

// run joins the pipes with the pod's runner and gives the reason when that fails.
func (p *Pool) run(ctx context.Context, to Target, in io.Reader, out io.Writer) error {
	e, err := p.way(to)
	if err != nil {
		return err
	}
	res, err := p.runner.Run(ctx, transport.Command{User: e.User, Argv: e.Argv, Env: e.Env, Dir: "/", Stdin: in, Stdout: out})
	switch {
	case err != nil:
		return err
	case res.Exit != 0:
		return fmt.Errorf("%s ended with code %d: %s", e.Argv[0], res.Exit, lastLine(res.Stderr))
	}
	return nil
}

// Retire takes no more exchanges and lets those under way come to their ends.
func (p *Pool) Retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	for to, l := range p.lines {
		if l.client != nil && l.users == 0 {
			p.drop(to, l)
		}
	}
}

// Wait blocks until a retired Pool has no connection any more.
func (p *Pool) Wait() { p.wg.Wait() }

// lastLine is the end of what a program complained of, printable.
func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(b), "?")), "\n")
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, lines[len(lines)-1])
	return text[:min(len(text), 512)]
}
