package process_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// roleVariable makes this test binary one of the programs below instead.
const roleVariable = "ISTHMUS_PROCESS_TEST"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		os.Exit(m.Run())
	case "wait": // ends on SIGTERM
		await(syscall.SIGTERM)
	case "stubborn": // does not
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		await(syscall.SIGUSR1)
	case "fail":
		fmt.Println("the last words")
		os.Exit(3)
	case "family": // leaves a grandchild behind when it ends
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{roleVariable + "=wait"} // without the marker
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fmt.Println("ready")
		await(syscall.SIGTERM)
	case "tethered", "detached": // starts two programs in the directory and waits
		g, err := process.Open(os.Getenv("DIR"), process.Options{Tether: role == "tethered"})
		if err != nil {
			panic(err)
		}
		for _, name := range []string{"one", "two"} {
			if _, err := g.Start(spec(name, "wait")); err != nil {
				panic(err)
			}
		}
		fmt.Println("ready")
		if role == "detached" {
			os.Exit(0)
		}
		await(syscall.SIGTERM)
	default:
		panic(role)
	}
}

// await blocks until the signal comes. With nothing to wait for, as in select{},
// the runtime would find a deadlock and end the program.
func await(sig os.Signal) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, sig)
	<-c
}

func spec(name, role string) process.Spec {
	return process.Spec{Name: name, Argv: []string{os.Args[0]}, Env: []string{roleVariable + "=" + role}}
}

// open opens a group in dir and makes sure that nothing survives the test.
func open(t *testing.T, dir string) *process.Group {
	t.Helper()
	g, err := process.Open(dir, process.Options{Tether: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.StopAll(5 * time.Second); err != nil {
			t.Error(err)
		}
		if _, err := process.Sweep(0, dir); err != nil {
			t.Error(err)
		}
	})
	return g
}

func start(t *testing.T, g *process.Group, name, role string) *process.Process {
	t.Helper()
	p, err := g.Start(spec(name, role))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it did not come to pass within a minute that %s", what)
		}
	}
}

func printed(p *process.Process, text string) func() bool {
	return func() bool { return strings.Contains(process.Tail(p.Log, 20), text) }
}

func none(t *testing.T, dir string) {
	t.Helper()
	left, err := process.Belonging(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%v still run, error %v", left, err)
	}
}

func TestStopAllLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	g := open(t, dir)
	for _, name := range []string{"a", "b", "c"} {
		if !start(t, g, name, "wait").Alive() {
			t.Errorf("%s does not run after Start", name)
		}
	}
	if _, err := g.Start(spec("a", "wait")); err == nil {
		t.Error("a second process of a name in use was started")
	}
	if err := g.StopAll(5 * time.Second); err != nil {
		t.Error(err)
	}
	none(t, dir)
	if records, err := filepath.Glob(filepath.Join(dir, "processes", "*")); err != nil || len(records) > 0 {
		t.Errorf("records left: %v, error %v", records, err)
	}
}

func TestStopKillsTheStubborn(t *testing.T) {
	g := open(t, t.TempDir())
	p := start(t, g, "stubborn", "stubborn")
	eventually(t, "it ignores SIGTERM", printed(p, "ready"))
	if err := p.Stop(100 * time.Millisecond); err != nil {
		t.Error(err)
	}
	if p.Alive() {
		t.Error("it still runs")
	}
}

func TestWaitReadyTellsWhyAProgramEnded(t *testing.T) {
	g := open(t, t.TempDir())
	p := start(t, g, "fail", "fail")
	err := p.WaitReady(t.Context(), func(context.Context) error { return errors.New("not yet") })
	if !errors.Is(err, process.ErrExited) || !strings.Contains(err.Error(), "the last words") {
		t.Errorf("got %v", err)
	}
}

func TestRevive(t *testing.T) {
	g := open(t, t.TempDir())
	a, b := start(t, g, "a", "wait"), start(t, g, "b", "wait")
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	revived, err := g.Revive()
	if err != nil || len(revived) != 1 || revived[0] != "b" {
		t.Errorf("revived %v, error %v", revived, err)
	}
	if !a.Alive() || !g.Find("b").Alive() || g.Find("b").PID == b.PID {
		t.Error("after Revive not both run, or b is the old process")
	}
}

// TestAnotherProgramStops is what `isthmus down` does after `isthmus up`.
func TestAnotherProgramStops(t *testing.T) {
	dir := t.TempDir()
	parent(t, "detached", dir)
	g := open(t, dir)
	members := g.Members()
	if len(members) != 2 || !members[0].Alive() || !members[1].Alive() {
		t.Fatalf("the records give %d processes, want 2 that run", len(members))
	}
	if err := g.StopAll(5 * time.Second); err != nil {
		t.Error(err)
	}
	none(t, dir)
}

func TestKilledParentLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	p := parent(t, "tethered", dir)
	var found []process.Found
	var err error
	eventually(t, "both run", func() bool {
		found, err = process.Belonging(dir)
		return err != nil || len(found) == 2
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are gone", func() bool {
		left, err := process.Belonging(dir)
		return err == nil && len(left) == 0
	})
}

// parent runs this binary in a role that prints "ready".
func parent(t *testing.T, role, dir string) *os.Process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "DIR="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed or not, it has an opinion on that
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the parent said %q, error %v", line, err)
	}
	return cmd.Process
}

// TestReusedPID has a record whose pid now is another program's.
func TestReusedPID(t *testing.T) {
	dir := t.TempDir()
	bystander := exec.Command(os.Args[0])
	bystander.Env = []string{roleVariable + "=wait"}
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = bystander.Process.Kill()
		_ = bystander.Wait()
	})
	id, err := process.Identify(bystander.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !id.Alive() {
		t.Fatal("a running process is not alive")
	}
	stale := id
	stale.Start--
	raw, err := json.Marshal(process.Record{Identity: stale, Name: "old", Sequence: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "processes"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "processes", "0001-old.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir).StopAll(time.Second); err != nil {
		t.Error(err)
	}
	if !id.Alive() {
		t.Error("stopping a stale record ended a bystander")
	}
}

// TestSweep ends what no record tells of: children of children.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	g := open(t, dir)
	p := start(t, g, "family", "family")
	eventually(t, "the grandchild runs", printed(p, "ready"))
	found, err := process.Belonging(dir)
	if err != nil || len(found) != 2 {
		t.Fatalf("%v belong to the directory, error %v, want parent and child", found, err)
	}
	ended, err := process.Sweep(5*time.Second, dir)
	if err != nil || len(ended) != 2 {
		t.Errorf("ended %v, error %v", ended, err)
	}
	none(t, dir)
}

func TestUnreadableRecord(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "processes"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "processes", "0001-x.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := process.Open(dir, process.Options{}); err == nil {
		t.Error("opened a group with a record it cannot read")
	}
}
