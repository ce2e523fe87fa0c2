// Package process starts the testbed's programs, finds them again and ends
// them. It knows nothing of what they are.
//
// A Group keeps one record file a process in a directory: its pid, the time it
// started and its log. Another program may open the directory and end what the
// first one left. A process is only ever signalled after its start time was
// compared with the record, so a reused pid is never hit.
//
// Every process gets a process group of its own, so that Ctrl-C reaches the
// program that started it and nothing else, and the environment variable
// ISTHMUS_TESTBED with the group's directory, by which Sweep finds those that
// no record tells of.
package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Marker is the environment variable that all processes of a group carry; its
// value is the group's directory.
const Marker = "ISTHMUS_TESTBED"

// pollInterval is how often a process that is not our child is looked at.
const pollInterval = 20 * time.Millisecond

// Options of a Group.
type Options struct {
	// Tether ends a process when the program that started it dies, however it
	// dies. Without it processes outlive the program.
	Tether bool
}

// Group is a set of processes that are ended together, the last one first. Its
// methods may be called from several goroutines.
type Group struct {
	dir     string
	options Options

	mu       sync.Mutex
	members  []*Process
	spawner  *spawner
	sequence int
}

// Spec is a program to start.
type Spec struct {
	// Name is unique in the group; it names the record and the log.
	Name string
	// Argv is the program and its arguments; Argv[0] is a path or in PATH.
	Argv []string
	// Env is added to a small environment: PATH, HOME, TMPDIR and the marker.
	Env []string
	// Dir is the working directory; "" is the group's directory.
	Dir string
	// Stdin may be nil. It must be a file: the process may outlive the program.
	Stdin *os.File
}

// Record is what is written of a process.
type Record struct {
	Identity
	Name     string    `json:"name"`
	Sequence int       `json:"sequence"`
	Argv     []string  `json:"argv"`
	Env      []string  `json:"env,omitempty"`
	Dir      string    `json:"dir,omitempty"`
	Log      string    `json:"log"`
	Started  time.Time `json:"started"`
}

// Process is one program that was started, by this program or an earlier one.
type Process struct {
	Record
	path   string        // of the record
	exited chan struct{} // closed after the exit was seen; nil when it is not our child
	err    error         // of Wait; to be read after exited is closed
}

// Open opens the group in dir, creates the directory (0700) when it is missing
// and loads the records it holds. A record that cannot be read is an error:
// nothing is started beside processes one cannot account for.
func Open(dir string, options Options) (*Group, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open process group: %w", err)
	}
	for _, d := range []string{recordsDir(dir), logsDir(dir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open process group: %w", err)
		}
	}
	g := &Group{dir: dir, options: options}
	entries, err := os.ReadDir(recordsDir(dir))
	if err != nil {
		return nil, fmt.Errorf("open process group: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		p := &Process{path: filepath.Join(recordsDir(dir), e.Name())}
		raw, err := os.ReadFile(p.path)
		if errors.Is(err, os.ErrNotExist) { // ended meanwhile
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read process record: %w", err)
		}
		if err := json.Unmarshal(raw, &p.Record); err != nil {
			return nil, fmt.Errorf("parse process record %s: %w", p.path, err)
		}
		g.members = append(g.members, p)
		g.sequence = max(g.sequence, p.Sequence)
	}
	slices.SortFunc(g.members, func(a, b *Process) int { return a.Sequence - b.Sequence })
	return g, nil
}

func recordsDir(dir string) string { return filepath.Join(dir, "processes") }
func logsDir(dir string) string    { return filepath.Join(dir, "logs") }

// LogFile is where the output of the process of that name goes.
func (g *Group) LogFile(name string) string { return filepath.Join(logsDir(g.dir), name+".log") }

// Members lists the processes in the order they were started.
func (g *Group) Members() []*Process {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.members)
}

