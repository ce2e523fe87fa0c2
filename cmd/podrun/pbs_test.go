package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	backendpbs "github.com/isthmus-hpc/isthmus/backends/pbs"
	localrunner "github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	testusers "github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/pbs"
	"github.com/isthmus-hpc/isthmus/test/testbed/pbs/pbstest"
)

// pbsBench is a bench whose gangs run in a stand-in of PBS or Torque.
type pbsBench struct {
	*bench
	cluster *pbs.Cluster
	back    *backendpbs.Backend
	dialect backendpbs.Dialect
}

func TestPBS(t *testing.T) {
	for _, dialect := range []backendpbs.Dialect{backendpbs.Pro, backendpbs.Torque} {
		t.Run(string(dialect), func(t *testing.T) {
			c := pbstest.Start(t, pbs.Config{
				Torque: dialect == backendpbs.Torque, History: true, KeepCompleted: time.Minute, KillDelay: 8 * time.Second,
				Hosts: []pbs.Host{
					{Name: "c1", CPUs: 8, MemoryMiB: 8000}, {Name: "g1", CPUs: 8, MemoryMiB: 8000, GPUs: 8}, {Name: "g2", CPUs: 8, MemoryMiB: 8000, GPUs: 8},
				},
			})
			back, err := backendpbs.New(backendpbs.Config{Runner: localrunner.New(), Dialect: dialect, Env: c.Env(),
				Records: func(user string) (string, error) { return filepath.Join(c.StagingDir, user), nil }})
			if err != nil {
				t.Fatal(err)
			}
			t.Run("cases", func(t *testing.T) { // parallel cases end before the server does
				for name, run := range map[string]func(*testing.T, *pbsBench){
					"gang": pbsGang, "cancel": pbsCancel, "again": pbsAgain,
				} {
					t.Run(name, func(t *testing.T) {
						run(t, &pbsBench{bench: newBench(t), cluster: c, back: back, dialect: dialect})
					})
				}
			})
		})
	}
}

// submit runs the staged gang as a batch job.
func (b *pbsBench) submit(components ...manifest.Component) backends.JobRef {
	b.t.Helper()
	g := manifest.Gang{}
	name := filepath.Join(b.dir(), "gang.json")
	data, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(data, &g)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	g.Launcher, g.Components = string(b.dialect), components
	if data, err = json.Marshal(g); err == nil {
		err = os.WriteFile(name, data, 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	spec := backends.JobSpec{Key: "g1", Owner: "o", User: testusers.Alice, WorkDir: b.dir()}
	for _, c := range components {
		spec.Components = append(spec.Components, backends.Component{Tasks: c.Tasks, CPUs: c.CPUs, GPUs: c.GPUs})
	}
	id, err := b.back.Submit(b.t.Context(), spec)
	if err != nil {
		b.t.Fatal(err)
	}
	ref := backends.JobRef{ID: id, Key: spec.Key, User: spec.User}
	if err := b.back.Release(b.t.Context(), ref); err != nil {
		b.t.Fatal(err)
	}
	b.showBatchLog()
	return ref
}

// Unlike members on three hosts; two share one and its devices.
func pbsGang(t *testing.T, b *pbsBench) {
	m := one(sh("main", `echo "gpus=$CUDA_VISIBLE_DEVICES"; for n in 0 1 2 3; do getent hosts m-$n-host || exit 1; done`))
	b.stage(m, m, m, m)
	b.submit(manifest.Component{Tasks: 1, CPUs: 8}, manifest.Component{Tasks: 3, CPUs: 2, GPUs: map[string]int64{"": 4}})
	if e := b.end(0); e.ExitCode != 0 {
		t.Errorf("end %+v", e)
	}
	used := map[string]bool{}
	hosts := map[string]bool{}
	for rank := range 4 {
		s := b.final(rank, manifest.PhaseSucceeded)
		hosts[s.Host] = true
		gpus, _, _ := strings.Cut(b.logs(rank, "main"), "\n")
		if want := map[bool]int{true: 0, false: 4}[rank == 0]; len(strings.FieldsFunc(strings.TrimPrefix(gpus, "gpus="), func(r rune) bool { return r == ',' })) != want {
			t.Errorf("rank %d: %s", rank, gpus)
		}
		if rank > 0 && used[s.Host+gpus] {
			t.Errorf("rank %d has %s of %s, which another has too", rank, gpus, s.Host)
		}
		used[s.Host+gpus] = true
	}
	if len(hosts) != 3 {
		t.Errorf("hosts %v", hosts)
	}
}

// A cancel reaches the members on all hosts, with their grace.
func pbsCancel(t *testing.T, b *pbsBench) {
	m := one(sh("main", "trap 'sleep 2; echo cleaned up; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
	m.grace = 5
	b.stage(m, m)
	ref := b.submit(manifest.Component{Tasks: 2, CPUs: 5})
	for rank := range 2 {
		until(t, "it is up", func() bool {
			s, _ := b.status(rank)
			return s.Phase == manifest.PhaseRunning && s.Containers[0].State.Running != nil && strings.Contains(b.logs(rank, "main"), "up")
		})
	}
	if err := b.back.Cancel(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	b.end(0)
	for rank := range 2 {
		if s := b.final(rank, manifest.PhaseFailed); s.Reason != "Terminated" || exitCode(s, 0) != 0 || !strings.Contains(b.logs(rank, "main"), "cleaned up") {
			t.Errorf("rank %d: %+v, log %q", rank, s, b.logs(rank, "main"))
		}
	}
}

// A job that the site runs again starts its members anew, who count it.
func pbsAgain(t *testing.T, b *pbsBench) {
	m := one(sh("main", fmt.Sprintf("test -e %s/again && exit; echo up; exec sleep 1000", b.dir())))
	b.stage(m, m)
	ref := b.submit(manifest.Component{Tasks: 2, CPUs: 1})
	for rank := range 2 {
		until(t, "it has looked for the file, and goes on", func() bool {
			s, _ := b.status(rank)
			return s.Phase == manifest.PhaseRunning && s.Containers[0].State.Running != nil && strings.Contains(b.logs(rank, "main"), "up")
		})
	}
	if err := os.WriteFile(filepath.Join(b.dir(), "again"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.cluster.Run(t.Context(), "qrerun", string(ref.ID)); err != nil {
		t.Fatal(err)
	}
	if e := b.end(1); e.ExitCode != 0 {
		t.Errorf("end %+v", e)
	}
	for rank := range 2 {
		if s := b.final(rank, manifest.PhaseSucceeded); s.Restart != 1 || s.Containers[0].RestartCount != 1 {
			t.Errorf("rank %d: %+v", rank, s)
		}
	}
}
