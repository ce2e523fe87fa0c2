// Command replies measures what replies without an end, of 10 GiB and of no pace
// cost the daemon, by each way to a batch system, and fails where that is more
// than 128 MiB. It needs root, for a real sshd.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/slurmrest"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/backends/transport/ssh"
	"github.com/isthmus-hpc/isthmus/test/testbed/measuring"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// maxGrowth is what a hostile reply may cost.
const maxGrowth = 128 << 20

// floods are answers of a batch system gone wrong, as the command that prints them.
var floods = map[string]string{
	"endless lines":    "exec yes 1234567890123456789012345678901234567890",
	"one endless line": "exec cat /dev/zero",
	"10 GiB":           "exec head -c 10737418240 /dev/zero",
	slow:               "while :; do echo x; sleep 0.2; done",
	mistakes:           "exec yes wrong >&2",
}

// These end with the time that a reply may take, and no sooner.
const (
	slow     = "slow"
	mistakes = "endless errors"
)

// program writes a batch system's commands into dir, which print answer.
func program(dir, answer string) error {
	for _, name := range []string{"squeue", "sacct", "sacctmgr", "scontrol", "sinfo"} {
		tmp := filepath.Join(dir, "."+name)
		if err := os.WriteFile(tmp, []byte("#!/bin/sh\n"+answer+"\n"), 0o755); err != nil { //nolint:gosec // other users run it
			return err
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// cost is what a child process measured of itself.
type cost struct {
	Base, Peak int64 // resident bytes before, and at most in the course of it
	Kind       backends.Kind
	Error      string
	// Others are lists that another tenant's batch system answered meanwhile, and
	// Recovered that the first one is listed once it answers well.
	Others    int64
	Recovered string
}

func main() {
	way := flag.String("way", "", "measure this way to a batch system in this process: local, ssh or rest")
	flood := flag.String("flood", "", "the answer that it gets")
	flag.Parse()
	measuring.Main("replies", func(ctx context.Context) error {
		if *way == "" {
			return all(ctx)
		}
		c, err := measure(ctx, *way, *flood)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(c)
	})
}

// all measures every way in a process of its own.
func all(ctx context.Context) error {
	if err := sshd.EnsureInstalled(ctx, os.Stderr); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var wrong []error
	most := int64(0)
	for _, way := range []string{"local", "ssh", "rest"} {
		for flood := range floods {
			if way == "rest" && flood == mistakes {
				continue // it has one stream
			}
			cmd := exec.CommandContext(ctx, self, "-way", way, "-flood", flood)
			cmd.Stderr = os.Stderr
			raw, err := cmd.Output()
			var c cost
			if err == nil {
				err = json.Unmarshal(raw, &c)
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w", way, flood, err)
			}
			grown := c.Peak - c.Base
			most = max(most, grown)
			fmt.Printf("%-5s  %-16s  %4d MiB above %d MiB; %d lists of another tenant meanwhile; %s\n", way, flood, grown>>20, c.Base>>20, c.Others, c.Error)
			if grown > maxGrowth || c.Kind != backends.KindTransient || c.Others < 1 || c.Recovered != "" {
				wrong = append(wrong, fmt.Errorf("%s, %s: %d MiB of growth, kind %q, %d lists of another tenant, recovery %q", way, flood, grown>>20, c.Kind, c.Others, c.Recovered))
			}
		}
	}
	fmt.Printf("S8: at most %d MiB of growth, %d allowed\n", most>>20, maxGrowth>>20)
	return errors.Join(wrong...)
}

// system is a batch system that can be made to flood.
type system struct {
	backends.Backend
	set func(flood string) error // "" is well
	end func() error
}

// over makes one that is reached by the way.
func over(ctx context.Context, way string) (system, error) {
	if way == "rest" {
		return overREST()
	}
	dir, err := os.MkdirTemp("", "isthmus-flood-")
	if err != nil {
		return system{}, err
	}
	end := func() error { return os.RemoveAll(dir) }
	if err := os.Chmod(dir, 0o755); err != nil {
		return system{}, err
	}
	var runner transport.Runner = local.New()
	if way == "ssh" {
		r, stop, err := overSSH(ctx)
		if err != nil {
			return system{}, err
		}
		runner, end = r, func() error { return errors.Join(stop(), os.RemoveAll(dir)) }
	}
	set := func(flood string) error {
		if flood == "" {
			return program(dir, "exit 0")
		}
		return program(dir, floods[flood])
	}
	if err := set(""); err != nil {
		return system{}, err
	}
	b, err := slurm.New(slurm.Config{Runner: runner, Env: []string{"PATH=" + dir + ":/usr/bin:/bin"}})
	return system{b, set, end}, err
}

func overSSH(ctx context.Context) (*ssh.Runner, func() error, error) {
	key, err := sshd.NewKey(sshd.ED25519)
	if err != nil {
		return nil, nil, err
	}
	server, err := sshd.Start(ctx, sshd.Config{})
	if err != nil {
		return nil, nil, err
	}
	if err := server.Authorize(sshd.Bash, key.Public()); err != nil {
		return nil, nil, errors.Join(err, server.Stop())
	}
	runner, err := ssh.New(ssh.Config{
		Hosts: []string{server.Address}, User: sshd.Bash,
		Credentials: func(context.Context, string) (ssh.Credentials, error) { return ssh.Credentials{Key: key.PEM}, nil },
		KnownHosts:  func(context.Context) ([]byte, error) { return []byte(server.KnownHosts()), nil },
	})
	if err != nil {
		return nil, nil, errors.Join(err, server.Stop())
	}
	return runner, func() error { runner.Close(); return server.Stop() }, nil
}

type token struct{}

// Token implements slurmrest.Tokens.
func (token) Token(context.Context, string, time.Time) (slurmrest.Token, error) {
	return slurmrest.Token{Text: "token", Origin: "o"}, nil
}

func overREST() (system, error) {
	var flood atomic.Value
	flood.Store("")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, _ := flood.Load().(string)
		open, next := `{"x": "`, "y"
		switch kind {
		case "":
			fmt.Fprint(w, `{"errors": [], "jobs": []}`)
			return
		case "endless lines":
			open, next = `{"jobs": [`, `{"comment": "", "user_name": "x"},`
		}
		chunk := strings.Repeat(next, 1000)
		fmt.Fprint(w, open)
		for left := int64(10 << 30); kind != "10 GiB" || left > 0; left -= int64(len(chunk)) {
			if _, err := fmt.Fprint(w, chunk); err != nil {
				return
			}
			if kind != slow {
				continue
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}))
	b, err := slurmrest.New(slurmrest.Config{URL: server.URL, Tokens: token{}})
	return system{b, func(kind string) error { flood.Store(kind); return nil }, func() error { server.Close(); return nil }}, err
}

// resident is the memory of this process in bytes.
func resident() int64 {
	raw, err := os.ReadFile("/proc/self/statm")
	var size, pages int64
	if err == nil {
		_, err = fmt.Sscan(string(raw), &size, &pages)
	}
	if err != nil {
		return -1
	}
	return pages * int64(os.Getpagesize())
}

// measure is what one process does: a batch system floods it, while another
// tenant's goes on.
func measure(ctx context.Context, way, flood string) (_ cost, err error) {
	bad, err := over(ctx, way)
	if err != nil {
		return cost{}, err
	}
	defer func() { err = errors.Join(err, bad.end()) }()
	good, err := over(ctx, "local")
	if err != nil {
		return cost{}, err
	}
	defer func() { err = errors.Join(err, good.end()) }()
	list := func(ctx context.Context, s system) error {
		_, err := s.Observe(ctx, "owner", []string{sshd.Bash})
		return err
	}
	for _, s := range []system{bad, good, bad, good} {
		if err := list(ctx, s); err != nil {
			return cost{}, fmt.Errorf("a batch system that is well: %w", err)
		}
	}
	debug.FreeOSMemory()
	c := cost{Base: resident()}

	meanwhile, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	var peak, others atomic.Int64
	group.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-meanwhile.Done():
				return
			case <-tick.C:
				peak.Store(max(peak.Load(), resident()))
			}
		}
	})
	var stuck error
	group.Go(func() {
		for meanwhile.Err() == nil && stuck == nil {
			if err := list(meanwhile, good); err == nil {
				others.Add(1)
			} else if meanwhile.Err() == nil {
				stuck = fmt.Errorf("another tenant: %w", err)
			}
		}
	})
	if err := bad.set(flood); err != nil {
		return c, err
	}
	limit := 5 * time.Minute
	if flood == slow || flood == mistakes {
		limit = 3 * time.Second
	}
	// What one leaves behind is no gift to the next.
	for i := 0; i < 3 || others.Load() == 0 && i < 1000; i++ {
		limited, end := context.WithTimeout(ctx, limit)
		err := list(limited, bad)
		end()
		if err == nil {
			return c, errors.New("a flood was taken for a list")
		}
		c.Kind, c.Error = backends.KindOf(err), err.Error()
	}
	cancel()
	group.Wait()
	c.Peak, c.Others = peak.Load(), others.Load()
	if stuck != nil {
		return c, stuck
	}
	if err := bad.set(""); err != nil {
		return c, err
	}
	if err := list(ctx, bad); err != nil {
		c.Recovered = err.Error()
	}
	return c, nil
}
