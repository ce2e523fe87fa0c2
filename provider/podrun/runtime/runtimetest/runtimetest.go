// Package runtimetest says what every container runtime must do for pods. A
// runtime passes when pods that the pod runner runs with it behave so.
package runtimetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image/imagetest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Pod is a pod to run.
type Pod struct {
	Spec    corev1.PodSpec
	Env     map[string][]manifest.EnvVar
	Volumes map[string]manifest.Volume
	Files   map[string]string // "volume/path" -> contents
	Grace   int64
}

// Node runs pods with the runtime under test, as an unprivileged user. Where the
// runtime runs images it fills in the image.
type Node interface {
	// Start starts the pod, on a node of its own.
	Start(p Pod) Running
	// Dir is a directory that the user can read and write.
	Dir() string
	// UID is the user's.
	UID() int
}

// Running is a started pod.
type Running interface {
	// Until polls until the condition holds; it fails the test when that takes too long.
	Until(what string, ok func() bool)
	Status() (manifest.Status, bool)
	Logs(container string) string
	Stop(grace int64)
	// Wait waits for the end and gives the pod's phase.
	Wait() manifest.Status
}

// Runtime is a runtime under test.
type Runtime struct {
	Image bool // runs images
	// Root: programs see themselves as root.
	Root bool
	// OwnPIDs: programs see their own processes only.
	OwnPIDs bool
	// Node makes a node. The image has busybox and this configuration.
	Node func(t *testing.T, config v1.Config, more ...imagetest.Entry) Node
}

// Run runs all cases.
func Run(t *testing.T, r Runtime) {
	cases := map[string]func(*testing.T, Runtime){
		"output and exit code": output, "arguments and environment": exact, "volumes": volumes, "what the pod sees": sight,
		"program that is missing": missing, "stop": stop, "kill": kill, "signalled": signalled, "hooks and probes": hooks,
		"daemons": daemons, "restarts": restarts, "no privileges": privileges, "read-only root": readOnlyRoot, "init and sidecar": inits,
		"no volume out of bounds": bounds,
	}
	if r.Image {
		for name, f := range imageCases {
			cases[name] = f
		}
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, r)
		})
	}
}

func shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Command: []string{"/bin/sh", "-c", strings.ReplaceAll(script, "$$", "$$$$")}}
}

func once(cs ...corev1.Container) Pod {
	return Pod{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: cs}, Grace: 20}
}

// ended runs a pod to its end.
func ended(t *testing.T, n Node, p Pod) (Running, manifest.Status) {
	t.Helper()
	r := n.Start(p)
	s := r.Wait()
	if len(s.Containers) == 0 || s.Containers[0].State.Terminated == nil {
		t.Fatalf("no container has ended: %+v", s)
	}
	return r, s
}

func code(t *testing.T, s manifest.Status, want int32) {
	t.Helper()
	if term := s.Containers[0].State.Terminated; term == nil || term.ExitCode != want {
		t.Errorf("ended with %+v, want code %d", s.Containers[0].State, want)
	}
}

func lines(t *testing.T, got string, want ...string) {
	t.Helper()
	have := map[string]bool{}
	for l := range strings.Lines(got) {
		have[strings.TrimSuffix(l, "\n")] = true
	}
	for _, w := range want {
		if !have[w] {
			t.Errorf("no line %q in\n%s", w, got)
		}
	}
}

func output(t *testing.T, rt Runtime) {
	r, s := ended(t, rt.Node(t, v1.Config{}), once(shell("main", "echo out; echo err >&2; exit 7")))
	code(t, s, 7)
	if s.Phase != manifest.PhaseFailed || s.Containers[0].State.Terminated.Reason != "Error" {
		t.Errorf("status %+v", s)
	}
	lines(t, r.Logs("main"), "out", "err")
}

