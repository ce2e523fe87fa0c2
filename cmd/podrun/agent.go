package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/agent"
	"github.com/isthmus-hpc/isthmus/provider/podrun/crilog"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
	"github.com/isthmus-hpc/isthmus/provider/podrun/restart"
)

// followPoll is the time between looks at a log that is followed.
const followPoll = 300 * time.Millisecond

const (
	// pullWait is how long "pull" waits for news: small images are there by then.
	pullWait = time.Second
	pullNice = 10
)

// detach starts this program in a session of its own, so that it outlives the
// caller's connection. It reads and writes nothing.
func detach(args ...string) error {
	cmd := exec.Command("/proc/self/exe", args...) //nolint:gosec // this very program
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

func agentMain(args []string) int {
	if len(args) == 0 {
		return wrong(errors.New("agent: no verb"))
	}
	err := verb(args[0], args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "podrun: agent %s: %v\n", args[0], err)
	}
	return agent.Code(err)
}

// verb runs one verb. Its flags are those of the provider's contract.
func verb(name string, args []string) error {
	f := flags("agent " + name)
	root := f.String("root", "", "the user's staging root")
	bad := func(err error) error { return fmt.Errorf("%w: %w", err, agent.ErrInvalid) }
	var key *string
	var rank *int
	if name != "collect" && name != "stage" && name != "stop" && name != "pull" && name != "puller" {
		key = f.String("key", "", "the gang's key")
	}
	if name == "logs" || name == "ephemeral" || name == "want" {
		rank = f.Int("rank", -1, "the member's rank")
	}
	switch name {
	case "stage":
		digest := f.String("digest", "", "SHA-256 of this program, when the caller knows it")
		if err := parse(f, args, 0); err != nil {
			return bad(err)
		}
		return agent.Stage(*root, os.Stdin, "/proc/self/exe", *digest, os.Stdout)
	case "collect":
		store := f.String("images", "", "the user's image store (default: beneath the root)")
		var l image.Limits
		f.DurationVar(&l.Unused, "images-unused", 0, "remove images that nobody has used for that long; 0 is never")
		f.Int64Var(&l.Bytes, "images-bytes", 0, "remove images beyond so many bytes; 0 is no limit")
		if err := parse(f, args, 0); err != nil {
			return bad(err)
		}
		if err := agent.Collect(*root, os.Stdout); err != nil {
			return err
		}
		if err := agent.CollectImages(context.Background(), *root, *store, l); err != nil {
			fmt.Fprintf(os.Stderr, "podrun: agent collect: %v\n", err) // the answer is whole without it
		}
		return nil
	case "refresh":
		if err := parse(f, args, 0); err != nil {
			return bad(err)
		}
		return agent.Refresh(*root, *key, os.Stdin)
	case "ephemeral":
		if err := parse(f, args, 0); err != nil {
			return bad(err)
		}
		return agent.Ephemeral(*root, *key, *rank, os.Stdin)
	case "want":
		if err := parse(f, args, 0); err != nil {
			return bad(err)
		}
		return agent.Want(*root, *key, *rank, os.Stdin)
	case "remove":
		if err := parse(f, args, 0); err != nil {
			return bad(err)
		}
		if *key == "" {
			return agent.RemoveMany(*root, os.Stdin, os.Stdout)
		}
		return agent.Remove(*root, *key)
	case "stop":
		if err := parse(f, args, 0); err != nil {
			return bad(err)
		}
		return agent.Stop(*root, os.Stdin, os.Stdout)
	case "pull":
		if err := parse(f, args, 0); err != nil {
			return bad(err)
		}
		return agent.Pull(context.Background(), *root, os.Stdin, pullWait, func() error { return detach("agent", "puller", "--root", *root) }, os.Stdout)
	case "puller": // for "pull" alone
		if err := parse(f, args, 0); err != nil {
			return bad(err)
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		_ = unix.Setpriority(unix.PRIO_PGRP, 0, pullNice) // others work on a login host
		return agent.Puller(ctx, *root, restart.Kubelet())
	case "logs":
		q := agent.LogQuery{Query: crilog.Query{Poll: followPoll}}
		f.StringVar(&q.Container, "container", "", "the container's name")
		f.BoolVar(&q.Previous, "previous", false, "the run before the last")
		f.BoolVar(&q.Follow, "follow", false, "wait for more until the container has ended")
		f.IntVar(&q.Tail, "tail", -1, "last lines only")
		f.Int64Var(&q.LimitBytes, "limit-bytes", -1, "at most so many bytes")
		f.BoolVar(&q.Timestamps, "timestamps", false, "begin each line with its time")
		f.Func("since-time", "entries from then on, RFC 3339", func(s string) (err error) {
			q.Since, err = agent.ParseTime(s)
			return err
		})
		if err := parse(f, args, 0); err != nil {
			return bad(err)
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return agent.Logs(ctx, *root, *key, *rank, q, os.Stdout)
	}
	return bad(errors.New("unknown verb"))
}
