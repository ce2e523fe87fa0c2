package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

func TestEndedPodDoesNotRunAgain(t *testing.T) {
	b := newBench(t)
	b.stage(one(sh("main", "echo run >> $HOME/runs; exit 3")))
	if code := b.pod(); code != 1 {
		t.Errorf("first run exited %d, want 1", code)
	}
	first := b.final(0, manifest.PhaseFailed)
	if code := b.pod(); code != 0 {
		t.Errorf("second run exited %d, want 0", code)
	}
	if again := b.final(0, manifest.PhaseFailed); again.Seq != first.Seq {
		t.Errorf("the status was written again: %+v", again)
	}
	if data, _ := os.ReadFile(b.file("runs")); string(data) != "run\n" {
		t.Errorf("runs: %q", data)
	}
}

// A requeued batch job runs the pod again, with the restart counted.
func TestRequeue(t *testing.T) {
	b := newBench(t)
	m := one(sh("main", "echo run >> $HOME/runs; echo this is $(wc -l < $HOME/runs); test -e $HOME/again || exec sleep 1000"))
	b.stage(m, m)
	p := b.start("launch", ".")
	b.allUp(2, "this is")
	before, _ := b.status(0)
	b.requeue(p)
	if code := b.launch(); code != 0 {
		t.Errorf("launch exited %d, want 0", code)
	}
	s := b.final(0, manifest.PhaseSucceeded)
	c := s.Containers[0]
	if s.Restart != 1 || c.RestartCount != 1 || c.LastState.Terminated == nil || c.LastState.Terminated.ExitCode != 137 || before.Restart != 0 {
		t.Errorf("status %+v", s)
	}
	if got, prev := b.logs(0, "main"), b.logs(0, "main", "--previous"); !strings.HasPrefix(got, "this is ") || !strings.HasPrefix(prev, "this is ") {
		t.Errorf("logs %q, %q", got, prev)
	}
	if data, _ := os.ReadFile(filepath.Join(b.dir(), "end.json")); !strings.Contains(string(data), `"restart":1`) {
		t.Errorf("end.json: %s", data)
	}
	// A late runner of the run before must not touch anything.
	b.env[len(b.env)-1] = "SLURM_RESTART_COUNT=0"
	if code := b.pod(); code != 2 {
		t.Errorf("a late runner exited %d, want 2", code)
	}
}

func TestTwoRunnersAtOnce(t *testing.T) {
	b := newBench(t)
	b.stage(one(sh("main", "echo run >> $HOME/runs; while ! test -e $HOME/go; do sleep 0.02; done")))
	p := b.startPod()
	until(t, "it runs", func() bool { return b.runningNow("main") })
	if code := b.pod(); code != 2 {
		t.Errorf("second runner exited %d, want 2", code)
	}
	if err := os.WriteFile(b.file("go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != 0 {
		t.Errorf("pod exited %d", code)
	}
	if data, _ := os.ReadFile(b.file("runs")); string(data) != "run\n" {
		t.Errorf("runs: %q", data)
	}
}

func TestWithoutNamespaces(t *testing.T) {
	b := newBench(t)
	b.args = []string{"--no-namespaces"}
	m := one(sh("main", `echo "$VC_WORKER_HOSTS $MASTER_ADDR $OTHER"; echo "$TF_CONFIG $0"; grep -q m-1-host.sub "$ISTHMUS_HOSTS_FILE" && echo found; echo bye > "$ISTHMUS_TERMINATION_LOG"`))
	m.env = map[string][]manifest.EnvVar{"main": {
		{Name: "VC_WORKER_HOSTS", Value: []byte("m-0-host.sub,m-1-host.sub")}, {Name: "MASTER_ADDR", Value: []byte("m-1-host")}, {Name: "OTHER", Value: []byte("m-1-host")},
		{Name: "TF_CONFIG", Value: []byte(`{"cluster":{"worker":["m-0-host.sub:2222","m-1-host.sub:2222"]},"task":{"type":"worker","index":0}}`)}}}
	m.spec.Containers[0].Command = append(m.spec.Containers[0].Command, "--address=m-1-host.sub:6379")
	b.stage(m, m)
	b.env = append(b.env, `ISTHMUS_LOCAL_TASKS=[{"rank":0,"host":"a"},{"rank":1,"host":"b","addr":"127.0.0.2"}]`)
	if code := b.launch(); code != 0 {
		t.Errorf("launch exited %d, want 0", code)
	}
	if got, want := b.logs(0, "main"), "127.0.0.1,127.0.0.2 127.0.0.2 m-1-host\n"+
		`{"cluster":{"worker":["127.0.0.1:2222","127.0.0.2:2222"]},"task":{"type":"worker","index":0}} --address=127.0.0.2:6379`+"\nfound\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
	if s := b.final(0, manifest.PhaseSucceeded); s.Containers[0].State.Terminated.Message != "bye\n" {
		t.Errorf("message %q", s.Containers[0].State.Terminated.Message)
	}
}

// Where names resolve they stay, but for the one variable whose readers know no
// names.
func TestAddressOnly(t *testing.T) {
	b := newBench(t)
	m := one(sh("main", `echo "$MS_SCHED_HOST $MASTER_ADDR"`))
	m.env = map[string][]manifest.EnvVar{"main": {
		{Name: "MS_SCHED_HOST", Value: []byte("m-1-host.sub")}, {Name: "MASTER_ADDR", Value: []byte("m-1-host")}}}
	b.stage(m, m)
	b.env = append(b.env, `ISTHMUS_LOCAL_TASKS=[{"rank":0,"host":"a"},{"rank":1,"host":"b","addr":"127.0.0.2"}]`)
	if code := b.launch(); code != 0 {
		t.Errorf("launch exited %d, want 0", code)
	}
	if got, want := b.logs(0, "main"), "127.0.0.2 m-1-host\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
}

func TestVolumeWithoutNamespaces(t *testing.T) {
	b := newBench(t)
	c := sh("main", "true")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "tmp", MountPath: "/data"}}
	m := one(c)
	m.volumes = map[string]manifest.Volume{"tmp": {Kind: "emptyDir"}}
	b.stage(m)
	if code := b.pod("--no-namespaces"); code != 1 {
		t.Errorf("pod exited %d, want 1", code)
	}
	if s := b.final(0, manifest.PhaseFailed); s.Reason != "CreateContainerError" || !strings.Contains(s.Message, "spec.containers[0].volumeMounts[0].mountPath: /data cannot be provided") {
		t.Errorf("reason %q, message %q", s.Reason, s.Message)
	}
}

