package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// streams are the tests of exec, attach, port-forward, cp, debug and top. They
// run on Slurm, on the local batch system and over the network on PBS alike.
type streams struct {
	*testing.T
	env *environment.Environment
	ns  string
}

// sh runs kubectl in the test's namespace.
func (s *streams) sh(stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Minute)
	defer cancel()
	cmd := s.env.KubectlCommand(ctx, append([]string{"-n", s.ns}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.Fatalf("kubectl %v: %v", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs kubectl, which has to succeed.
func (s *streams) must(args ...string) string {
	s.Helper()
	out, errs, code := s.sh(nil, args...)
	if code != 0 {
		s.Fatalf("kubectl %v: code %d: %s", args, code, errs)
	}
	return out
}

// pod makes one that runs until it is deleted, from the lines of its spec.
func (s *streams) pod(name, spec string) {
	s.Helper()
	file := filepath.Join(s.TempDir(), "pod.yaml")
	text := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  schedulerName: volcano
  restartPolicy: Never
  terminationGracePeriodSeconds: 2
%s`, name, spec)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
	s.must("apply", "-f", file)
}

const small = "resources: {requests: {cpu: 1, memory: 64Mi}, limits: {cpu: 1, memory: 64Mi}}"

// sleeper is a pod with one container that waits.
const sleeper = `
  containers:
  - {name: main, image: none, command: [/bin/sh, -c, "trap 'exit 0' TERM; sleep 1000 & wait"], ` + small + `}
`

func (s *streams) running(name string) {
	s.Helper()
	eventually(s.T, time.Minute, "pod "+name+" runs", func() (bool, string) {
		p := s.must("get", "pod", name, "-o", "jsonpath={.status.phase} {.status.containerStatuses[*].state}")
		// A pod is Running a moment before its containers are.
		return strings.HasPrefix(p, "Running") && strings.Contains(p, `"running"`) && !strings.Contains(p, `"waiting"`), p
	})
}

func TestStreams(t *testing.T) {
	runStreams(t)
}

// TestStreamsLocal does the same where no batch system is installed.
func TestStreamsLocal(t *testing.T) {
	if shared.Batch == environment.BatchLocal {
		t.Skip("SKIP: the local batch system is what TestStreams has run on")
	}
	on(t, environment.BatchLocal)
	runStreams(t)
}

// runStreams runs the tests that only names, all without it.
func runStreams(t *testing.T, only ...string) {
	e := here(t)
	s := &streams{T: t, env: e, ns: "default"}
	s.ns = "streams"
	s.must("create", "namespace", s.ns)
	s.must("label", "namespace", s.ns, "test-user="+account.Alice)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if out, err := e.KubectlCommand(ctx, "delete", "namespace", s.ns, "--timeout=50s").CombinedOutput(); err != nil {
			t.Errorf("delete namespace: %v\n%s", err, out)
		}
	})
	for _, c := range []struct {
		name string
		run  func(*streams)
	}{
		{"exec", testExec}, {"containers", testContainers}, {"terminal", testTerminal}, {"cp", testCopy},
		{"attach", testAttach}, {"port-forward", testPortForward}, {"many", testMany}, {"killed client", testKilledClient},
		{"debug", testDebug}, {"top", testTop}, {"daemon", testDaemonRestart},
	} {
		if len(only) > 0 && !slices.Contains(only, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(&streams{T: t, env: e, ns: s.ns}) })
	}
}

// Exit codes, streams apart, input, and what is refused.
func testExec(s *streams) {
	s.pod("exec", sleeper)
	// Before it runs there is a clear message.
	var errs string
	var code int
	eventually(s.T, time.Minute, "the node has its serving certificate", func() (bool, string) {
		_, errs, code = s.sh(nil, "exec", "exec", "--", "id")
		return !strings.Contains(errs, "tls: internal error"), errs // a request for one is under way
	})
	if code == 0 {
		s.Log("the pod was running at once")
	} else if !strings.Contains(errs, "waiting to start") && !strings.Contains(errs, "not running yet") && !strings.Contains(errs, "does not have a host assigned") {
		s.Errorf("exec in a pod that has not started says %q", errs)
	}
	s.running("exec")
	for _, tc := range []struct {
		script, in string
		out, errs  string
		code       int
	}{
		{"echo out; echo err >&2", "", "out\n", "err\n", 0},
		{"exit 3", "", "", "code 3", 3},
		{"exit 127", "", "", "code 127", 127},
		{"kill -9 $$", "", "", "code 137", 137},
		{"cat; exit 5", "input\x00\xff\n", "input\x00\xff\n", "code 5", 5},
	} {
		args := []string{"exec", "exec", "--", "/bin/sh", "-c", tc.script}
		var in io.Reader
		if tc.in != "" {
			args, in = append([]string{"exec", "-i"}, args[1:]...), strings.NewReader(tc.in)
		}
		out, errs, code := s.sh(in, args...)
		if out != tc.out || !strings.Contains(errs, tc.errs) || code != tc.code {
			s.Errorf("%q: %q, %q, code %d", tc.script, out, errs, code)
		}
	}
	if out := s.must("exec", "exec", "--", "id", "-un"); strings.TrimSpace(out) != account.Alice {
		s.Errorf("exec runs as %q", out)
	}
	if _, errs, code := s.sh(nil, "exec", "exec", "--", "nosuchprogram"); code != 127 || !strings.Contains(errs, "not found in PATH") {
		s.Errorf("an unknown program gives %d, %q", code, errs)
	}
	if _, errs, code := s.sh(nil, "exec", "exec", "-c", "nope", "--", "id"); code == 0 || !strings.Contains(errs, "nope") {
		s.Errorf("an unknown container gives %d, %q", code, errs)
	}
	// A pod that waits for room says so.
	s.pod("pending", strings.ReplaceAll(sleeper, "cpu: 1,", "cpu: 4000,"))
	if _, errs, code := s.sh(nil, "exec", "pending", "--", "id"); code == 0 || errs == "" {
		s.Errorf("exec in a pending pod gives %d, %q", code, errs)
	} else {
		s.Logf("pending: %s", strings.TrimSpace(errs))
	}
	s.must("delete", "pod", "exec", "pending", "--wait=false")
}

// Init containers and sidecars are reached while they run.
func testContainers(s *streams) {
	s.pod("inits", `
  initContainers:
  - {name: side, image: none, restartPolicy: Always, command: [sleep, "1000"], `+small+`}
  - {name: init, image: none, command: [/bin/sh, -c, "until test -e /tmp/streams-go; do sleep 0.1; done; rm /tmp/streams-go"], `+small+`}
  containers:
  - {name: main, image: none, command: [sleep, "1000"], `+small+`}
`)
	eventually(s.T, time.Minute, "the init container runs", func() (bool, string) {
		st := s.must("get", "pod", "inits", "-o", "jsonpath={.status.initContainerStatuses[1].state}")
		return strings.Contains(st, "running"), st
	})
	for _, name := range []string{"side", "init"} {
		if out := s.must("exec", "inits", "-c", name, "--", "/bin/sh", "-c", "echo $ISTHMUS_CONTAINER_ID"); !strings.Contains(out, "/"+name+"/0") {
			s.Errorf("exec in %s: %q", name, out)
		}
	}
	if _, errs, code := s.sh(nil, "exec", "inits", "-c", "main", "--", "id"); code == 0 || !strings.Contains(errs, "waiting to start") {
		s.Errorf("exec in a container that waits gives %d, %q", code, errs)
	}
	s.must("exec", "inits", "-c", "init", "--", "/bin/sh", "-c", "touch /tmp/streams-go")
	s.running("inits")
	if _, errs, code := s.sh(nil, "exec", "inits", "-c", "init", "--", "id"); code == 0 || !strings.Contains(errs, "ended with exit code 0") {
		s.Errorf("exec in an ended container gives %d, %q", code, errs)
	}
	s.must("delete", "pod", "inits", "--wait=false")
}

// kubectl cp carries 10 MB each way.
func testCopy(s *streams) {
	s.pod("copy", sleeper)
	s.running("copy")
	dir := s.TempDir()
	data := make([]byte, 10<<20)
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // test data
	for i := range data {
		data[i] = byte(rng.UintN(256))
	}
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, data, 0o600); err != nil {
		s.Fatal(err)
	}
	where := strings.TrimSpace(s.must("exec", "copy", "--", "/bin/sh", "-c", "mktemp -d"))
	began := time.Now()
	s.must("cp", from, s.ns+"/copy:"+where+"/file")
	there := time.Since(began)
	sum := sha256.Sum256(data)
	if out := s.must("exec", "copy", "--", "sha256sum", where+"/file"); !strings.HasPrefix(out, hex.EncodeToString(sum[:])) {
		s.Errorf("in the pod: %s", out)
	}
	began = time.Now()
	s.must("cp", s.ns+"/copy:"+where+"/file", to)
	s.Logf("10 MB there in %s and back in %s", there.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, data) {
		s.Errorf("back: %d bytes, %v", len(got), err)
	}
	s.must("exec", "copy", "--", "rm", "-r", where)
	s.must("delete", "pod", "copy", "--wait=false")
}

// kubectl attach reaches input and output of a container, with and without a terminal.
func testAttach(s *streams) {
	s.pod("attach", `
  containers:
  - name: main
    image: none
    stdin: true
    stdinOnce: true
    command: [/bin/sh, -c, 'while read -r line; do echo "got $line"; done; echo bye']
    `+small+`
`)
	s.pod("tty", `
  containers:
  - name: main
    image: none
    stdin: true
    tty: true
    command: [/bin/sh, -c, 'while read -r line; do echo "got $line"; stty size; test "$line" = end && exit 0; done']
    `+small+`
`)
	s.running("attach")
	out, errs, code := s.sh(strings.NewReader("one\ntwo\n"), "attach", "-i", "attach")
	if code != 0 || !strings.Contains(out, "got one\ngot two\n") {
		s.Errorf("attach gave %q, %q, code %d", out, errs, code)
	}
	eventually(s.T, time.Minute, "the container has ended with its only input", func() (bool, string) {
		p := s.must("get", "pod", "attach", "-o", "jsonpath={.status.phase}")
		return p == "Succeeded", p
	})
	if log := s.must("logs", "attach"); log != "got one\ngot two\nbye\n" {
		s.Errorf("the log is %q", log)
	}
	s.running("tty")
	master, cmd := s.terminal("attach", "-it", "tty")
	c := watchScreen(master)
	eventually(s.T, 20*time.Second, "the size has arrived", func() (bool, string) {
		_, _ = master.Write([]byte("hello\n"))
		c.mu.Lock()
		defer c.mu.Unlock()
		return strings.Contains(c.buf.String(), "31 101"), c.buf.String()
	})
	c.until(s, "got hello")
	_, _ = master.Write([]byte("end\n"))
	if err := cmd.Wait(); err != nil {
		s.Errorf("attach ended with %v", err)
	}
	if _, errs, code := s.sh(nil, "attach", "attach"); code == 0 || !strings.Contains(errs, "Succeeded") && !strings.Contains(errs, "completed") {
		s.Errorf("attach to an ended pod gives %d, %q", code, errs)
	}
	s.must("delete", "pod", "attach", "tty", "--wait=false")
}

// kubectl port-forward carries many connections to a server in the pod.
func testPortForward(s *streams) {
	server := `import socket,threading
s=socket.socket(); s.bind(("127.0.0.1",0)); s.listen(50); print(s.getsockname()[1],flush=True)
def one(c):
    data=b""
    while True:
        b=c.recv(65536)
        if not b: break
        data+=b
    c.sendall(data[::-1]); c.close()
while True:
    c,_=s.accept(); threading.Thread(target=one,args=(c,)).start()`
	s.pod("server", fmt.Sprintf(`
  containers:
  - {name: main, image: none, command: [python3, -c, %q], %s}
`, server, small))
	s.running("server")
	port := ""
	eventually(s.T, 30*time.Second, "the server listens", func() (bool, string) {
		port = strings.TrimSpace(s.must("logs", "server"))
		return port != "", port
	})
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	cmd := s.env.KubectlCommand(ctx, "-n", s.ns, "port-forward", "server", ":"+port)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	cmd.Stderr = s.Output()
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	buf := make([]byte, 256)
	n, err := out.Read(buf)
	var local int
	if _, serr := fmt.Sscanf(string(buf[:n]), "Forwarding from 127.0.0.1:%d", &local); err != nil || serr != nil {
		s.Fatalf("port-forward says %q, %v, %v", buf[:n], err, serr)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			var d net.Dialer
			c, err := d.DialContext(s.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", local))
			if err != nil {
				s.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			go func() {
				_, _ = c.Write(bytes.Repeat([]byte{byte(i), 0}, 50_000))
				_ = c.(*net.TCPConn).CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{0, byte(i)}, 50_000)) {
				s.Errorf("connection %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	group.Wait()
	s.must("delete", "pod", "server", "--wait=false")
}

// Twenty commands at once share one way to the pod's host.
func testMany(s *streams) {
	s.pod("many", sleeper)
	s.running("many")
	began := time.Now()
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			out, errs, code := s.sh(strings.NewReader(fmt.Sprintf("%d\n", i)), "exec", "-i", "many", "--", "/bin/sh", "-c", fmt.Sprintf("cat; exit %d", i))
			if out != fmt.Sprintf("%d\n", i) || code != i {
				s.Errorf("%d: %q, %q, code %d", i, out, errs, code)
			}
		})
	}
	group.Wait()
	s.Logf("20 commands at once took %s", time.Since(began).Round(time.Millisecond))
	s.must("delete", "pod", "many", "--wait=false")
}

// kubectl debug adds a container to a running pod, with a shell on a terminal,
// and its end is in the status and the log.
func testDebug(s *streams) {
	s.pod("patient", sleeper)
	s.running("patient")
	out, errs, code := s.sh(strings.NewReader("echo from-$((20+3)); id -un; exit 4\n"), "debug", "patient", "-i", "--image=busybox", "--container=doctor", "--target=main", "--", "/bin/sh")
	if !strings.Contains(out, "from-23\n"+account.Alice) {
		s.Errorf("debug gave %q, %q, code %d", out, errs, code)
	}
	eventually(s.T, time.Minute, "its end is in the status", func() (bool, string) {
		got := s.must("get", "pod", "patient", "-o", `jsonpath={.status.ephemeralContainerStatuses[?(@.name=="doctor")].state.terminated.exitCode}/{.status.phase}`)
		return got == "4/Running", got
	})
	if log := s.must("logs", "patient", "-c", "doctor"); !strings.Contains(log, "from-23") {
		s.Errorf("the log is %q", log)
	}
	// One that stays, is reached by exec, and ends with the pod.
	s.must("debug", "patient", "--image=busybox", "--container=nurse", "--attach=false", "--", "sleep", "1000")
	eventually(s.T, time.Minute, "the second one runs", func() (bool, string) {
		got := s.must("get", "pod", "patient", "-o", `jsonpath={.status.ephemeralContainerStatuses[?(@.name=="nurse")].state}`)
		return strings.Contains(got, "running"), got
	})
	if out := s.must("exec", "patient", "-c", "nurse", "--", "/bin/sh", "-c", "echo $ISTHMUS_CONTAINER_ID"); !strings.Contains(out, "/nurse/0") {
		s.Errorf("exec in it: %q", out)
	}
	// What cannot be is told.
	s.must("debug", "patient", "--image=busybox", "--container=surgeon", "--profile=sysadmin", "--attach=false", "--", "id")
	eventually(s.T, time.Minute, "the third one is refused", func() (bool, string) {
		got := s.must("get", "pod", "patient", "-o", `jsonpath={.status.ephemeralContainerStatuses[?(@.name=="surgeon")].state.terminated.message}`)
		return strings.Contains(got, "privileged"), got
	})
	s.must("delete", "pod", "patient", "--wait=true")
}

// What pods use is served as metrics-server asks for it, a node at a time, and
// as a summary.
func testTop(s *streams) {
	s.pod("busy", `
  containers:
  - {name: main, image: none, command: [/bin/sh, -c, "while :; do :; done"], `+small+`}
`)
	s.running("busy")
	node := s.must("get", "pod", "busy", "-o", "jsonpath={.spec.nodeName}")
	at := s.must("get", "node", node, "-o", `jsonpath={.metadata.annotations.metrics\.k8s\.io/resource-metrics-path}`)
	if at != "/metrics/resource/"+node {
		s.Errorf("the node names %q to metrics-server", at)
	}
	cpu := func() float64 {
		text := s.kubelet(node, at)
		for line := range strings.Lines(text) {
			var v float64
			if _, err := fmt.Sscanf(line, `container_cpu_usage_seconds_total{container="main",namespace="`+s.ns+`",pod="busy"} %g`, &v); err == nil {
				return v
			}
		}
		return 0
	}
	eventually(s.T, 2*time.Minute, "its processor time grows", func() (bool, string) { v := cpu(); return v > 3, fmt.Sprint(v) })
	summary := s.kubelet(node, "/stats/summary")
	if !strings.Contains(summary, `"name":"busy"`) || !strings.Contains(summary, "usageNanoCores") || !strings.Contains(summary, "workingSetBytes") {
		s.Errorf("the summary is %s", summary)
	}
	s.must("delete", "pod", "busy", "--wait=false")
}

// kubelet asks a node's kubelet API as the administrator. The API server does
// not proxy to loopback addresses, where these nodes are.
func (s *streams) kubelet(node, path string) string {
	s.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.env.Kubeconfig)
	if err != nil {
		s.Fatal(err)
	}
	config.TLSClientConfig.Insecure, config.CAData, config.CAFile = true, nil, "" // the certificate is another test's matter
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		s.Fatal(err)
	}
	at := s.must("get", "node", node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}:{.status.daemonEndpoints.kubeletEndpoint.Port}`)
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, "https://"+at+path, nil)
	if err != nil {
		s.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.Fatalf("GET %s: %s, %v: %s", path, resp.Status, err, body)
	}
	return string(body)
}
