package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

func (b *bench) file(name string) string {
	return filepath.Join(filepath.Dir(b.root), "home", name)
}

func (b *bench) pids(name string) []int {
	data, err := os.ReadFile(b.file(name))
	if err != nil {
		return nil
	}
	var out []int
	for _, f := range strings.Fields(string(data)) {
		if n, err := strconv.Atoi(f); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// Children in the background, daemons that left the session, and daemons that
// cleared their environment die with their container.
func TestLeftoversAreKilled(t *testing.T) {
	for _, mode := range []string{"", "--no-namespaces"} {
		t.Run("mode"+mode, func(t *testing.T) {
			b := newBench(t)
			script := `sleep 1000 & echo $! >> $HOME/pids
setsid sh -c 'echo $$ >> $HOME/pids; exec sleep 1001' &
(setsid sh -c 'echo $$ >> $HOME/pids; sleep 1002 & echo $! >> $HOME/pids; wait' &)
H=$HOME; if test -z "` + mode + `"; then (env -i setsid sh -c "echo \$\$ >> $H/pids; exec sleep 1003" &); else echo $$ >> $HOME/pids; fi
while test $(wc -l < $HOME/pids) -lt 5; do sleep 0.01; done; exit 4`
			// The second container outlives the first, to show that its processes went with it.
			second := sh("second", "while ! test -e $HOME/go; do sleep 0.02; done")
			b.stage(one(sh("main", script), second))
			p := b.startPod(strings.Fields(mode)...)
			until(t, "the first container has ended", func() bool {
				s, ok := b.status(0)
				return ok && len(s.Containers) == 2 && s.Containers[0].State.Terminated != nil
			})
			pids := b.pids("pids")
			if len(pids) != 5 {
				t.Errorf("pids %v, want 5", pids)
			}
			for _, pid := range pids {
				if alive(pid) {
					t.Errorf("process %d lives on", pid)
				}
			}
			until(t, "the other container runs, still or by now", func() bool { return b.runningNow("second") })
			if err := os.WriteFile(b.file("go"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			p.wait()
			if s := b.final(0, manifest.PhaseFailed); exitCode(s, 0) != 4 || exitCode(s, 1) != 0 {
				t.Errorf("exit codes: %+v", s.Containers)
			}
		})
	}
}

func TestStop(t *testing.T) {
	trap := "trap 'echo caught; sleep 0.1; exit 5' TERM; echo up; while :; do sleep 0.02; done"
	deaf := "trap '' TERM; echo up; while :; do sleep 0.02; done"
	for name, tc := range map[string]struct {
		script       string
		grace        int64
		code, signal int32
		phase        manifest.Phase
	}{
		"heeds":         {trap, 30, 5, 0, manifest.PhaseFailed},
		"ends well":     {strings.Replace(trap, "exit 5", "exit 0", 1), 30, 0, 0, manifest.PhaseSucceeded},
		"deaf":          {deaf, 1, 137, 9, manifest.PhaseFailed},
		"no grace":      {trap, 0, 137, 9, manifest.PhaseFailed},
		"default death": {"echo up; exec sleep 1000", 30, 143, 15, manifest.PhaseFailed},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.stage(one(sh("main", tc.script)))
			p := b.startPod()
			until(t, "it is up", func() bool { return b.runningNow("main") && strings.Contains(b.logs(0, "main"), "up") })
			began := time.Now()
			b.stop(manifest.Stop{GraceSeconds: tc.grace, Reason: manifest.ReasonDeleted})
			p.wait()
			took := time.Since(began)
			s := b.final(0, tc.phase)
			if e := s.Containers[0].State.Terminated; e == nil || e.ExitCode != tc.code || e.Signal != tc.signal {
				t.Errorf("container: %+v", e)
			}
			if tc.phase == manifest.PhaseFailed && s.Reason != "Deleted" {
				t.Errorf("reason %q", s.Reason)
			}
			if took > 20*time.Second || (name == "deaf" && took < time.Second) {
				t.Errorf("took %v", took)
			}
		})
	}
}

// SIGTERM to the launcher and the files it leaves end all members with grace.
func TestTerminateGang(t *testing.T) {
	b := newBench(t)
	m := one(sh("main", "trap 'echo caught; exit 0' TERM; echo up; while :; do sleep 0.02; done"))
	b.stage(m, m)
	p := b.start("launch", ".")
	b.allUp(2, "up")
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != 1 {
		t.Errorf("launch exited %d, want 1", code)
	}
	for rank := range 2 {
		if s := b.final(rank, manifest.PhaseFailed); s.Reason != "Terminated" || exitCode(s, 0) != 0 {
			t.Errorf("rank %d: %+v", rank, s)
		}
	}
}

// A member that fails or is killed takes no sibling with it.
func TestSiblingsLiveOn(t *testing.T) {
	b := newBench(t)
	good := one(sh("main", "while ! test -e $HOME/go; do sleep 0.02; done; echo done"))
	b.stage(good, one(sh("main", "kill -9 $$")), one(corev1.Container{Name: "main"}), good)
	p := b.start("launch", ".")
	for rank := 1; rank <= 2; rank++ {
		until(t, "the bad members have ended", func() bool { s, _ := b.status(rank); return s.Phase == manifest.PhaseFailed })
	}
	if s, _ := b.status(1); exitCode(s, 0) != 137 || s.Containers[0].State.Terminated.Signal != 9 || s.Containers[0].State.Terminated.Reason != "Error" {
		t.Errorf("killed: %+v", s.Containers)
	}
	if err := os.WriteFile(b.file("go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != 1 {
		t.Errorf("launch exited %d, want 1", code)
	}
	b.final(0, manifest.PhaseSucceeded)
	b.final(3, manifest.PhaseSucceeded)
	if data, _ := os.ReadFile(filepath.Join(b.dir(), "end.json")); !strings.Contains(string(data), "2 of 4 pods failed") {
		t.Errorf("end.json: %s", data)
	}
}

// When the runner is killed, its containers do not live on, and the launcher
// says that the pod ended without a last word.
func TestRunnerKilled(t *testing.T) {
	b := newBench(t)
	b.stage(one(sh("main", "echo $$ >> $HOME/pids; echo $PPID >> $HOME/pids; while :; do sleep 0.02; done")))
	p := b.start("launch", ".")
	until(t, "it runs", func() bool { return len(b.pids("pids")) == 2 })
	pids := b.pids("pids")
	if err := syscall.Kill(pids[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != 1 {
		t.Errorf("launch exited %d, want 1", code)
	}
	until(t, "the container is gone", func() bool { return !alive(pids[0]) })
	if data, _ := os.ReadFile(filepath.Join(b.dir(), "end.json")); !strings.Contains(string(data), "1 ended without a last word") {
		t.Errorf("end.json: %s", data)
	}
	b.emptyTemp()
}

func globbed(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestInitAndSidecar(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	b := newBench(t)
	m := one(sh("main", "echo main >> $HOME/order; while ! grep -q ready-2 $HOME/order; do sleep 0.02; done"))
	side := func(n int) corev1.Container {
		c := sh(fmt.Sprintf("side-%d", n), fmt.Sprintf("echo side-%d >> $HOME/order; trap 'echo end-%d >> $HOME/order; exit 0' TERM; echo ready-%d >> $HOME/order; while :; do sleep 0.02; done", n, n, n))
		c.RestartPolicy = &always
		c.StartupProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 30,
			ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", fmt.Sprintf("grep -q ready-%d $HOME/order", n)}}}}
		return c
	}
	m.spec.InitContainers = []corev1.Container{sh("first", "echo first >> $HOME/order"), side(1), sh("middle", "echo middle >> $HOME/order"), side(2)}
	b.stage(m)
	if code := b.pod(); code != 0 {
		t.Errorf("pod exited %d", code)
	}
	data, err := os.ReadFile(b.file("order"))
	if want := "first\nside-1\nready-1\nmiddle\nside-2\nready-2\nmain\nend-2\nend-1\n"; err != nil || string(data) != want {
		t.Errorf("order %q, want %q (%v)", data, want, err)
	}
	for _, c := range b.final(0, manifest.PhaseSucceeded).InitContainers {
		if c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 || c.RestartCount != 0 {
			t.Errorf("%+v", c)
		}
	}
}

func TestInitFails(t *testing.T) {
	b := newBench(t)
	m := one(sh("main", "echo no"))
	m.spec.InitContainers = []corev1.Container{sh("first", "exit 6"), sh("second", "echo no")}
	b.stage(m)
	if code := b.pod(); code != 1 {
		t.Errorf("pod exited %d, want 1", code)
	}
	s := b.final(0, manifest.PhaseFailed)
	if s.InitContainers[0].State.Terminated.ExitCode != 6 || s.InitContainers[1].State.Waiting == nil || s.Containers[0].State.Waiting == nil {
		t.Errorf("status %+v", s)
	}
	if !strings.Contains(s.Message, `init container "first" ended with exit code 6`) {
		t.Errorf("message %q", s.Message)
	}
}

func TestRestarts(t *testing.T) {
	b := newBench(t)
	m := one(sh("main", "echo run >> $HOME/runs; n=$(wc -l < $HOME/runs); echo this is $n; test $n -ge 4"), sh("steady", "while ! test $(wc -l < $HOME/runs) -ge 4; do sleep 0.02; done"))
	m.spec.RestartPolicy = corev1.RestartPolicyOnFailure
	b.stage(m)
	if code := b.pod(); code != 0 {
		t.Errorf("pod exited %d", code)
	}
	s := b.final(0, manifest.PhaseSucceeded)
	c := s.Containers[0]
	if c.RestartCount != 3 || c.LastState.Terminated == nil || c.LastState.Terminated.ExitCode != 1 || c.ContainerID != "host://uid-0/main/3" || s.Containers[1].RestartCount != 0 {
		t.Errorf("containers %+v", s.Containers)
	}
	if got := b.logs(0, "main"); got != "this is 4\n" {
		t.Errorf("log %q", got)
	}
	if got := b.logs(0, "main", "--previous"); got != "this is 3\n" {
		t.Errorf("previous log %q", got)
	}
	if _, _, code := b.agent(nil, "logs", "--key", "g1", "--rank", "0", "--container", "steady", "--previous"); code != 4 {
		t.Errorf("previous log of a container without one: exit %d, want 4", code)
	}
}