// A pod waits for the whole gang before any container starts, and says so.
func TestWaitsForPeers(t *testing.T) {
	b := newBench(t)
	m := one(sh("main", "getent hosts m-1-host"))
	b.stage(m, m, m)
	p := b.startPod()
	until(t, "it waits", func() bool {
		s, _ := b.status(0)
		return s.Reason == "WaitingForPeers" && s.Message == "1 of 3 members have started; waiting for m-1, m-2"
	})
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(b.dir(), "pods", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("2/status.json", `{"version":1,"rank":2,"phase":"Failed"}`) // it will never come
	write("1/addr.json", `{"rank":1,"host":"x","ip":"127.0.0.9","restart":0}`)
	if code := p.wait(); code != 0 {
		t.Errorf("pod exited %d", code)
	}
	if got := b.logs(0, "main"); !strings.HasPrefix(got, "127.0.0.9") {
		t.Errorf("log %q", got)
	}
	if s := b.final(0, manifest.PhaseSucceeded); s.Reason != "" {
		t.Errorf("reason %q stays", s.Reason)
	}
}

func TestActiveDeadline(t *testing.T) {
	b := newBench(t)
	m := one(sh("main", "exec sleep 1000"))
	m.spec.ActiveDeadlineSeconds = new(int64(1))
	b.stage(m)
	if code := b.pod(); code != 1 {
		t.Errorf("pod exited %d, want 1", code)
	}
	if s := b.final(0, manifest.PhaseFailed); s.Reason != "DeadlineExceeded" {
		t.Errorf("reason %q", s.Reason)
	}
}

func TestProbesAndHooks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := intstr.FromInt(l.Addr().(*net.TCPAddr).Port)
	b := newBench(t)
	c := sh("main", "trap 'echo term >> $HOME/order; exit 0' TERM; while :; do sleep 0.02; done")
	c.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", "echo post >> $HOME/order"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", "echo pre >> $HOME/order; test -e /tmpvol"}}},
	}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "tmp", MountPath: "/tmpvol"}}
	c.StartupProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-d", "/tmpvol"}}}}
	c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Host: "127.0.0.1", Port: port}}}
	sick := sh("sick", "echo run; exec sleep 1000")
	sick.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TerminationGracePeriodSeconds: new(int64(1)),
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Host: "127.0.0.1", Port: intstr.FromInt(1)}}}
	m := one(c, sick)
	m.spec.RestartPolicy = corev1.RestartPolicyAlways
	m.volumes = map[string]manifest.Volume{"tmp": {Kind: "emptyDir"}}
	b.stage(m)
	p := b.startPod()
	until(t, "it is ready, and the other one was restarted", func() bool {
		s, _ := b.status(0)
		return len(s.Containers) == 2 && s.Containers[0].Ready && s.Containers[0].Started && s.Containers[1].RestartCount > 0
	})
	if s, _ := b.status(0); s.Containers[1].LastState.Terminated == nil || !strings.Contains(s.Containers[1].LastState.Terminated.Message, "liveness probe failed") {
		t.Errorf("the sick one: %+v", s.Containers[1])
	}
	b.stop(manifest.Stop{GraceSeconds: 20})
	p.wait()
	if data, _ := os.ReadFile(b.file("order")); string(data) != "post\npre\nterm\n" {
		s, _ := b.status(0)
		t.Errorf("order %q; before it: %+v", data, s.Containers[0].LastState.Terminated)
	}
	if s, _ := b.status(0); exitCode(s, 0) != 0 || s.Containers[0].Ready {
		t.Errorf("main: %+v", s.Containers[0])
	}
}