// exact: every byte arrives.
func exact(t *testing.T, rt Runtime) {
	odd := "two\nlines \"quoted\" 'single' \\ $HOME `x` ${A} \xff\xfe tab\t; & | <"
	p := once(corev1.Container{Name: "main", Command: []string{"/bin/sh", "-c", `printf '%s|' "$@"; printf '%s' "$ODD"; printf '|%s' "$EMPTY-$GREETING"`, "x"},
		Args: []string{"a b", "", "$(GREETING)", "$$(GREETING)", "-n", "--", "é\n"}})
	p.Env = map[string][]manifest.EnvVar{"main": {{Name: "ODD", Value: []byte(odd)}, {Name: "EMPTY"}, {Name: "GREETING", Value: []byte("hello")}}}
	r, s := ended(t, rt.Node(t, v1.Config{}), p)
	code(t, s, 0)
	if got, want := strings.TrimSuffix(r.Logs("main"), "\n"), "a b||hello|$(GREETING)|-n|--|é\n|"+odd+"|-hello"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func volumes(t *testing.T, rt Runtime) {
	n := rt.Node(t, v1.Config{})
	host := filepath.Join(n.Dir(), "host,path with space")
	if err := os.MkdirAll(filepath.Join(host, "sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{host, filepath.Join(host, "sub")} {
		if err := os.Chmod(name, 0o777); err != nil { //nolint:gosec // the test user must write
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(host, "f"), []byte("from the node\n"), 0o644); err != nil { //nolint:gosec // the test user must read
		t.Fatal(err)
	}
	writer := shell("main", `cat /host/f /config/key /tmp/deep/er/x /etc/one.conf; echo w > /host/sub/w && echo wrote-host
		echo no > /ro/x; echo ro $?; echo no > /config/key; echo config $?
		echo shared > /shared/a/b/file; cat /shared/a/b/file; echo m > /dev/shm/mem/x && cat /dev/shm/mem/x
		cat /nested/inner/f; echo o > /nested/o && echo wrote-nested; cat /shared2/file`)
	writer.VolumeMounts = []corev1.VolumeMount{
		{Name: "host", MountPath: "/host"}, {Name: "host", MountPath: "/ro", ReadOnly: true}, {Name: "cm", MountPath: "/config"},
		{Name: "cm", MountPath: "/tmp/deep/er/x", SubPath: "key"}, {Name: "cm", MountPath: "/etc/one.conf", SubPath: "key"},
		{Name: "work", MountPath: "/shared/a/b"}, {Name: "work", MountPath: "/shared2"}, {Name: "mem", MountPath: "/dev/shm/mem"},
		{Name: "host", MountPath: "/nested/inner", ReadOnly: true}, {Name: "out", MountPath: "/nested"},
	}
	p := once(writer)
	p.Spec.Volumes = []corev1.Volume{{Name: "host"}, {Name: "cm"}, {Name: "work"}, {Name: "mem"}, {Name: "out"}}
	p.Volumes = map[string]manifest.Volume{"host": {Kind: "hostPath", Path: host}, "cm": {Kind: "files"}, "work": {Kind: "emptyDir"}, "mem": {Kind: "memory"}, "out": {Kind: "emptyDir"}}
	p.Files = map[string]string{"cm/key": "configured\n"}
	r, _ := ended(t, n, p)
	got := r.Logs("main")
	lines(t, got, "from the node", "configured", "wrote-host", "shared", "m", "wrote-nested")
	if strings.Contains(got, "\nro 0") || strings.Contains(got, "\nconfig 0") || strings.Count(got, "configured") != 3 || strings.Count(got, "from the node") != 2 || strings.Count(got, "shared") < 2 {
		t.Errorf("log:\n%s", got)
	}
	if data, err := os.ReadFile(filepath.Join(host, "sub/w")); err != nil || string(data) != "w\n" {
		t.Errorf("written to the node: %q, %v", data, err)
	}
	if st, err := os.Stat(filepath.Join(host, "sub/w")); err == nil && fmt.Sprint(st.Sys()) == "" {
		t.Error("no owner")
	}
}

func bounds(t *testing.T, rt Runtime) {
	n := rt.Node(t, v1.Config{})
	if err := os.Symlink("/etc", filepath.Join(n.Dir(), "out")); err != nil {
		t.Fatal(err)
	}
	c := shell("main", "cat /v/passwd")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", SubPath: "out"}}
	p := once(c)
	p.Spec.Volumes = []corev1.Volume{{Name: "v"}}
	p.Volumes = map[string]manifest.Volume{"v": {Kind: "hostPath", Path: n.Dir()}}
	_, s := ended(t, n, p)
	if s.Phase != manifest.PhaseFailed || !strings.Contains(s.Message, "spec.containers[0].volumeMounts[0]") {
		t.Errorf("status %+v", s)
	}
}

func sight(t *testing.T, rt Runtime) {
	c := shell("main", `cat /etc/hosts; echo "resolv $(wc -l < /etc/resolv.conf)"; test -c /dev/null && echo devices; test -w /dev/shm && echo shm
		echo "uid $(id -u)"; echo message > /dev/termination-log; echo "canary ${CANARY-none}"; echo "$HOSTNAME"; test -r /proc/self/status && echo proc
		touch /tmp/x && echo tmp`)
	n := rt.Node(t, v1.Config{})
	r, s := ended(t, n, once(c))
	code(t, s, 0)
	got := r.Logs("main")
	uid := n.UID()
	if rt.Root {
		uid = 0
	}
	lines(t, got, "devices", "shm", fmt.Sprintf("uid %d", uid), "canary none", "m-0", "proc", "tmp")
	if !strings.Contains(got, "m-0-host.sub") {
		t.Errorf("the gang's names are not in /etc/hosts:\n%s", got)
	}
	if m := s.Containers[0].State.Terminated.Message; m != "message\n" {
		t.Errorf("termination message %q", m)
	}
}

func missing(t *testing.T, rt Runtime) {
	for _, program := range []string{"/no/such/program", "no-such-program", "/etc/hosts"} {
		_, s := ended(t, rt.Node(t, v1.Config{}), once(corev1.Container{Name: "main", Command: []string{program}}))
		term := s.Containers[0].State.Terminated
		if term.ExitCode != 128 || term.Reason != "StartError" || !strings.Contains(term.Message, program) {
			t.Errorf("%s: %+v", program, term)
		}
	}
}

func stop(t *testing.T, rt Runtime) {
	for name, tc := range map[string]struct {
		signal string
		config v1.Config
	}{"default": {signal: "TERM"}, "image": {signal: "USR1", config: v1.Config{StopSignal: "SIGUSR1"}}} {
		if name == "image" && !rt.Image {
			continue
		}
		r := rt.Node(t, tc.config).Start(once(shell("main", "trap 'echo got it; exit 9' "+tc.signal+"; echo ready; while :; do sleep 0.05; done")))
		r.Until("the container is ready", func() bool { return strings.Contains(r.Logs("main"), "ready") })
		r.Stop(30)
		s := r.Wait()
		code(t, s, 9)
		if got := r.Logs("main"); strings.Count(got, "got it") != 1 {
			t.Errorf("%s: log %q", name, got)
		}
	}
}

func kill(t *testing.T, rt Runtime) {
	r := rt.Node(t, v1.Config{}).Start(once(shell("main", "trap '' TERM; echo ready; while :; do sleep 0.05; done")))
	r.Until("the container is ready", func() bool { return strings.Contains(r.Logs("main"), "ready") })
	r.Stop(1)
	code(t, r.Wait(), 137)
}

func signalled(t *testing.T, rt Runtime) {
	_, s := ended(t, rt.Node(t, v1.Config{}), once(shell("main", "/bin/sh -c 'kill -9 $$'; exit $?")))
	code(t, s, 137)
}

func hooks(t *testing.T, rt Runtime) {
	c := shell("main", "trap 'cat /tmp/stopping; exit 3' TERM; while ! test -e /tmp/started; do sleep 0.05; done; cat /tmp/started; touch /tmp/told; while :; do sleep 0.05; done")
	run := func(s string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", s}}}
	}
	// The directory is the container's own: a hook must see the container's view.
	c.VolumeMounts = []corev1.VolumeMount{{Name: "tmp", MountPath: "/tmp"}}
	c.Lifecycle = &corev1.Lifecycle{PostStart: run(`echo "post $FROM" > /tmp/started`), PreStop: run("echo pre > /tmp/stopping")}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/tmp/told"}}}, PeriodSeconds: 1, TimeoutSeconds: 20}
	p := once(c)
	p.Spec.Volumes, p.Volumes = []corev1.Volume{{Name: "tmp"}}, map[string]manifest.Volume{"tmp": {Kind: "emptyDir"}}
	p.Env = map[string][]manifest.EnvVar{"main": {{Name: "FROM", Value: []byte("env")}}}
	r := rt.Node(t, v1.Config{}).Start(p)
	r.Until("the container is ready", func() bool {
		s, ok := r.Status()
		return ok && len(s.Containers) > 0 && s.Containers[0].Ready
	})
	r.Stop(30)
	code(t, r.Wait(), 3)
	lines(t, r.Logs("main"), "post env", "pre")
}

// daemons: what a program leaves behind ends with its container.
func daemons(t *testing.T, rt Runtime) {
	n := rt.Node(t, v1.Config{})
	c := shell("main", "(trap '' HUP TERM; while :; do echo x >> /v/beat; sleep 0.05; done) & while ! test -s /v/beat; do sleep 0.05; done; echo left")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	p := once(c)
	p.Spec.Volumes, p.Volumes = []corev1.Volume{{Name: "v"}}, map[string]manifest.Volume{"v": {Kind: "hostPath", Path: n.Dir()}}
	r, s := ended(t, n, p)
	code(t, s, 0)
	size := func() int64 {
		st, err := os.Stat(filepath.Join(n.Dir(), "beat"))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	before, same := size(), 0
	r.Until("the daemon is still", func() bool {
		now := size()
		if same++; now != before {
			before, same = now, 0
		}
		return same > 30
	})
}

func restarts(t *testing.T, rt Runtime) {
	n := rt.Node(t, v1.Config{})
	c := shell("main", "echo x >> /v/count; test -e /tmp/mine && echo kept; touch /tmp/mine; test $(wc -l < /v/count) -ge 3")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	p := once(c)
	p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	p.Spec.Volumes, p.Volumes = []corev1.Volume{{Name: "v"}}, map[string]manifest.Volume{"v": {Kind: "hostPath", Path: n.Dir()}}
	r, s := ended(t, n, p)
	if s.Phase != manifest.PhaseSucceeded || s.Containers[0].RestartCount != 2 {
		t.Errorf("status %+v", s)
	}
	if got := r.Logs("main"); rt.Image && strings.Contains(got, "kept") {
		t.Errorf("a run sees what the one before it left: %q", got)
	}
}

func privileges(t *testing.T, rt Runtime) {
	c := shell("main", `grep -E '^(CapEff|CapPrm|CapAmb|NoNewPrivs)' /proc/self/status; ls /proc/self/fd | wc -l`)
	c.SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false)}
	r, _ := ended(t, rt.Node(t, v1.Config{}), once(c))
	none := "0000000000000000"
	lines(t, r.Logs("main"), "CapEff:\t"+none, "CapPrm:\t"+none, "CapAmb:\t"+none, "NoNewPrivs:\t1")
}

func readOnlyRoot(t *testing.T, rt Runtime) {
	c := shell("main", "echo x > /var-x; echo root $?; echo x > /w/x; echo volume $?")
	c.SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr.To(true)}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "w", MountPath: "/w"}}
	p := once(c)
	p.Spec.Volumes, p.Volumes = []corev1.Volume{{Name: "w"}}, map[string]manifest.Volume{"w": {Kind: "emptyDir"}}
	r, _ := ended(t, rt.Node(t, v1.Config{}), p)
	got := r.Logs("main")
	lines(t, got, "volume 0")
	if strings.Contains(got, "root 0") {
		t.Errorf("the root was written:\n%s", got)
	}
}

func inits(t *testing.T, rt Runtime) {
	side := shell("side", "trap 'echo side ends; exit 0' TERM; echo side > /v/side; while :; do sleep 0.05; done")
	side.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	side.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/v/side"}}}, PeriodSeconds: 1, TimeoutSeconds: 20, FailureThreshold: 20}
	first, main := shell("first", "echo first > /v/first"), shell("main", "cat /v/first /v/side")
	mount := []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	first.VolumeMounts, side.VolumeMounts, main.VolumeMounts = mount, mount, mount
	p := once(main)
	p.Spec.InitContainers = []corev1.Container{first, side}
	p.Spec.Volumes, p.Volumes = []corev1.Volume{{Name: "v"}}, map[string]manifest.Volume{"v": {Kind: "emptyDir"}}
	r, s := ended(t, rt.Node(t, v1.Config{}), p)
	code(t, s, 0)
	lines(t, r.Logs("main"), "first", "side")
	lines(t, r.Logs("side"), "side ends")
}
