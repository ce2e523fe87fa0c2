package environment

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// tether is a small program that ends the environment should this program be
// killed: then the pipe between them closes without the word that lets it go.
// The kernel's own "kill when the parent dies" reaches our children only, not
// Slurm's daemons and the jobs they started.
type tether struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// released is what is written before the pipe is closed on purpose.
const released = "released\n"

func newTether(program, dir string) (*tether, error) {
	log, err := os.OpenFile(filepath.Join(dir, "tether.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start tether: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(program, "tether", "--dir", dir)
	cmd.Stdout, cmd.Stderr = log, log
	// Its own session: neither Ctrl-C nor the end of the terminal reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start tether: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start tether: %w", err)
	}
	return &tether{cmd: cmd, pipe: pipe}, nil
}

// release ends the tether without effect; an error in it no longer matters.
func (t *tether) release() {
	_, _ = io.WriteString(t.pipe, released)
	_ = t.pipe.Close()
	_ = t.cmd.Wait()
}

// Tether is the other end: it reads in until its end. When the word of release
// did not come, the program that started the environment is dead, and Tether
// ends the environment and removes what it staged.
func Tether(_ context.Context, dir string, in io.Reader, progress io.Writer) error {
	line, _ := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
	if line == released {
		return nil
	}
	fmt.Fprintf(progress, "the program that started %s is gone: ending what it left\n", dir)
	e, err := Attach(dir, progress)
	if err != nil {
		return err
	}
	return e.Stop()
}