func TestFallbackToLogs(t *testing.T) {
	b := newBench(t)
	c := sh("main", "echo one; echo the reason; exit 2")
	c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	c.TerminationMessagePath = "/dev/some/where"
	own := sh("own", "printf '%5000s' x > /dev/own-message; exit 2")
	own.TerminationMessagePath = "/dev/own-message"
	b.stage(one(c, own))
	b.pod()
	s := b.final(0, manifest.PhaseFailed)
	if got := s.Containers[0].State.Terminated.Message; got != "one\nthe reason\n" {
		t.Errorf("message %q", got)
	}
	if got := s.Containers[1].State.Terminated.Message; len(got) != 4096 {
		t.Errorf("message of %d bytes, want 4096", len(got))
	}
}

func TestFollowLogs(t *testing.T) {
	b := newBench(t)
	b.stage(one(sh("main", "i=0; while test $i -lt 50; do echo line $i; i=$((i+1)); sleep 0.01; done; printf end")))
	p := b.startPod()
	until(t, "it runs", func() bool { return b.runningNow("main") })
	got := b.logs(0, "main", "--follow")
	p.wait()
	var want strings.Builder
	for i := range 50 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	want.WriteString("end")
	if got != want.String() {
		t.Errorf("followed %q", got)
	}
	if got := b.logs(0, "main", "--tail", "2"); got != "line 49\nend" {
		t.Errorf("tail %q", got)
	}
	if got := b.logs(0, "main", "--limit-bytes", "6"); got != "line 0" {
		t.Errorf("limit %q", got)
	}
	stamped := b.logs(0, "main", "--timestamps", "--tail", "1")
	stamp, text, _ := strings.Cut(stamped, " ")
	if at, err := time.Parse(time.RFC3339Nano, stamp); err != nil || text != "end" || time.Since(at) > time.Minute {
		t.Errorf("stamped %q: %v", stamped, err)
	}
	if got := b.logs(0, "main", "--since-time", stamp); got != "end" {
		t.Errorf("since %q", got)
	}
}

// Whoever follows a log and goes away leaves no process behind.
func TestFollowerGoesAway(t *testing.T) {
	b := newBench(t)
	b.stage(one(sh("main", "echo up; while ! test -e $HOME/go; do sleep 0.02; done")))
	p := b.startPod()
	until(t, "it runs", func() bool { return b.runningNow("main") && b.logs(0, "main") != "" })
	cmd := b.command("agent", "logs", "--root", b.root, "--key", "g1", "--rank", "0", "--container", "main", "--follow")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := out.Read(buf); err != nil || string(buf[:n]) != "up\n" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("the follower stays")
		_ = cmd.Process.Kill()
		<-done
	}
	if err := os.WriteFile(b.file("go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p.wait()
}

func TestEmptyDirLimitAndPermissions(t *testing.T) {
	b := newBench(t)
	c := sh("main", "mkdir -p /v/a/b; echo x > /v/a/b/c; chmod 0 /v/a; head -c 200000 /dev/zero > /v/big; exec sleep 1000")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	m := one(c)
	m.volumes = map[string]manifest.Volume{"v": {Kind: "emptyDir", SizeBytes: 100000}}
	b.stage(m)
	if code := b.pod(); code != 1 {
		t.Errorf("pod exited %d, want 1", code)
	}
	if s := b.final(0, manifest.PhaseFailed); s.Reason != "Evicted" || !strings.Contains(s.Message, strconv.Itoa(200000)) {
		t.Errorf("reason %q, message %q", s.Reason, s.Message)
	}
}
