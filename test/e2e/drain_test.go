package e2e

import (
	"bufio"
	"bytes"
	"context"
	crand "crypto/rand"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// restartInOrder ends the daemon by SIGTERM, which must give status 0 in time,
// and starts it again.
func restartInOrder(t *testing.T) {
	t.Helper()
	p := vnode(t)
	if err := p.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := p.ExitError(); err != nil {
		t.Errorf("the daemon ended with %v:\n%s", err, process.Tail(p.Log, 15))
	}
	if err := here(t).Restart(p.Name, p.Argv, p.Env); err != nil {
		t.Fatal(err)
	}
}

// served counts how often the daemon began to serve a configuration, over its whole
// log: of the end alone, what was counted once would be out of sight after more lines.
func served(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile(vnode(t).Log)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(raw, []byte("msg=serving "))
}

// talk is a command of kubectl whose output is read while it runs.
type talk struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  chan string
	stderr *strings.Builder
	ended  chan error
}

func newTalk(t *testing.T, args ...string) *talk {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	k := &talk{cmd: here(t).KubectlCommand(ctx, args...), lines: make(chan string, 100), stderr: &strings.Builder{}, ended: make(chan error, 1)}
	k.cmd.Stderr = k.stderr
	var err error
	if k.in, err = k.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			k.lines <- lines.Text()
		}
		k.ended <- k.cmd.Wait()
	}()
	return k
}

// hears waits for a line.
func (k *talk) hears(t *testing.T, want string) {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	last := ""
	for {
		select {
		case last = <-k.lines:
			if last == want {
				return
			}
		case err := <-k.ended:
			t.Fatalf("kubectl %v ended (%v, %s) before it gave %q; last %q", k.cmd.Args[1:], err, k.stderr, want, last)
		case <-timeout:
			t.Fatalf("kubectl %v did not give %q; last %q", k.cmd.Args[1:], want, last)
		}
	}
}

// ends waits for its end and gives what it complained of and its error.
func (k *talk) ends(t *testing.T) (said string, err error) {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case <-k.lines:
		case err := <-k.ended:
			return k.stderr.String(), err
		case <-timeout:
			t.Fatalf("kubectl %v goes on", k.cmd.Args[1:])
		}
	}
}

// The daemon is asked to end (SIGTERM) in the middle of submissions: it ends with
// status 0, and the next one goes on, with no Job lost or run twice. Streams that
// are open live through a change of the BatchCluster, and end, as do the programs
// behind them, when the daemon does.
func TestDaemonEndsInOrder(t *testing.T) {
	ns := namespace(t, account.Alice)
	t.Run("submissions", func(t *testing.T) {
		marks := openMarks(t)
		rng := rand.New(rand.NewPCG(15, 1)) //nolint:gosec // a run that can be repeated
		var names []string
		for i := range trials(5) {
			for j := range 2 {
				name := fmt.Sprintf("d%d-%d", i, j)
				names = append(names, name)
				apply(t, ns, job{Name: name, Replicas: 2, Spec: "  plugins: {env: []}",
					Script: fmt.Sprintf(`mktemp %s/%s.$VC_TASK_INDEX.XXXXXX >/dev/null && sleep 1`, marks, name)}.yaml())
			}
			pause(t, time.Duration(rng.IntN(1200))*time.Millisecond)
			restartInOrder(t)
		}
		for _, name := range names {
			phase(t, ns, name, "Completed", 5*time.Minute)
			once(t, marks, name, 2)
		}
		if failed := kubectl(t, "get", "pods", "-n", ns, "--field-selector=status.phase=Failed", "-o", "name"); failed != "" {
			t.Errorf("failed pods: %s", failed)
		}
		kubectl(t, "delete", "vcjob", "--all", "-n", ns)
		t.Logf("%d Jobs ran once each through %d ends of the daemon", len(names), trials(5))
	})

	t.Run("streams", func(t *testing.T) {
		s := &streams{T: t, env: here(t), ns: ns}
		s.pod("talks", `
  containers:
  - {name: main, image: none, command: [/bin/sh, -c, "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo tick $i; sleep 1 & wait $!; done"], `+small+`}
`)
		s.running("talks")
		mark := "STREAM_TEST_MARK=" + crand.Text()
		eventually(t, time.Minute, "exec works", func() (bool, string) { // right after the daemon began it may not
			out, errs, code := s.sh(nil, "exec", "talks", "--", "echo", "here")
			return code == 0 && out == "here\n", errs
		})
		cat := newTalk(t, "exec", "-i", "-n", ns, "talks", "--", "/bin/sh", "-c", "export "+mark+"; while read line; do echo heard $line; done")
		logs := newTalk(t, "logs", "-f", "-n", ns, "talks")
		say := func(line string) {
			t.Helper()
			if _, err := io.WriteString(cat.in, line+"\n"); err != nil {
				t.Fatal(err)
			}
			cat.hears(t, "heard "+line)
		}
		say("before")
		logs.hears(t, "tick 1")

		before, idle := served(t), kubectl(t, "get", "batchcluster", environment.ClusterName, "-o", "jsonpath={.spec.poll.idle}")
		for _, value := range []string{"7s", idle} { // changed, and changed back
			kubectl(t, "patch", "batchcluster", environment.ClusterName, "--type=merge", "-p", `{"spec":{"poll":{"idle":"`+value+`"}}}`)
			before++
			eventually(t, time.Minute, "the daemon serves the changed BatchCluster", func() (bool, string) {
				n := served(t)
				return n >= before, fmt.Sprintf("%d configurations, want %d", n, before)
			})
			// At once: what is served anew may not have read its pods yet.
			if out := kubectl(t, "logs", "-n", ns, "talks"); !strings.HasPrefix(out, "tick 1\n") {
				t.Errorf("after the change the log is %q", out)
			}
			say("after " + value)
		}
		now := ""
		eventually(t, time.Minute, "the container's log is read", func() (bool, string) {
			out, err := tryKubectl(t, "logs", "-n", ns, "talks", "--tail=1")
			now = strings.TrimSpace(out)
			return err == nil && strings.HasPrefix(now, "tick "), fmt.Sprint(out, err)
		})
		logs.hears(t, now)

		restartInOrder(t)
		if said, err := cat.ends(t); err == nil || !strings.Contains(said, "the daemon of the virtual node ends") {
			t.Errorf("kubectl exec ended with %v and %q, though its command had not ended", err, said)
		}
		if said, err := logs.ends(t); err != nil {
			t.Logf("kubectl logs -f says: %v, %s", err, strings.TrimSpace(said))
		}
		eventually(t, time.Minute, "nothing of the command is left", func() (bool, string) { n := marked(t, mark); return n == 0, fmt.Sprint(n) })
		eventually(t, time.Minute, "exec works again", func() (bool, string) {
			out, errs, code := s.sh(nil, "exec", "talks", "--", "echo", "here")
			return code == 0 && out == "here\n", errs
		})
		s.must("delete", "pod", "talks")
	})
}
