//go:build record

package slurm_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// tee writes down what the commands answer.
type tee struct {
	transport.Runner
	t *testing.T
}

func (r tee) Run(ctx context.Context, c transport.Command) (transport.Result, error) {
	res, err := r.Runner.Run(ctx, c)
	text := string(res.Stdout)
	if sep := nonceOf(c.Argv); sep != "" {
		text = strings.ReplaceAll(text, sep, recordedSep)
	}
	// The machine that recorded is nobody's business.
	text = regexp.MustCompile(`OS=Linux \S+`).ReplaceAllString(text, "OS=Linux 6.1.0-18-amd64")
	if c.Argv[0] == "squeue" || c.Argv[0] == "scontrol" && c.Argv[1] != "release" {
		if err := os.WriteFile(recording(c.Argv), []byte(text), 0o644); err != nil {
			r.t.Error(err)
		}
	}
	return res, err
}

// TestRecord makes the recordings anew: a cluster with jobs and hosts in many
// states. It is a tool, and no test of an ordinary run:
//
//	go test -tags record -run TestRecord ./backends/slurm
func TestRecord(t *testing.T) {
	c := ownCluster(t, testbed.Config{
		Name: "recorded",
		Hosts: []testbed.Hosts{
			{Prefix: "gpu", Count: 4, CPUs: 64, MemoryMiB: 500000, GPUType: "a100", GPUs: 8, Features: []string{"nvlink"}},
			{Prefix: "cpu", Count: 3, CPUs: 16, MemoryMiB: 64000},
		},
		Partitions: []testbed.Partition{
			{Name: "a", Hosts: []string{"gpu[1-2]"}, Default: true, MaxTime: "1-00:00:00", Extra: "DefaultTime=01:00:00"},
			{Name: "b", Hosts: []string{"gpu[3-4]", "cpu[1-3]"}},
			{Name: "off", Hosts: []string{"cpu[1-3]"}, Extra: "Hidden=YES"},
		},
	})
	b, _ := newReal(t, c)
	s := siteOn(t, b)
	s.owner, s.keys = "recorded", "k"
	admin := func(argv ...string) {
		t.Helper()
		if _, err := c.Run(t.Context(), argv...); err != nil {
			t.Fatal(err)
		}
	}
	gpu := backends.Component{Tasks: 2, CPUs: 4, MemoryMiB: 1000, GPUs: map[string]int64{"a100": 2}}

	s.submit(s.spec("a", "exit 0", oneTask)) // k1: held
	s.state(s.start(s.spec("a", "exit 0", oneTask)), backends.StateCompleted)
	s.state(s.start(s.spec("a", "exit 3", oneTask)), backends.StateFailed)
	s.state(s.start(s.spec("a", "kill -9 $$", oneTask)), backends.StateFailed)
	cancelled := s.start(s.spec("a", "exec sleep 1000", oneTask)) // k5
	s.state(cancelled, backends.StateRunning)
	if err := s.Cancel(t.Context(), cancelled); err != nil {
		t.Fatal(err)
	}
	s.state(cancelled, backends.StateCancelled)
	s.state(s.start(s.spec("a", "exec sleep 1000", gpu)), backends.StateRunning) // k6
	het := s.start(s.spec("b", "exec sleep 1000", gpu, oneTask))                 // k7
	s.state(het, backends.StateRunning)
	requeued := s.start(s.spec("a", "exec sleep 1000", oneTask)) // k8
	s.state(requeued, backends.StateRunning)
	admin("scontrol", "requeue", string(requeued.ID))
	s.state(requeued, backends.StatePending)
	big := gpu
	big.GPUs = map[string]int64{"a100": 8}
	waiting := s.start(s.spec("a", "exit 0", big)) // k9: all of a, while k6 holds some
	s.until(waiting, "waiting", time.Minute, func(j backends.Job) bool { return j.Reason == "Resources" && !j.Estimated.IsZero() })
	big.GPUs = map[string]int64{"a100": 9}
	never := s.start(s.spec("b", "exit 0", big)) // k10
	s.until(never, "known never to run", time.Minute, func(j backends.Job) bool { return j.Never })
	suspended := s.start(s.spec("b", "exec sleep 1000", oneTask)) // k11
	s.state(suspended, backends.StateRunning)
	admin("scontrol", "suspend", string(suspended.ID))
	hetHeld := s.submit(s.spec("b", "exit 0", oneTask, gpu)) // k12
	s.state(hetHeld, backends.StatePending)
	admin("scontrol", "update", "nodename=cpu2", "state=drain", "reason=fan broken State=IDLE")
	admin("scontrol", "update", "nodename=cpu3", "state=down", "reason=power")
	admin("scontrol", "update", "partitionname=off", "state=down")
	admin("scontrol", "create", "reservation", "reservationname=maint", "starttime=now", "duration=60", "nodes=gpu4", "flags=maint,ignore_jobs", "user=root")
	for deadline := time.Now().Add(time.Minute); ; <-time.After(100 * time.Millisecond) {
		out, err := c.Run(t.Context(), "scontrol", "-o", "show", "node", "gpu4")
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("gpu4 never was in maintenance: %s, %v", out, err)
		}
		if strings.Contains(out, "MAINT") {
			break
		}
	}
	s.until(suspended, "suspended", time.Minute, func(j backends.Job) bool { return j.State == backends.StateSuspended })

	writer, err := slurm.New(slurm.Config{Runner: tee{local.New(), t}, Env: c.Env()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Observe(t.Context(), s.owner, s.users); err != nil {
		t.Error(err)
	}
	if _, err := writer.Inventory(t.Context()); err != nil {
		t.Error(err)
	}
}
