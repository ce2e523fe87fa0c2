// Command ssh measures what a command over the SSH transport costs: so many
// commands over one of its connections, and the same commands over one master
// connection of OpenSSH, to the same real sshd in the same run. It prints rates
// and their ratio and asserts nothing.
//
//	go run ./test/perf/ssh -commands 100 -rounds 3
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/ssh"
	"github.com/isthmus-hpc/isthmus/test/testbed/measuring"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

type load struct{ commands, rounds, workers int }

func main() {
	var l load
	flag.IntVar(&l.commands, "commands", 100, "commands that each way runs")
	flag.IntVar(&l.rounds, "rounds", 3, "times each way is measured, in turn")
	flag.IntVar(&l.workers, "workers", 6, "commands under way at a time in the ways with several")
	flag.Parse()
	if l.commands < 1 || l.commands > 100_000 || l.rounds < 1 || l.workers < 1 || l.workers > 8 {
		fmt.Fprintln(os.Stderr, "ssh: -commands must be 1 to 100000, -rounds at least 1, -workers 1 to 8")
		os.Exit(2)
	}
	measuring.Main("ssh", func(ctx context.Context) error { return run(ctx, l) })
}

// way is one way to run a command, and how long all of them took each time.
type way struct {
	name    string
	workers int
	do      func(context.Context) error
	took    []time.Duration
}

func run(ctx context.Context, l load) (err error) {
	if os.Geteuid() != 0 {
		fmt.Println("ssh: SKIP: not root, and a real sshd logs in as other users")
		return nil
	}
	if err := sshd.EnsureInstalled(ctx, os.Stderr); err != nil {
		return err
	}
	server, err := sshd.Start(ctx, sshd.Config{Lines: []string{"LogLevel ERROR", "MaxSessions 64"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	key, err := sshd.NewKey(sshd.ED25519)
	if err != nil {
		return err
	}
	if err := server.Authorize(sshd.Dash, key.Public()); err != nil {
		return err
	}
	runner, err := ssh.New(ssh.Config{
		Hosts: []string{server.Address}, User: sshd.Dash,
		Credentials: func(context.Context, string) (ssh.Credentials, error) { return ssh.Credentials{Key: key.PEM}, nil },
		KnownHosts:  func(context.Context) ([]byte, error) { return []byte(server.KnownHosts()), nil },
	})
	if err != nil {
		return err
	}
	defer runner.Close()
	ours := func(ctx context.Context) error {
		res, err := runner.Run(ctx, transport.Command{Argv: []string{"/bin/true"}})
		if err == nil && res.Exit != 0 {
			err = fmt.Errorf("exit code %d: %s", res.Exit, res.Stderr)
		}
		return err
	}
	control, end, err := master(ctx, server, key)
	if err != nil {
		return err
	}
	defer end()
	openssh := func(ctx context.Context) error {
		return exec.CommandContext(ctx, "ssh", "-F", "none", "-S", control, "-o", "BatchMode=yes", "-l", sshd.Dash, "master", "/bin/true").Run()
	}
	ways := []*way{
		{name: "transport, one at a time", workers: 1, do: ours},
		{name: "OpenSSH, one at a time", workers: 1, do: openssh},
		{name: fmt.Sprintf("transport, %d at a time", l.workers), workers: l.workers, do: ours},
		{name: fmt.Sprintf("OpenSSH, %d at a time", l.workers), workers: l.workers, do: openssh},
	}
	for _, w := range ways { // the connections are there before the clock runs
		if err := w.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	for round := range l.rounds {
		// In both orders, so that a machine that slows down favours none.
		order := slices.Clone(ways)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, w := range order {
			start := time.Now()
			group, gctx := errgroup.WithContext(ctx)
			group.SetLimit(w.workers)
			for range l.commands {
				group.Go(func() error { return w.do(gctx) })
			}
			if err := group.Wait(); err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, w.name, err)
			}
			w.took = append(w.took, time.Since(start))
		}
	}
	l.print(ways)
	return nil
}

// master opens a master connection of OpenSSH.
func master(ctx context.Context, server *sshd.Server, key sshd.Key) (control string, end func(), err error) {
	dir, err := os.MkdirTemp("", "isthmus-perf-ssh-")
	if err != nil {
		return "", nil, err
	}
	control = filepath.Join(dir, "control")
	known, identity := filepath.Join(dir, "known_hosts"), filepath.Join(dir, "id")
	host, port, err := net.SplitHostPort(server.Address)
	if err = errors.Join(err, os.WriteFile(known, []byte(server.KnownHosts()), 0o600), os.WriteFile(identity, key.PEM, 0o600)); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	cmd := exec.CommandContext(ctx, "ssh", "-F", "none", "-M", "-N", "-S", control, "-o", "UserKnownHostsFile="+known,
		"-o", "StrictHostKeyChecking=yes", "-i", identity, "-p", port, "-l", sshd.Dash, host)
	if err := cmd.Start(); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	end = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	})
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		c, err := net.Dial("unix", control)
		if err == nil {
			_ = c.Close()
			return control, end, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			end()
			return "", nil, fmt.Errorf("the master connection is not there: %w", err)
		}
	}
}

func (l load) print(ways []*way) {
	fmt.Printf("ssh: %d commands (/bin/true), %d rounds\n", l.commands, l.rounds)
	rate := func(d time.Duration) float64 { return float64(l.commands) / d.Seconds() }
	for _, w := range ways {
		slices.Sort(w.took)
		fmt.Printf("  %-26s %6.1f commands/s median (%.1f to %.1f)\n", w.name, rate(w.took[len(w.took)/2]), rate(w.took[len(w.took)-1]), rate(w.took[0]))
	}
	for i := 0; i < len(ways); i += 2 {
		a, b := ways[i].took, ways[i+1].took
		fmt.Printf("  %s takes %.2f times as long as OpenSSH (%.2f to %.2f)\n", ways[i].name,
			a[len(a)/2].Seconds()/b[len(b)/2].Seconds(), a[0].Seconds()/b[len(b)-1].Seconds(), a[len(a)-1].Seconds()/b[0].Seconds())
	}
}
