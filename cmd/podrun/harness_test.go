package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	testruntimes "github.com/isthmus-hpc/isthmus/test/testbed/runtimes"
)

// podrunPath is the program under test, built once by TestMain.
var podrunPath string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "podrun-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	podrunPath = filepath.Join(dir, "podrun")
	build := exec.Command("go", "build", "-o", podrunPath, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build podrun: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// account is who runs the program under test: this user, or when that is root,
// which runs no jobs, the test user, or at least nobody in particular.
type account struct {
	uid, gid int
	cred     *syscall.Credential
}

func testAccount() account {
	if os.Getuid() != 0 {
		return account{uid: os.Getuid(), gid: os.Getgid()}
	}
	uid, gid := 54321, 54321
	if u, err := user.Lookup("isthmus-alice"); err == nil {
		uid, _ = strconv.Atoi(u.Uid) // always numbers on Linux
		gid, _ = strconv.Atoi(u.Gid)
	}
	return account{uid: uid, gid: gid, cred: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// bench is one user's staging root and what runs there.
type bench struct {
	t    *testing.T
	who  account
	root string
	env  []string
	args []string // of launch
	// far has runners listen on the network, and dial reach them there.
	far bool
	// limit and grace are those of the gang's job, in seconds; see launch.
	limit, grace int64
}

func newBench(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	return newQuietBench(t)
}

// newQuietBench is newBench for tests that say themselves whether they are parallel.
func newQuietBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "podrun-case-")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, who: testAccount(), root: filepath.Join(dir, "stage")}
	tmp, home := filepath.Join(dir, "tmp"), filepath.Join(dir, "home")
	for _, d := range []string{dir, tmp, home} {
		if err := errors.Join(os.MkdirAll(d, 0o700), os.Chown(d, b.who.uid, b.who.gid)); err != nil {
			t.Fatal(err)
		}
	}
	b.env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "USER=tester", "TMPDIR=" + tmp, "CANARY=leaked", "SLURM_JOB_ID=7"}
	t.Cleanup(func() {
		left, err := os.ReadDir(tmp)
		if err != nil || (len(left) > 0 && !t.Failed()) {
			t.Errorf("left in TMPDIR: %v, %v", left, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove test directory: %v", err)
		}
	})
	return b
}

// emptyTemp removes what a killed program has left.
func (b *bench) emptyTemp() {
	b.t.Helper()
	tmp := filepath.Join(filepath.Dir(b.root), "tmp")
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o700), os.Chown(tmp, b.who.uid, b.who.gid)); err != nil {
		b.t.Fatal(err)
	}
}

// needs skips a test that needs a program which this machine cannot have.
func needs(t *testing.T, program string) {
	t.Helper()
	if os.Getuid() == 0 {
		if err := testruntimes.EnsureInstalled(t.Context(), os.Stderr); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not here, and installing it needs root", program)
	}
}

// command prepares the program under test.
func (b *bench) command(args ...string) *exec.Cmd {
	cmd := exec.Command(podrunPath, args...)
	cmd.Dir, cmd.Env = "/", b.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.who.cred, Setpgid: true}
	return cmd
}

