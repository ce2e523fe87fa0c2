package local_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
)

const (
	wholeVariable = "ISTHMUS_TEST_WHOLE" // the directory of TestWholeInput
	wholeBytes    = 1 << 20              // more than a pipe holds
)

// TestCaller is the program that TestWholeInput kills.
func TestCaller(t *testing.T) {
	dir := os.Getenv(wholeVariable)
	if dir == "" {
		t.Skip("another test starts this one as a program")
	}
	res, err := local.New().Run(t.Context(), transport.Command{
		Argv: []string{"/bin/sh", "-c", `: >started; until [ -e killed ]; do sleep 0.02; done; cat >got.new && mv got.new got`},
		Dir:  dir, Stdin: bytes.NewReader(bytes.Repeat([]byte("x"), wholeBytes)),
	})
	fmt.Println("it was to be killed:", res, err)
}

// A command whose caller is killed reads all of its input: not the part that was
// written by then, which it would take for all of it.
func TestWholeInput(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestCaller$", "-test.v")
	cmd.Env = append(os.Environ(), wholeVariable+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	appears(t, filepath.Join(dir, "started"))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(out) // ends with the program
	_ = cmd.Wait()             // it was killed
	if err := os.WriteFile(filepath.Join(dir, "killed"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	appears(t, filepath.Join(dir, "got"))
	if info, err := os.Stat(filepath.Join(dir, "got")); err != nil || info.Size() != wholeBytes {
		t.Errorf("the command read %v, %v, want %d bytes; its caller said %q", info, err, wholeBytes, said)
	}
}

func appears(t *testing.T, file string) {
	t.Helper()
	for range 1000 {
		if _, err := os.Stat(file); err == nil {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Fatalf("%s never appears", file)
}
