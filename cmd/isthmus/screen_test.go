package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// asIsthmus makes the test program be isthmus, for a terminal of its own.
const asIsthmus = "ISTHMUS_TEST_AS_ISTHMUS"

func TestMain(m *testing.M) {
	if os.Getenv(asIsthmus) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// terminal is a pseudo-terminal: what is typed and seen at master, and program's side.
type terminal struct {
	master, slave *os.File
	before        unix.Termios

	mu   sync.Mutex
	seen string
	at   int // what of it was looked at
}

func newTerminal(t *testing.T, columns, rows uint16) *terminal {
	t.Helper()
	// Not to be waited for by Go's poller, so that a program that ends ends a read.
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	term := &terminal{master: master, slave: slave}
	term.resize(t, columns, rows)
	term.before = term.modes(t)
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			if err != nil {
				return
			}
			term.mu.Lock()
			term.seen += string(buffer[:n])
			term.mu.Unlock()
		}
	}()
	return term
}

func (x *terminal) resize(t *testing.T, columns, rows uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(x.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.Fatal(err)
	}
}

func (x *terminal) modes(t *testing.T) unix.Termios {
	t.Helper()
	modes, err := unix.IoctlGetTermios(int(x.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *modes
}

func (x *terminal) types(t *testing.T, keys string) {
	t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// all is everything that was ever printed.
func (x *terminal) all() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seen
}

// page waits for a page that was drawn since the one before and for which a check has
// nothing to say; it returns its lines.
func (x *terminal) page(t *testing.T, check func(lines []string) string) (lines []string) {
	t.Helper()
	controllertest.Eventually(t, 2*time.Minute, func(context.Context) string {
		x.mu.Lock()
		defer x.mu.Unlock()
		rest := x.seen[x.at:]
		end := strings.LastIndex(rest, eraseBelow)
		if end < 0 {
			return fmt.Sprintf("no page is drawn: %q", rest)
		}
		text := rest[:end]
		text = text[strings.LastIndex(text, home)+len(home):]
		lines = strings.Split(strings.ReplaceAll(text, eraseLine, ""), "\r\n")
		if why := check(lines); why != "" {
			return why + "\n" + strings.Join(lines, "\n")
		}
		x.at += end + len(eraseBelow)
		return ""
	})
	return lines
}

// within says what of a page does not fit.
func within(lines []string, columns, rows int) string {
	if len(lines) > rows {
		return fmt.Sprintf("%d lines for %d rows", len(lines), rows)
	}
	for _, l := range lines {
		if n := len([]rune(l)); n > columns {
			return fmt.Sprintf("a line of %d for %d columns", n, columns)
		}
	}
	return ""
}

// top starts `isthmus top` on the terminal, as its foreground program.
func (x *terminal) top(t *testing.T, plane *controllertest.Plane, change func(*exec.Cmd)) (ended chan error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "top", "--kubeconfig="+plane.Kubeconfig, "--interval=1h") // what is drawn anew is so for a reason
	cmd.Env = append(os.Environ(), asIsthmus+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = x.slave, x.slave, x.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if change != nil {
		change(cmd)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return ended
}

// left checks that the program ends well and leaves the terminal as it was.
func (x *terminal) left(t *testing.T, ended chan error, entered int) {
	t.Helper()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("top ended with %v:\n%q", err, x.all())
		}
	case <-time.After(2 * time.Minute):
		t.Fatalf("top does not end:\n%q", x.all())
	}
	controllertest.Eventually(t, time.Minute, func(context.Context) string {
		if all := x.all(); !strings.HasSuffix(all, leaveScreen) || strings.Count(all, enterScreen) != entered {
			return fmt.Sprintf("the screen is not given back: %q", all)
		}
		return ""
	})
	if now := x.modes(t); now != x.before {
		t.Errorf("the terminal was %+v and is %+v", x.before, now)
	}
}

// TestTopOnTerminal looks at a real API server on pseudo-terminals: a page has as many
// rows and columns as there are, is drawn anew when they become others, however few,
// and q, Ctrl-C and a request to end leave the terminal as it was. Where the output is
// no terminal, it is printed once and without any sequences.
func TestTopOnTerminal(t *testing.T) {
	plane, err := controllertest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	if err := plane.Client.Create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	n.Status.Allocatable = corev1.ResourceList{"cpu": kresource.MustParse("8"), "pods": kresource.MustParse("110"), "nvidia.com/gpu": kresource.MustParse("4")}
	n.Status.Capacity, n.Status.Conditions = n.Status.Allocatable, []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if err := plane.Client.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		pg := &scheduling.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("gang-with-a-long-name-%d", i)}, Spec: scheduling.PodGroupSpec{MinMember: 2, Queue: "default"}}
		if err := plane.Client.Create(t.Context(), pg); err != nil {
			t.Fatal(err)
		}
	}
	shown := func(columns, rows int, words ...string) func([]string) string {
		return func(lines []string) string {
			for _, w := range words {
				if !strings.Contains(strings.Join(lines, "\n"), w) {
					return fmt.Sprintf("%q is not shown", w)
				}
			}
			return within(lines, columns, rows)
		}
	}
	t.Run("sizes and q", func(t *testing.T) {
		x := newTerminal(t, 120, 50)
		ended := x.top(t, plane, nil)
		if lines := x.page(t, shown(120, 50, "nodes", "gang-with-a-long-name-11")); len(lines) < 14 {
			t.Errorf("a page of %d lines", len(lines))
		}
		if now := x.modes(t); now.Lflag&(unix.ICANON|unix.ECHO) != 0 || now.Lflag&unix.ISIG == 0 {
			t.Errorf("keys wait for a line, are shown, or send no signals: %x", now.Lflag)
		}
		for _, size := range [][2]uint16{{40, 8}, {12, 3}, {1, 1}, {200, 60}} {
			x.resize(t, size[0], size[1])
			rows := int(size[1])
			x.page(t, func(lines []string) string {
				if full := rows < 60; full && len(lines) != rows || !full && !strings.Contains(strings.Join(lines, "\n"), "gang-with-a-long-name-11") {
					return fmt.Sprintf("%d lines for %d rows", len(lines), rows)
				}
				return within(lines, int(size[0]), rows)
			})
		}
		x.types(t, "xyz")
		x.resize(t, 60, 20) // it still runs
		x.page(t, func(lines []string) string {
			if len(lines) != 20 || !strings.HasSuffix(lines[19], "more lines)") {
				return "it is not of the new size"
			}
			return within(lines, 60, 20)
		})
		x.types(t, "q")
		x.left(t, ended, 1)
	})
	t.Run("Ctrl-C", func(t *testing.T) {
		x := newTerminal(t, 80, 24)
		var cmd *exec.Cmd
		ended := x.top(t, plane, func(c *exec.Cmd) { cmd = c })
		x.page(t, shown(80, 24, "nodes"))
		// It was stopped, and a shell had the terminal for itself.
		before := x.before
		if err := unix.IoctlSetTermios(int(x.slave.Fd()), unix.TCSETS, &before); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		x.page(t, shown(80, 24, "nodes"))
		if now := x.modes(t); now.Lflag&unix.ICANON != 0 {
			t.Error("keys wait for a line after a stop")
		}
		x.types(t, "\x03")
		x.left(t, ended, 2)
	})
	t.Run("told to end, without keys", func(t *testing.T) {
		x := newTerminal(t, 80, 24)
		var cmd *exec.Cmd
		ended := x.top(t, plane, func(c *exec.Cmd) {
			cmd, c.Stdin = c, nil
			c.SysProcAttr.Ctty = 1
		})
		x.page(t, shown(80, 24, "nodes"))
		if now := x.modes(t); now != x.before {
			t.Error("the terminal is another though no keys are read")
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		x.left(t, ended, 1)
	})
	t.Run("no terminal", func(t *testing.T) {
		x := newTerminal(t, 20, 5)
		var out, errs strings.Builder
		ended := x.top(t, plane, func(c *exec.Cmd) { c.Stdout, c.Stderr = &out, &errs })
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err, errs.String())
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("it does not end")
		}
		if text := out.String(); strings.Contains(text, "\x1b") || !strings.Contains(text, "gang-with-a-long-name-11") || errs.Len() > 0 {
			t.Errorf("it prints %q and says %q", text, errs.String())
		}
		if now := x.modes(t); now != x.before || x.all() != "" {
			t.Errorf("the terminal was touched: %q", x.all())
		}
	})
}

// TestTopTellsWrongCluster: an error is told on the screen that there was before.
func TestTopTellsWrongCluster(t *testing.T) {
	x := newTerminal(t, 80, 24)
	ended := x.top(t, &controllertest.Plane{Kubeconfig: "/nonexistent/kubeconfig"}, nil)
	var exit *exec.ExitError
	select {
	case err := <-ended:
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
	controllertest.Eventually(t, time.Minute, func(context.Context) string {
		if all := x.all(); !strings.Contains(all, "kubeconfig") || strings.Contains(all, enterScreen) {
			return fmt.Sprintf("it says %q", all)
		}
		return ""
	})
}
