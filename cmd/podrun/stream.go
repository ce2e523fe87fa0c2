package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"strconv"

	"github.com/isthmus-hpc/isthmus/provider/podrun/agent"
	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
)

// Bounds of the files that are read, in bytes.
const (
	maxGangFile      = 64 << 20
	maxListeningFile = 64 << 10
)

// streamMain joins its standard streams with the runner of a pod: of one on this
// host or, over the network, on whichever it is. It ends as soon as either side
// does.
func streamMain(args []string) int {
	f := flags("stream")
	rank := f.Int("rank", -1, "rank in the gang")
	far := f.Bool("network", false, "reach the runner over the network, where it left word that it listens")
	if err := parse(f, args, 1); err != nil {
		return wrong(err)
	}
	way := connect
	if *far {
		way = reach
	}
	conn, err := way(f.Arg(0), *rank)
	if err != nil {
		fmt.Fprintf(os.Stderr, "podrun: stream: %v\n", err)
		return agent.ExitNotFound
	}
	ended := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(conn, os.Stdin); ended <- struct{}{} }()
	go func() { _, _ = io.Copy(os.Stdout, conn); ended <- struct{}{} }()
	<-ended // what is under way to a side that has gone is of no use to it
	_ = conn.Close()
	return 0
}

// reach connects over the network to the runner of a pod, as it left word.
func reach(dir string, rank int) (net.Conn, error) {
	gang, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open gang directory: %w", err)
	}
	defer func() { _ = gang.Close() }() // it was only read
	var at manifest.Listening
	err = atomicfile.ReadJSON(gang, path.Join("pods", strconv.Itoa(rank), manifest.ListeningFile), maxListeningFile, &at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the runner of rank %d does not listen on the network: it has not begun to, has ended, or was started before that was asked for", rank)
	case err != nil:
		return nil, err
	case at.Problem != "":
		return nil, fmt.Errorf("the runner of rank %d cannot be reached over the network: %s", rank, at.Problem)
	}
	return stream.Reach(context.Background(), at.Address, at.Secret)
}

// connect reaches the runner of a pod on this host.
func connect(dir string, rank int) (net.Conn, error) {
	gang, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open gang directory: %w", err)
	}
	defer func() { _ = gang.Close() }() // it was only read
	var g manifest.Gang
	if err := atomicfile.ReadJSON(gang, "gang.json", maxGangFile, &g); err != nil {
		return nil, err
	}
	name, err := stream.Address(gang, g.Attempt, rank)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: name})
	if err != nil {
		return nil, fmt.Errorf("no runner of rank %d is at work on this host: %w", rank, err)
	}
	// The name is anybody's to take before the runner does.
	if err := stream.Own(conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}