// Find returns the process of that name, or nil.
func (g *Group) Find(name string) *Process {
	for _, p := range g.Members() {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Start starts a program with its output in LogFile and returns once it is
// recorded; it does not wait until the program is ready. A name that is in use
// by a live process is an error; the record of a dead one is replaced.
func (g *Group) Start(spec Spec) (*Process, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.start(spec)
}

// Revive starts those processes again that have ended without being stopped, in
// the order and with the arguments they were first started, and returns their
// names. It does not wait until they are ready.
func (g *Group) Revive() ([]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var revived []string
	for _, p := range slices.Clone(g.members) {
		if p.Alive() {
			continue
		}
		if _, err := g.start(Spec{Name: p.Name, Argv: p.Argv, Env: p.Env, Dir: p.Dir}); err != nil {
			return revived, err
		}
		revived = append(revived, p.Name)
	}
	return revived, nil
}

func (g *Group) start(spec Spec) (*Process, error) {
	for i, p := range g.members {
		if p.Name != spec.Name {
			continue
		}
		if p.Alive() {
			return nil, fmt.Errorf("start %s: it runs as process %d", spec.Name, p.PID)
		}
		if err := os.Remove(p.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("start %s: %w", spec.Name, err)
		}
		g.members = slices.Delete(g.members, i, i+1)
		break
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(g.LogFile(spec.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	defer func() { _ = log.Close() }()

	cmd := exec.Command(spec.Argv[0], spec.Argv[1:]...)
	cmd.Env = append(environ(g.dir), spec.Env...)
	cmd.Dir = spec.Dir
	if cmd.Dir == "" {
		cmd.Dir = g.dir
	}
	cmd.Stdout, cmd.Stderr = log, log
	if spec.Stdin != nil {
		cmd.Stdin = spec.Stdin
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if g.options.Tether {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if g.spawner == nil {
		g.spawner = newSpawner()
	}
	if err := g.spawner.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	g.sequence++
	p := &Process{
		Record: Record{
			Identity: Identity{PID: cmd.Process.Pid, BootID: boot},
			Name:     spec.Name, Sequence: g.sequence,
			Argv: spec.Argv, Env: spec.Env, Dir: spec.Dir,
			Log: g.LogFile(spec.Name), Started: time.Now(),
		},
		exited: make(chan struct{}),
	}
	p.path = filepath.Join(recordsDir(g.dir), fmt.Sprintf("%04d-%s.json", p.Sequence, p.Name))
	// Not reaped yet, so its stat is there even if it has ended already.
	st, err := readStat(p.PID)
	if err == nil {
		p.Identity.Start = st.start
		err = p.write()
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("record %s: %w", spec.Name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	g.members = append(g.members, p)
	return p, nil
}

// environ is what a process sees of our environment: enough to find programs,
// nothing that would make it behave differently for another person.
func environ(dir string) []string {
	env := []string{Marker + "=" + dir, "LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func (p *Process) write() error {
	raw, err := json.MarshalIndent(p.Record, "", "  ")
	if err != nil {
		return err
	}
	tmp := p.path + ".new" // not ".json": a half-written file is no record
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, p.path)
}

// Exited tells the exit of a process that this program started: the channel
// closes. For others it is nil.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitError tells how a process ended that this program started: nil after a
// status of 0. It blocks until Exited closes.
func (p *Process) ExitError() error {
	if p.exited == nil {
		return fmt.Errorf("%s: another program started it", p.Name)
	}
	<-p.exited
	return p.err
}

// ErrExited says that a process ended before it was ready.
var ErrExited = errors.New("process ended")

// WaitReady calls ready every 50 ms until it returns nil. It fails when the
// process ends (ErrExited) or ctx does; the error then tells the last answer of
// ready and the end of the log.
func (p *Process) WaitReady(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if !p.Alive() {
			return fmt.Errorf("%s: %w; end of %s:\n%s", p.Name, ErrExited, p.Log, Tail(p.Log, 15))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %w; end of %s:\n%s", p.Name, ctx.Err(), err, p.Log, Tail(p.Log, 15))
		}
	}
}

// Tail returns the last lines of a file, at most 16 KiB; a file that cannot be
// read is told in the text, for it is meant for people.
func Tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	const most = 16 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	raw, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