// agent runs a verb.
func (b *bench) agent(stdin []byte, verb string, args ...string) (stdout, stderr string, code int) {
	b.t.Helper()
	cmd := b.command(append([]string{"agent", verb, "--root", b.root}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// stop asks for the end of rank 0 as the provider does.
func (b *bench) stop(s manifest.Stop) {
	b.t.Helper()
	order, err := json.Marshal(manifest.StopOrder{Key: "g1", Stops: map[int]manifest.Stop{0: s}})
	if err != nil {
		b.t.Fatal(err)
	}
	if out, stderr, code := b.agent(order, "stop"); code != 0 || !strings.Contains(out, `"code":0`) {
		b.t.Fatalf("stop: exit %d: %s%s", code, out, stderr)
	}
}

// member is one pod of a test gang.
type member struct {
	spec    corev1.PodSpec
	env     map[string][]manifest.EnvVar
	volumes map[string]manifest.Volume
	files   map[string]string // "volume/path" -> contents
	grace   int64
	runtime string // "" is host
	images  *manifest.Images
	secrets [][]byte // .dockerconfigjson documents
}

// sh is a container that runs a shell script. Kubernetes makes one "$" of two.
func sh(name, script string) corev1.Container {
	return corev1.Container{Name: name, Command: []string{"/bin/sh", "-c", strings.ReplaceAll(script, "$$", "$$$$")}}
}

// one is a pod of containers that run once.
func one(cs ...corev1.Container) member {
	return member{spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: cs}, grace: 10}
}

// stage stages a gang with key "g1".
func (b *bench) stage(members ...member) {
	b.t.Helper()
	data := archive(b.t, members, manifest.Gang{Listen: b.far, LimitSeconds: b.limit, GraceSeconds: b.grace})
	frame := append(fmt.Appendf(nil, `{"key":"g1","bytes":%d}`+"\n", len(data)), data...)
	if out, stderr, code := b.agent(frame, "stage"); code != 0 || strings.TrimSpace(out) != `{"key":"g1","code":0}` {
		stderr += out
		b.t.Fatalf("stage: exit %d: %s", code, stderr)
	}
}

func (b *bench) dir() string { return filepath.Join(b.root, "g", "g1") }

func archive(t *testing.T, members []member, g manifest.Gang) []byte {
	t.Helper()
	g.Version, g.Key, g.Attempt, g.Launcher = manifest.Version, "g1", "attempt-"+t.Name(), "local"
	g.Components = []manifest.Component{{Tasks: len(members), CPUs: 1}}
	files := map[string][]byte{}
	encode := func(name string, v any) {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	for rank, m := range members {
		name := fmt.Sprintf("m-%d", rank)
		uid := fmt.Sprintf("uid-%d", rank)
		g.Members = append(g.Members, manifest.Member{Rank: rank, Namespace: "ns", Name: name, UID: uid,
			Hostnames: []string{name + "-host", name + "-host.sub", name + "-host.sub.ns.svc.cluster.local"}})
		p := manifest.Pod{Version: manifest.Version, Rank: rank, Runtime: cmp.Or(m.runtime, "host"), Images: m.images, Env: m.env, Volumes: m.volumes, GraceSeconds: m.grace,
			Pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid)}, Spec: m.spec}}
		encode(fmt.Sprintf("pods/%d/pod.json", rank), p)
		if len(m.secrets) > 0 {
			encode(fmt.Sprintf("pods/%d/%s", rank, manifest.PullSecrets), m.secrets)
		}
		for file, text := range m.files {
			files[fmt.Sprintf("pods/%d/volumes/%s", rank, file)] = []byte(text)
		}
	}
	encode("gang.json", g)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// running is a started program.
type running struct {
	*exec.Cmd
	t    *testing.T
	out  *bytes.Buffer
	done chan struct{}
}

// start starts launch or pod in the gang's directory, as the batch script does.
func (b *bench) start(args ...string) *running {
	b.t.Helper()
	cmd := b.command(args...)
	cmd.Dir = b.dir()
	r := &running{Cmd: cmd, t: b.t, out: &bytes.Buffer{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = r.out, r.out
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // the process state tells
		close(r.done)
	}()
	b.t.Cleanup(func() {
		select {
		case <-r.done:
		default:
			_ = cmd.Process.Kill()
			<-r.done
		}
		if b.t.Failed() {
			b.t.Logf("output of podrun %v:\n%s", args, r.out)
		}
	})
	return r
}

// wait gives the exit code.
func (r *running) wait() int {
	r.t.Helper()
	select {
	case <-r.done:
		return r.ProcessState.ExitCode()
	case <-time.After(60 * time.Second):
		r.t.Fatal("podrun does not end")
		return -1
	}
}

// launch runs the whole gang to its end.
func (b *bench) launch() int {
	b.t.Helper()
	return b.start(append(append([]string{"launch"}, b.args...), ".")...).wait()
}

// pod runs rank 0 to its end.
func (b *bench) pod(args ...string) int {
	b.t.Helper()
	return b.startPod(args...).wait()
}

func (b *bench) startPod(args ...string) *running {
	b.t.Helper()
	return b.start(append(append([]string{"pod", "--rank=0", "--host=h", "--poll=20ms", "--backoff-base=30ms", "--backoff-max=100ms"}, args...), ".")...)
}

// status reads a pod's status, false while there is none.
func (b *bench) status(rank int) (manifest.Status, bool) {
	b.t.Helper()
	var s manifest.Status
	data, err := os.ReadFile(filepath.Join(b.dir(), "pods", strconv.Itoa(rank), "status.json"))
	if err != nil {
		return s, false
	}
	if err := json.Unmarshal(data, &s); err != nil {
		b.t.Fatalf("status.json is torn: %v", err)
	}
	return s, true
}

// final is the status of an ended pod.
func (b *bench) final(rank int, want manifest.Phase) manifest.Status {
	b.t.Helper()
	s, ok := b.status(rank)
	if !ok || s.Phase != want {
		b.t.Fatalf("rank %d: status %+v, %v, want %s", rank, s, ok, want)
	}
	return s
}

// logs gives the text of a container's log.
func (b *bench) logs(rank int, container string, args ...string) string {
	b.t.Helper()
	out, stderr, code := b.agent(nil, "logs", append([]string{"--key", "g1", "--rank", strconv.Itoa(rank), "--container", container}, args...)...)
	if code != 0 {
		b.t.Fatalf("logs: exit %d: %s", code, stderr)
	}
	return out
}

// until polls for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		case <-tick.C:
		}
	}
}

