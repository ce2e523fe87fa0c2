package process

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The walk finds what a look at all processes finds: children of several threads,
// and their children.
func TestFamily(t *testing.T) {
	var want []int
	for range 3 {
		pid := make(chan int)
		go func() {
			runtime.LockOSThread() // the thread ends with this, and another one takes over its children
			pid <- generations(t)
		}()
		if p := <-pid; p > 0 {
			want = append(want, p)
		}
	}
	if t.Failed() {
		return
	}
	got, err := walk(os.Getpid(), mostThreads)
	if err != nil {
		t.Fatal(err)
	}
	parents := map[int]int{}
	for _, p := range got {
		parents[p.pid] = p.parent
	}
	for _, grandchild := range want {
		if child := parents[grandchild]; child == 0 || parents[child] != os.Getpid() {
			t.Errorf("process %d, a child's child, is not in %+v", grandchild, got)
		}
	}
	if _, err := walk(os.Getpid(), 2); err == nil {
		t.Error("a walk over more threads than it may look at goes on")
	}
	all, err := living()
	if err != nil {
		t.Fatal(err)
	}
	self := os.Getpid()
	scanned := descend(all, func(p info) bool { return p.parent == self })
	walked := make([]int, 0, len(got))
	for _, p := range got {
		walked = append(walked, p.pid)
	}
	slices.Sort(walked)
	if fmt.Sprint(scanned) != fmt.Sprint(walked) {
		t.Errorf("the walk finds %v, the look at all processes %v", walked, scanned)
	}
}

// generations starts a child with a child of its own, which it gives.
func generations(t *testing.T) int {
	cmd := exec.Command("timeout", "300", "sh", "-c", "echo $$; read x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Error(err)
		return 0
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Error(err)
		return 0
	}
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return 0
	}
	t.Cleanup(func() { _, _ = in.Close(), cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Error(err)
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Error(err)
	}
	return pid
}
