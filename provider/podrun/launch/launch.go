// Package launch starts all members of a gang inside their batch job, waits for
// them and records the end. It runs as the batch script itself, on the job's
// first node.
package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/nodeaddr"
	"github.com/isthmus-hpc/isthmus/provider/podrun/peers"
	"github.com/isthmus-hpc/isthmus/provider/podrun/pod"
	"github.com/isthmus-hpc/isthmus/provider/podrun/statusfile"
)

// Exit codes of Run.
const (
	ExitSucceeded = 0 // every pod succeeded
	ExitFailed    = 1 // at least one did not
	ExitBroken    = 2 // the gang could not be started
)

const (
	maxGang    = 64 << 20
	endTries   = 30
	endBetween = 2 * time.Second
)

// Options say what to launch.
type Options struct {
	Dir     string // the gang's directory
	Restart int    // the batch job's restart count
	Env     []string
	// Terminate is closed when the batch system wants the job to end.
	Terminate <-chan struct{}
	// TimeUp gets a signal when the run-time limit is near. It may be nil.
	TimeUp <-chan os.Signal
	Stdout *os.File
	Stderr *os.File
	// PodArgs are added to each member's command line.
	PodArgs []string
}

// Run starts the gang, waits for all its members, and writes end.json. It blocks
// until the last member has ended, and gives the exit code.
func Run(o Options) int {
	gang, err := os.OpenRoot(o.Dir)
	if err != nil {
		fmt.Fprintf(o.Stderr, "podrun: open gang directory: %v\n", err)
		return ExitBroken
	}
	defer gang.Close()
	end := manifest.End{Restart: o.Restart}
	code, message := run(o, gang, &end.OutOfMemory)
	end.ExitCode, end.Message, end.FinishedAt = code, message, metav1.Now()
	if message != "" {
		fmt.Fprintf(o.Stderr, "podrun: %s\n", message)
	}
	for try := 1; ; try++ { // a full disk may pass; the provider waits for this file
		if err = atomicfile.WriteJSON(gang, "end.json", end); err == nil {
			return code
		}
		if try == endTries {
			fmt.Fprintf(o.Stderr, "podrun: record the end (exit code %d, %q): %v\n", code, message, err)
			return max(code, ExitFailed)
		}
		time.Sleep(endBetween)
	}
}

