package controllertest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// Fate is what becomes of a program at one of its writes to the API server.
type Fate struct {
	// Of says which writes count; nil is all but those of leases.
	Of func(*http.Request) bool
	// At is the write, counted from 1; 0 is none.
	At int
	// After says that the API server has the write already, and nobody hears so.
	After  bool
	Signal syscall.Signal
}

// Program is a process whose requests to the API server pass through the test, which
// sends it a signal at one of its writes.
type Program struct {
	// Log is the path of what it prints.
	Log string

	cmd     *exec.Cmd
	front   *httptest.Server
	exited  chan struct{}
	started chan struct{} // closed once cmd has its process

	mu     sync.Mutex
	writes int
	of     int // writes that count for the fate
	dead   bool
	fate   Fate
	struck chan struct{} // closed when the fate has come
}

// StartProgram starts the test's own program again with a variable of the environment
// set to 1, by which its TestMain knows what to be, and ends it with the test. The signal
// of the fate comes before the write that it is due at reaches the API server, or after.
func (p *Plane) StartProgram(t testing.TB, f Fate, as string, flags ...string) *Program {
	t.Helper()
	r := &Program{fate: f, struck: make(chan struct{}), exited: make(chan struct{}), started: make(chan struct{})}
	target, err := url.Parse(p.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	r.front = httptest.NewServer(r.handler(&httputil.ReverseProxy{
		Rewrite:       func(q *httputil.ProxyRequest) { q.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1, // watches
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}))
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n", r.front.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r.Log = filepath.Join(dir, "log")
	out, err := os.Create(r.Log)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd = exec.Command(self, append([]string{"--kubeconfig=" + kubeconfig}, flags...)...)
	r.cmd.Env = append(os.Environ(), as+"=1")
	r.cmd.Stdout, r.cmd.Stderr = out, out
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.tether.do(func() { err = r.cmd.Start() }) // what starts it must outlive it
	if err != nil {
		t.Fatal(err)
	}
	close(r.started)
	go func() {
		defer close(r.exited)
		_ = r.cmd.Wait() // how it ended is the test's doing
		_ = out.Close()
	}()
	t.Cleanup(r.Kill)
	return r
}

func (r *Program) handler(proxy http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodGet || strings.Contains(q.URL.Path, "/leases") {
			proxy.ServeHTTP(w, q)
			return
		}
		mine, dead := r.count(q)
		if dead {
			panic(http.ErrAbortHandler) // it was sent by nobody any more
		}
		if mine && !r.fate.After {
			r.strike()
			if r.fate.Signal == syscall.SIGKILL {
				panic(http.ErrAbortHandler)
			}
		}
		proxy.ServeHTTP(w, q)
		if mine && r.fate.After {
			r.strike()
			panic(http.ErrAbortHandler)
		}
	})
}

// count counts a write, and says whether it is the one that the fate is due at, and
// whether the process is dead already.
func (r *Program) count(q *http.Request) (mine, dead bool) {
	counts := r.fate.Of == nil || r.fate.Of(q)
	r.mu.Lock()
	defer r.mu.Unlock()
	dead = r.dead
	r.writes++
	if counts {
		r.of++
		mine = r.of == r.fate.At
	}
	r.dead = r.dead || mine && r.fate.Signal == syscall.SIGKILL
	return mine, dead
}

func (r *Program) strike() {
	<-r.started
	_ = r.cmd.Process.Signal(r.fate.Signal) // it may have ended
	if r.fate.Signal == syscall.SIGKILL {
		<-r.exited
	}
	close(r.struck)
}

// Process is the process.
func (r *Program) Process() *os.Process { return r.cmd.Process }

// Exited is closed once the process has ended.
func (r *Program) Exited() <-chan struct{} { return r.exited }

// Struck is closed once the fate has come.
func (r *Program) Struck() <-chan struct{} { return r.struck }

// Fated says of a process that has ended whether that was its fate.
func (r *Program) Fated() bool {
	select {
	case <-r.struck:
		return true
	case <-time.After(time.Second): // it is told after the process has ended
		return false
	}
}

// Kill ends it, if it has not ended, and returns when nothing of it is on its way.
func (r *Program) Kill() {
	_ = r.cmd.Process.Kill() // it may have ended
	<-r.exited
	r.front.CloseClientConnections()
	r.front.Close()
}

// Sent is how many writes it has sent.
func (r *Program) Sent() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes
}

// Tail is the end of what it printed.
func (r *Program) Tail() string {
	text, err := os.ReadFile(r.Log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}
