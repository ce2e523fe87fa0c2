package local_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
)

const (
	wholeVariable   = "ISTHMUS_TEST_WHOLE"   // the directory of TestWholeInput
	refusedVariable = "ISTHMUS_TEST_REFUSED" // what the kernel refuses, see refuse
	wholeBytes      = 1 << 20                // more than a pipe holds
)

// TestCaller is the program that TestWholeInput kills.
func TestCaller(t *testing.T) {
	dir := os.Getenv(wholeVariable)
	if dir == "" {
		return // by itself it tests nothing: another test starts it as a program
	}
	refuse(t, os.Getenv(refusedVariable))
	res, err := local.New().Run(t.Context(), transport.Command{
		Argv: []string{"/bin/sh", "-c", `readlink /proc/$$/fd/0 >input; : >started; until [ -e killed ]; do sleep 0.02; done; cat >got.new && mv got.new got`},
		Dir:  dir, Stdin: bytes.NewReader(bytes.Repeat([]byte("x"), wholeBytes)),
	})
	fmt.Println("it was to be killed:", res, err)
}

// A command whose caller is killed reads all of its input: not the part that was
// written by then, which it would take for all of it. It does so, too, where the kernel
// or a filter of system calls gives no memory for it, and no file can be found then.
func TestWholeInput(t *testing.T) {
	for _, refused := range []string{"", "ENOSYS", "EPERM", "EACCES"} {
		t.Run("refused: "+refused, func(t *testing.T) {
			dir := t.TempDir()
			cmd := again(t, "^TestCaller$", wholeVariable+"="+dir, refusedVariable+"="+refused)
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
			if input, err := os.ReadFile(filepath.Join(dir, "input")); err != nil || !strings.HasSuffix(string(input), " (deleted)\n") {
				t.Errorf("the input is %q, %v, want something without a name", input, err)
			}
		})
	}
}

// TestPipesOnly: where a host gives neither memory nor files without a name, commands get
// their input nevertheless, and that is told once.
func TestPipesOnly(t *testing.T) {
	if os.Getenv(refusedVariable) == "" {
		cmd := again(t, "^TestPipesOnly$", refusedVariable+"=EPERM+files")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	refuse(t, os.Getenv(refusedVariable))
	var told []string
	runner := local.New()
	runner.Warn = func(text string) { told = append(told, text) }
	for _, text := range []string{"one", "two", ""} {
		res, err := runner.Run(t.Context(), transport.Command{Argv: []string{"cat"}, Stdin: strings.NewReader(text)})
		if err != nil || string(res.Stdout) != text {
			t.Errorf("%q comes back as %q, %v", text, res.Stdout, err)
		}
	}
	if len(told) != 1 || !strings.Contains(told[0], "memfd_create: operation not permitted") {
		t.Errorf("told %q, want the reason once", told)
	}
}

// TestInputOfTheSecondTry: a command that did not start reads its input when it is run
// again.
func TestInputOfTheSecondTry(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	c := transport.Command{Argv: []string{program}, Stdin: strings.NewReader("job")}
	if _, err := local.New().Run(t.Context(), c); !errors.Is(err, transport.ErrNotStarted) {
		t.Fatalf("got %v, want ErrNotStarted", err)
	}
	if err := os.Symlink("/bin/cat", program); err != nil {
		t.Fatal(err)
	}
	if res := run(t, c); string(res.Stdout) != "job" {
		t.Errorf("read %q at the second try", res.Stdout)
	}
}

// again gives this program anew, with one test and more in its environment.
func again(t *testing.T, test string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run", test, "-test.v")
	cmd.Env = append(os.Environ(), env...)
	return cmd
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
