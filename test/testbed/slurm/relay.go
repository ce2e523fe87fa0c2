package slurm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Relay lets hosts with networks of their own reach a server of this machine's
// loopback, such as the testbed's API server, under the very address that it has
// here. It returns once it listens on every host; close ends it and the
// connections, and returns when they have ended.
func (c *Cluster) Relay(address string) (closeRelay func(), err error) {
	if !c.record.Place.Networks {
		return func() {}, nil // its hosts are on the loopback themselves
	}
	ctx, cancel := context.WithCancel(context.Background())
	var listeners []net.Listener
	var served sync.WaitGroup
	closeRelay = func() {
		cancel()
		for _, l := range listeners {
			_ = l.Close()
		}
		served.Wait()
	}
	for _, h := range c.record.Hosts {
		l, err := listenIn(ctx, filepath.Join("/run/netns", c.networkOf(h.Name)), address)
		if err != nil {
			closeRelay()
			return nil, fmt.Errorf("let host %s reach %s: %w", h.Name, address, err)
		}
		listeners = append(listeners, l)
		served.Go(func() {
			for {
				from, err := l.Accept()
				if err != nil {
					return
				}
				served.Go(func() { relay(ctx, from, address) })
			}
		})
	}
	return closeRelay, nil
}

// listenIn listens in another network namespace: a socket stays in the one it was
// made in.
func listenIn(ctx context.Context, namespace, address string) (net.Listener, error) {
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine, so that no other ever
		// runs in that namespace.
		runtime.LockOSThread()
		f, err := os.Open(namespace)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer func() { _ = f.Close() }()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil { //nolint:gosec // a descriptor fits
			done <- result{err: fmt.Errorf("enter %s: %w", namespace, err)}
			return
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		done <- result{l, err}
	}()
	r := <-done
	return r.l, r.err
}

// relay copies both ways until one side ends.
func relay(ctx context.Context, from net.Conn, address string) {
	defer func() { _ = from.Close() }()
	to, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return // the client sees the connection end
	}
	defer func() { _ = to.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = errors.Join(from.Close(), to.Close()) })
	defer stop()
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(from, to)
		_ = from.Close()
	}()
	_, _ = io.Copy(to, from)
	_ = to.Close()
	<-back
}
