package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// events lists the reasons that the runner has to tell.
func events(s manifest.Status) string {
	var out []string
	for _, e := range s.Events {
		out = append(out, e.Reason)
	}
	return strings.Join(out, " ")
}

// A gRPC probe follows the server's own health.
func TestGRPCProbe(t *testing.T) {
	b := newBench(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, service := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, service)
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	service.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	name := "db"
	c := sh("main", "while ! test -e $HOME/go; do sleep 0.02; done")
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(number), Service: &name}}, PeriodSeconds: 1, FailureThreshold: 1}
	b.stage(one(c))
	p := b.start("launch", ".") // whose hosts are all 127.0.0.1
	until(t, "the probe has failed", func() bool { s, _ := b.status(0); return strings.Contains(events(s), "Unhealthy") })
	if s, _ := b.status(0); s.Containers[0].Ready || !strings.Contains(s.Events[0].Message, "NOT_SERVING") {
		t.Errorf("status %+v", s)
	}
	service.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_SERVING)
	until(t, "it is ready", func() bool { s, _ := b.status(0); return s.Containers[0].Ready })
	if err := os.WriteFile(b.file("go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p.wait()
}

func TestHooksFail(t *testing.T) {
	b := newBench(t)
	c := sh("main", "trap 'exit 0' TERM; while :; do sleep 0.02; done")
	bad := &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/false"}}}
	c.Lifecycle = &corev1.Lifecycle{PostStart: bad, PreStop: bad}
	b.stage(one(c))
	b.pod()
	s := b.final(0, manifest.PhaseSucceeded)
	if got := events(s); got != "FailedPostStartHook Killing FailedPreStopHook" {
		t.Errorf("events %q", got)
	}
	if m := s.Containers[0].State.Terminated.Message; !strings.Contains(m, "postStart hook failed") {
		t.Errorf("message %q", m)
	}
}

// A container's own policy and rules come before the pod's.
func TestRestartRules(t *testing.T) {
	b := newBench(t)
	never := corev1.ContainerRestartPolicyNever
	c := sh("main", "echo x >> $HOME/runs; test $(wc -l < $HOME/runs) -ge 3 && exit 7; exit 42")
	c.RestartPolicy = &never
	c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	m := one(c)
	m.spec.RestartPolicy = corev1.RestartPolicyAlways
	b.stage(m)
	b.pod()
	if s := b.final(0, manifest.PhaseFailed); s.Containers[0].RestartCount != 2 || exitCode(s, 0) != 7 || strings.Count(events(s), "BackOff") != 1 {
		t.Errorf("status %+v", s)
	}
}

// The word that the time limit is near gives every pod its hook and its grace.
func TestTimeIsUp(t *testing.T) {
	b := newBench(t)
	c := sh("main", "trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.02; done")
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", "echo hook >> $HOME/hooks"}}}}
	b.stage(one(c), one(c))
	p := b.start("launch", ".")
	for rank := range 2 {
		until(t, "all are up", func() bool {
			s, _ := b.status(rank)
			return s.Phase == manifest.PhaseRunning && s.Containers[0].Started && strings.Contains(b.logs(rank, "main"), "up")
		})
	}
	if err := p.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	p.wait()
	for rank := range 2 {
		if s := b.final(rank, manifest.PhaseFailed); s.Reason != "DeadlineExceeded" || exitCode(s, 0) != 0 || !strings.Contains(b.logs(rank, "main"), "term") {
			t.Errorf("rank %d: %+v", rank, s)
		}
	}
	if got := readFile(b.file("hooks")); got != "hook\nhook\n" {
		t.Errorf("hooks %q", got)
	}
}

// Where the batch system gives no word of its own, the launcher tells the pods
// before the limit that the job names.
func TestTimeIsNearlyUp(t *testing.T) {
	b := newBench(t)
	c := sh("main", "trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.02; done")
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", "echo hook >> $HOME/hooks"}}}}
	b.limit, b.grace = 32, 1 // told after 16 s
	b.stage(one(c), one(c))
	b.launch()
	for rank := range 2 {
		if s := b.final(rank, manifest.PhaseFailed); s.Reason != "DeadlineExceeded" || exitCode(s, 0) != 0 || !strings.Contains(b.logs(rank, "main"), "term") {
			t.Errorf("rank %d: %+v", rank, s)
		}
	}
	if got := readFile(b.file("hooks")); got != "hook\nhook\n" {
		t.Errorf("hooks %q", got)
	}
}

// Variables of containers never get to the programs that start them.
func TestEnvironmentStaysInTheContainer(t *testing.T) {
	b := newBench(t)
	m := one(sh("main", "while ! test -e $HOME/go; do sleep 0.02; done"))
	names := []string{"PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "BASH_ENV", "ENV", "IFS", "SLURM_JOB_ID", "SBATCH_ACCOUNT", "PYTHONSTARTUP", "HOME", "NVIDIA_VISIBLE_DEVICES"}
	for _, n := range names {
		if n != "HOME" && n != "LD_PRELOAD" {
			m.env = map[string][]manifest.EnvVar{"main": append(m.env["main"], manifest.EnvVar{Name: n, Value: []byte("CONTAINERS-OWN:/bin:/usr/bin")})}
		}
	}
	b.stage(m)
	p := b.start("launch", ".")
	until(t, "it runs", func() bool { return b.runningNow("main") })
	// All processes of the job that are not the container's own.
	seen := 0
	for _, dir := range globbed(t, "/proc/[0-9]*") {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		group, err := syscall.Getpgid(pid)
		if err != nil || group != p.Process.Pid && parent(pid) != p.Process.Pid {
			continue
		}
		environ := readFile(dir + "/environ")
		if strings.Contains(environ, "ISTHMUS_CONTAINER_ID=") {
			continue
		}
		seen++
		if strings.Contains(environ, "CONTAINERS-OWN") {
			t.Errorf("process %d (%s) has a variable of the container", pid, readFile(dir+"/comm"))
		}
	}
	if seen < 2 { // the launcher and the pod's runner
		t.Errorf("looked at %d processes", seen)
	}
	if err := os.WriteFile(b.file("go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p.wait()
}

func parent(pid int) int {
	_, rest, _ := strings.Cut(readFile(fmt.Sprintf("/proc/%d/stat", pid)), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return n
}

// An emptyDir that has grown beyond its limit ends the pod.
func TestSizeLimit(t *testing.T) {
	for _, kind := range []string{"emptyDir", "memory"} {
		t.Run(kind, func(t *testing.T) {
			b := newBench(t)
			c := sh("main", "head -c 200000 /dev/zero > /v/big; while :; do sleep 0.02; done")
			c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
			m := one(c)
			m.volumes = map[string]manifest.Volume{"v": {Kind: kind, SizeBytes: 100_000}}
			b.stage(m)
			began := time.Now()
			b.pod()
			if s := b.final(0, manifest.PhaseFailed); s.Reason != "Evicted" || !strings.Contains(s.Message, `EmptyDir volume "v"`) {
				t.Errorf("reason %q, message %q", s.Reason, s.Message)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// fsGroup owns emptyDirs and files; it is one of the user's groups.
func TestFSGroup(t *testing.T) {
	b := newBench(t)
	c := sh("main", "stat -L -c '%a %g' /v /cm/a")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}, {Name: "cm", MountPath: "/cm"}}
	m := one(c)
	gid := int64(b.who.gid)
	m.spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
	m.volumes = map[string]manifest.Volume{"v": {Kind: "emptyDir"}, "cm": {Kind: "files", Modes: map[string]uint32{"a": 0o400}}}
	m.files = map[string]string{"cm/a": "x"}
	b.stage(m)
	b.pod()
	b.final(0, manifest.PhaseSucceeded)
	lines := strings.Split(b.logs(0, "main"), "\n")
	if !strings.HasPrefix(lines[0], "2777 ") || !strings.HasPrefix(lines[1], "440 ") {
		t.Errorf("log %q", lines)
	}
}