// runningNow reports whether a container of rank 0 runs.
func (b *bench) runningNow(name string) bool {
	s, _ := b.status(0)
	for _, c := range append(s.InitContainers, s.Containers...) {
		if c.Name == name {
			return c.State.Running != nil
		}
	}
	return false
}

// alive reports whether a process is there and no zombie.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return rest != "" && rest[0] != 'Z' && rest[0] != 'X'
}

func exitCode(s manifest.Status, i int) int32 {
	if t := s.Containers[i].State.Terminated; t != nil {
		return t.ExitCode
	}
	return -1
}

// allUp waits until the members of a gang of that size run, and have said a word.
func (b *bench) allUp(members int, word string) {
	b.t.Helper()
	for rank := range members {
		until(b.t, "all are up", func() bool {
			s, _ := b.status(rank)
			return s.Phase == manifest.PhaseRunning && s.Containers[0].State.Running != nil && strings.Contains(b.logs(rank, "main"), word)
		})
	}
}

// requeue kills all of a program, as a batch system does that puts its job back, and
// prepares the next run. The file "again" tells scripts that there was one before.
func (b *bench) requeue(p *running) {
	b.t.Helper()
	if err := syscall.Kill(-p.Process.Pid, syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	p.wait()
	if err := os.WriteFile(b.file("again"), nil, 0o644); err != nil {
		b.t.Fatal(err)
	}
	b.emptyTemp()
	b.env = append(b.env, "SLURM_RESTART_COUNT=1")
}

// end waits for the launcher's last word.
func (b *bench) end(restart int) manifest.End {
	b.t.Helper()
	var e manifest.End
	until(b.t, "the gang has ended", func() bool {
		data, err := os.ReadFile(filepath.Join(b.dir(), "end.json"))
		return err == nil && json.Unmarshal(data, &e) == nil && e.Restart == restart
	})
	return e
}

// showBatchLog shows what the batch job wrote if the test fails.
func (b *bench) showBatchLog() {
	b.t.Cleanup(func() {
		if b.t.Failed() {
			log, _ := os.ReadFile(filepath.Join(b.dir(), "batch.log"))
			b.t.Logf("batch.log:\n%s", log)
		}
	})
}
