package crash_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/local"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	transport "github.com/isthmus-hpc/isthmus/backends/transport/local"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/pbs"
)

// batch is a batch system that lives are led on.
type batch struct {
	name      string // spec.type and launcher
	partition string
	pause     time.Duration // of a tick
	// open is what a daemon does that starts in a life's directory; owner is the
	// life's own.
	open func(dir string) (backends.Backend, error)
}

// owner is whose jobs a life's are: lives may share a batch system.
func (w *world) owner() string { return fmt.Sprintf("life-%d", w.serial) }

// embedded is the local batch system, one for each life.
func embedded() batch {
	return batch{name: "local", partition: "main", pause: 60 * time.Millisecond, open: func(dir string) (backends.Backend, error) {
		return local.New(local.Config{
			StateDir: filepath.Join(dir, "state"), Supervisor: suite.podrun, Users: []string{suite.user},
			Partitions: []local.Partition{{Name: "main", Hosts: 2, CPUs: 16, MemoryMiB: 16 << 10}},
		})
	}}
}

// standIn is a PBS that all lives of t share, with real processes and files, as
// package testbed/pbs plays it. Without history a server forgets a job as it ends.
func standIn(t *testing.T, history bool) batch {
	t.Helper()
	cluster, err := testbed.Start(t.Context(), testbed.Config{
		History: history, KillDelay: 2 * time.Second,
		Hosts: []testbed.Host{{Name: "n1", CPUs: 64, MemoryMiB: 64 << 10}, {Name: "n2", CPUs: 64, MemoryMiB: 64 << 10}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(cluster.LogTails(20))
		}
		if err := cluster.Stop(); err != nil {
			t.Error(err)
		}
	})
	return batch{name: "pbs", partition: "workq", pause: 200 * time.Millisecond, open: func(dir string) (backends.Backend, error) {
		return pbs.New(pbs.Config{
			Runner: transport.New(), Dialect: pbs.Pro, Env: cluster.Env(),
			Records: func(user string) (string, error) { return filepath.Join(dir, "staging", user, "pbs"), nil },
		})
	}}
}
