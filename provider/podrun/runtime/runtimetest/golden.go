package runtimetest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

// Maker is what makes sandboxes: every runtime.
type Maker interface {
	Run(c *runtime.Container) (stage.Sandbox, error)
	Exec(c *runtime.Container, pid int, what stage.Sandbox) (stage.Sandbox, error)
}

// Sample is a container that uses what there is, as a fresh copy.
func Sample() *runtime.Container {
	return &runtime.Container{
		Name: "g1-0-main-2", Token: "x://uid/main/2", Rootfs: "/stage/images/sha256/ab/rootfs", Scratch: "/scratch/c/main.2", Brief: "/tmp/b/1",
		Init: "/stage/bin/podrun-1", Hostname: "worker-0", User: "alice", Path: "/opt/site/bin:/usr/bin",
		Main: stage.Sandbox{
			Argv: runtime.Words("sh", "-c", "echo $A; secret-argument"), Env: runtime.Words("A=secret-value", "PATH=/bin"), Dirs: []string{"/work"}, MountDir: "/scratch/mnt",
			Mounts: []stage.Mount{
				{Source: "/scratch/hosts", Target: "/etc/hosts", ReadOnly: true, Field: "spec.hostAliases"},
				{Source: "/data/with, comma", Target: "/data", Field: "spec.containers[0].volumeMounts[0].mountPath"},
				{Source: "/scratch/message", Target: "/dev/termination-log", Field: "spec.containers[0].terminationMessagePath", Optional: true},
			}},
	}
}

// Golden compares what a runtime makes of samples with testdata/<name>.golden,
// and writes the files anew when UPDATE is set in the environment. No sample's
// arguments or environment may be on a command line or in the environment of a
// runtime's program: other users of the node can see those.
func Golden(t *testing.T, m Maker) {
	gpus, plain, exec := Sample(), Sample(), Sample()
	plain.Main.ReadOnlyRoot, plain.HostPID, plain.HostIPC = true, true, true
	gpus.NVIDIA, gpus.AMD = []string{"0", "GPU-3"}, true
	for name, c := range map[string]*runtime.Container{"run": Sample(), "run-gpus": gpus, "run-readonly-hostns": plain} {
		s, err := m.Run(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		compare(t, name, s)
	}
	what := exec.Main
	what.Argv = runtime.Words("ps", "secret-argument")
	s, err := m.Exec(exec, 4711, what)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "exec", s)
}

// readable is a sandbox with text for bytes.
type readable struct {
	Argv, Env  []string
	Setup      [][]string
	Namespaces bool
	Mounts     []stage.Mount
	View       *stage.View
	PIDFile    string
	Keeps      bool
	Next       []string
	NextEnv    []string
	NextDirs   []string
}

func compare(t *testing.T, name string, s stage.Sandbox) {
	t.Helper()
	text := func(words [][]byte) []string {
		var out []string
		for _, w := range words {
			out = append(out, string(w))
		}
		return out
	}
	if all := bytes.Join(append(append([][]byte{}, s.Argv...), s.Env...), []byte("\n")); bytes.Contains(all, []byte("secret")) {
		t.Errorf("%s: secrets can be seen by others:\n%s", name, all)
	}
	out := readable{Argv: text(s.Argv), Env: text(s.Env), Setup: s.Setup, Namespaces: !s.Bare, Mounts: s.Mounts, View: s.View, PIDFile: s.PIDFile, Keeps: s.Keeps}
	if s.Next != nil {
		out.Next, out.NextEnv, out.NextDirs = text(s.Next.Argv), text(s.Next.Env), s.Next.Dirs
	}
	var got bytes.Buffer
	e := json.NewEncoder(&got)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(out); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name+".golden")
	if os.Getenv("UPDATE") != "" {
		if err := os.MkdirAll("testdata", 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got.Bytes(), want)
	}
}