func run(o Options, gang *os.Root, outOfMemory *bool) (int, string) {
	var g manifest.Gang
	if err := atomicfile.ReadJSON(gang, "gang.json", maxGang, &g); err != nil {
		return ExitBroken, err.Error()
	}
	if err := check(&g); err != nil {
		return ExitBroken, err.Error()
	}
	var start func(context.Context, Options, *manifest.Gang) error
	var addresses map[string]string
	var err error
	switch g.Launcher {
	case "slurm":
		start = startSlurm
		if addresses, err = nodeaddr.Slurm(context.Background(), o.Env); err != nil {
			fmt.Fprintf(o.Stderr, "podrun: nodes will find their own addresses: %v\n", err)
		}
	case "local":
		start = startLocal
		if addresses, err = localAddresses(o.Env); err != nil {
			return ExitBroken, err.Error()
		}
	case launcherPBS, launcherTorque:
		start = startPBS
		lines, err := nodeLines(o.Env)
		if err != nil {
			return ExitBroken, err.Error()
		}
		// What does not resolve to something that others could use finds its own.
		addresses = nodeaddr.Hosts(context.Background(), lines)
	default:
		return ExitBroken, fmt.Sprintf("gang.json: launcher %q is not known", g.Launcher)
	}
	if err := peers.WriteHosts(gang, peers.Hosts{Restart: o.Restart, Addresses: addresses}); err != nil {
		return ExitBroken, err.Error()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var helpers sync.WaitGroup
	helpers.Go(func() { introduce(ctx, o, gang, len(g.Members)) })
	near := make(chan struct{})
	if g.LimitSeconds > 0 || g.Launcher != "slurm" { // else Slurm signals us
		helpers.Go(func() { watchLimit(ctx, o.Env, &g, near) })
	}
	helpers.Go(func() { passOn(ctx, o, gang, near) })
	err = start(ctx, o, &g)
	cancel()
	helpers.Wait()
	code, lost, message := judge(gang, o.Restart, &g, err)
	*outOfMemory = lost > 0 && errors.Is(err, errOutOfMemory)
	return code, message
}

func check(g *manifest.Gang) error {
	if g.Version != manifest.Version {
		return fmt.Errorf("gang.json has version %d, this runner knows %d", g.Version, manifest.Version)
	}
	tasks := 0
	for i, c := range g.Components {
		if c.Tasks < 1 || c.CPUs < 1 || c.Tasks > len(g.Members) {
			return fmt.Errorf("gang.json: component %d has %d tasks of %d CPUs", i, c.Tasks, c.CPUs)
		}
		tasks += c.Tasks
	}
	if tasks != len(g.Members) || tasks == 0 {
		return fmt.Errorf("gang.json: %d tasks for %d members", tasks, len(g.Members))
	}
	for i, m := range g.Members {
		if m.Rank != i {
			return fmt.Errorf("gang.json: member %d has rank %d", i, m.Rank)
		}
	}
	return nil
}

// introduce gathers the members' addresses and publishes them for all, so that
// each member need not look at every other.
func introduce(ctx context.Context, o Options, gang *os.Root, size int) {
	set := peers.Set{Restart: o.Restart}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if len(set.Gather(gang, size)) == 0 {
			if err := set.Publish(gang); err == nil {
				return
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// passOn tells the members that the job is to end, also when its run-time limit
// is near. Slurm signals them itself in
// most cases; then this says the same once more.
func passOn(ctx context.Context, o Options, gang *os.Root, near <-chan struct{}) {
	order := pod.Termination{Restart: o.Restart}
	late := func() {
		order.Reason, order.Message = "DeadlineExceeded", "the batch job reached its run-time limit"
	}
	select {
	case <-o.TimeUp:
		late()
	case <-near:
		late()
	case <-o.Terminate:
	case <-ctx.Done():
		return
	}
	if err := atomicfile.WriteJSON(gang, pod.TerminateFile, order); err != nil {
		fmt.Fprintf(o.Stderr, "podrun: %v\n", err)
	}
}

// judge looks at how the pods ended; lost are those that did not say.
func judge(gang *os.Root, restart int, g *manifest.Gang, startErr error) (code, lost int, message string) {
	failed, stopped, first := 0, 0, ""
	for _, m := range g.Members {
		s, err := statusfile.Read(gang, path.Join("pods", strconv.Itoa(m.Rank)))
		switch {
		case err == nil && s.Restart == restart && s.Phase == manifest.PhaseSucceeded:
			if g.Followed && told(gang, m.Rank) {
				stopped++
			}
			continue
		case err == nil && s.Restart == restart && s.Phase == manifest.PhaseFailed:
			failed++
		default:
			lost++
		}
		if first == "" {
			first = m.Namespace + "/" + m.Name
		}
	}
	switch {
	case failed+lost+stopped == 0:
		return ExitSucceeded, 0, ""
	case failed+lost == 0:
		return ExitFailed, 0, fmt.Sprintf("%d of %d pods were told to end", stopped, len(g.Members))
	}
	message = fmt.Sprintf("%d of %d pods failed", failed, len(g.Members))
	if lost > 0 {
		message += fmt.Sprintf(", %d ended without a last word", lost)
	}
	message += ", first " + first
	if lost > 0 && startErr != nil {
		message += ": " + startErr.Error()
	}
	return ExitFailed, lost, message
}

// told reports whether a member has an order to end. One that cannot be looked at
// counts as told.
func told(gang *os.Root, rank int) bool {
	_, err := gang.Stat(path.Join("pods", strconv.Itoa(rank), "ctl", "stop"))
	return !errors.Is(err, fs.ErrNotExist)
}

// exitError names how a child ended, or nil for success.
func exitError(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// joined bounds how much is said of many like errors.
func joined(errs []error) error {
	if len(errs) > 5 {
		errs = append(errs[:5:5], fmt.Errorf("and %d more", len(errs)-5))
	}
	return errors.Join(errs...)
}
