// Command runners measures what runners of pods cost a compute host while nothing
// happens: so many pods whose containers sleep and whose volumes could change, each
// with its launcher, as the processor time and the wake-ups of a runner a second.
// With -before it measures another build of podrun in the same run, in turn. It
// asserts nothing.
//
//	go run ./test/perf/runners -runners 100 -for 45s
//	go run ./test/perf/runners -before OTHER/podrun
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/measuring"
)

type load struct {
	runners, rounds int
	window          time.Duration
	before          string
}

// settle is how long the pods run before they are measured: what a start brings is
// over by then.
const settle = 10 * time.Second

func main() {
	var l load
	flag.IntVar(&l.runners, "runners", 100, "pods that run, each with a runner and a launcher")
	flag.IntVar(&l.rounds, "rounds", 1, "times each program is measured, in turn")
	flag.DurationVar(&l.window, "for", 45*time.Second, "time that is measured; what containers use is measured every 15 s")
	flag.StringVar(&l.before, "before", "", "another build of podrun, to compare with")
	flag.Parse()
	if l.runners < 1 || l.runners > 2000 || l.rounds < 1 || l.window < time.Second {
		fmt.Fprintln(os.Stderr, "runners: -runners must be 1 to 2000, -rounds at least 1, -for at least 1s")
		os.Exit(2)
	}
	measuring.Main("runners", func(ctx context.Context) error { return run(ctx, l) })
}

// program is one build of podrun and what its runners have used in each round.
type program struct {
	name, path       string
	runner, launcher []float64 // milliseconds of processor time a second, of one
	wakes            []float64
}

func run(ctx context.Context, l load) (err error) {
	dir, err := os.MkdirTemp("", "isthmus-runners-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the user of the jobs runs a program in here
		return err
	}
	root, err := checkout.Root()
	if err != nil {
		return err
	}
	now := &program{name: "this tree", path: filepath.Join(dir, "podrun")}
	build := checkout.GoBuild{Module: root, Package: "./cmd/podrun", Output: now.path, Flags: []string{"-ldflags", "-s -w"}}
	if err := build.Run(ctx, os.Stderr, "building podrun"); err != nil {
		return err
	}
	programs := []*program{now}
	if l.before != "" {
		programs = append(programs, &program{name: "before", path: l.before})
	}
	who, err := owner(ctx)
	if err != nil {
		return err
	}
	for round := range l.rounds {
		order := slices.Clone(programs)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for i, p := range order {
			place := filepath.Join(dir, fmt.Sprintf("%d-%d", round, i))
			if err := l.measure(ctx, p, who, place); err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, p.name, err)
			}
		}
	}
	l.print(programs)
	return nil
}

// owner is who the pods run as: this user, or the testbed's when that is root,
// which owns no jobs.
func owner(ctx context.Context) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no other user
	}
	if err := account.Ensure(ctx, os.Stderr); err != nil {
		return nil, err
	}
	u, err := user.Lookup(account.Alice)
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

// measure runs the pods with one program and adds what they use.
func (l load) measure(ctx context.Context, p *program, who *syscall.Credential, place string) (err error) {
	h, err := start(ctx, l.runners, p.path, place, who)
	defer func() { err = errors.Join(err, h.stop()) }()
	if err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	began, before := time.Now(), h.use()
	if err := pause(ctx, l.window); err != nil {
		return err
	}
	after, took := h.use(), time.Since(began)
	if err := errors.Join(before.err, after.err); err != nil {
		return err
	}
	each := func(d time.Duration) float64 {
		return d.Seconds() * 1000 / took.Seconds() / float64(l.runners)
	}
	p.runner = append(p.runner, each(after.runners-before.runners))
	p.launcher = append(p.launcher, each(after.launchers-before.launchers))
	p.wakes = append(p.wakes, float64(after.wakes-before.wakes)/took.Seconds()/float64(l.runners))
	return nil
}

func (l load) print(programs []*program) {
	fmt.Printf("runners: %d pods that sleep, %s, %d rounds\n", l.runners, l.window, l.rounds)
	for _, p := range programs {
		fmt.Printf("  %-10s a runner uses %s ms of processor time a second and wakes %s times; its launcher %s ms\n",
			p.name, span(p.runner), span(p.wakes), span(p.launcher))
	}
	if len(programs) > 1 {
		fmt.Printf("  a runner of this tree uses %.3f times what one of before does\n", median(programs[0].runner)/median(programs[1].runner))
	}
}

func median(all []float64) float64 {
	s := slices.Sorted(slices.Values(all))
	return s[len(s)/2]
}

// span is the median, and the extremes where there are several.
func span(all []float64) string {
	if len(all) == 1 {
		return fmt.Sprintf("%.2f", all[0])
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(all), slices.Min(all), slices.Max(all))
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
