package controllertest_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// childVariable makes this test binary a program that starts a control plane and waits.
const childVariable = "ISTHMUS_CONTROLLERTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run())
	}
	plane, err := controllertest.Start()
	if err == nil {
		err = plane.StartGarbageCollector()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready", plane.Kubeconfig)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // the test kills it here
}

// A test that is killed leaves no etcd, API server or controllers running.
func TestKilledTestLeavesNoPlane(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	children, listing := process.Children(cmd.Process.Pid)
	if killing := cmd.Process.Kill(); killing != nil {
		t.Error(killing)
	}
	_ = cmd.Wait() // it was killed
	kubeconfig, ready := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ready || listing != nil || len(children) != 3 {
		t.Fatalf("the child said %q, error %v, and has the children %v, error %v; want etcd, API server and controllers", line, err, children, listing)
	}
	if err := os.RemoveAll(kubeconfig[:strings.LastIndexByte(kubeconfig, '/')]); err != nil {
		t.Error(err)
	}
	controllertest.Eventually(t, time.Minute, func(context.Context) string {
		for _, id := range children {
			if id.Alive() {
				return fmt.Sprintf("process %d still runs", id.PID)
			}
		}
		return ""
	})
}
