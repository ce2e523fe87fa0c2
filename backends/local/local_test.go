package local_test

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/local"
	"github.com/isthmus-hpc/isthmus/backends/local/supervise"
)

// TestMain lets the test binary be its own supervisor.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == supervise.Command {
		os.Exit(supervise.Main(os.Args[2:], os.Stderr))
	}
	if len(os.Args) == 6 && os.Args[1] == daemonCommand {
		if err := daemon(os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// jobUser is who runs the jobs: as root somebody without rights, else ourselves.
func jobUser(t *testing.T) (name string, uid, gid int) {
	t.Helper()
	u, err := user.LookupId(strconv.Itoa(os.Getuid()))
	if os.Getuid() == 0 {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		t.Fatalf("find the jobs' user: %v", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil {
		t.Fatalf("ids of %s: %v, %v", u.Username, err1, err2)
	}
	return u.Username, uid, gid
}

// supervisor gives a program that is this test binary. The script around it
// takes away the second that the race detector waits at the end of every
// process, since two processes come and go for each job.
func supervisor(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "supervisor")
	text := fmt.Sprintf("#!/bin/sh\nGORACE=atexit_sleep_ms=0 exec '%s' \"$@\"\n", self)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func config(t *testing.T) local.Config {
	t.Helper()
	name, _, _ := jobUser(t)
	return local.Config{
		StateDir:   filepath.Join(t.TempDir(), "state"),
		Supervisor: supervisor(t),
		Partitions: []local.Partition{{Name: "main", Hosts: 2, CPUs: 4, MemoryMiB: 1000, GPUs: 2, GPUType: "a100"}},
		Users:      []string{name},
	}
}

func open(t *testing.T, cfg local.Config) *local.Backend {
	t.Helper()
	b, err := local.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		name, uid, gid := jobUser(t)
		disk := backendtest.NewDisk(t, uid, gid)
		cfg := config(t)
		return backendtest.Harness{
			Backend: open(t, cfg), Owner: "mine", OtherOwner: "other", User: name, Partition: "main", Slots: 8, MemoryMiB: 10,
			Place: disk.Place, Trace: disk.Trace, Log: disk.Log,
			Interval: 20 * time.Millisecond, Rounds: 1500,
			Singleton: true, Walltime: time.Second,
			Reopen: func(t *testing.T) backends.Backend { return open(t, cfg) },
		}
	})
}
