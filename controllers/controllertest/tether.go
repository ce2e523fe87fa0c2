package controllertest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// tether is a thread that starts programs which the kernel is to kill when this
// program dies, however it dies. The kernel takes the end of the thread that started
// them for that, so this one is there until release.
type tether struct {
	calls chan func()
	done  chan struct{}
}

func newTether() *tether {
	t := &tether{calls: make(chan func()), done: make(chan struct{})}
	go func() {
		runtime.LockOSThread()
		for call := range t.calls {
			call()
			t.done <- struct{}{}
		}
		runtime.UnlockOSThread() // the thread goes back to the pool rather than ending
	}()
	return t
}

// do calls f on the thread, and returns when it has.
func (t *tether) do(f func()) {
	t.calls <- f
	<-t.done
}

func (t *tether) release() { close(t.calls) }

// tethered writes a program into a directory that becomes another one, which dies
// with whoever started it: envtest starts its programs itself and has no setting for
// that. It returns its path.
func tethered(dir, program string) (string, error) {
	path := filepath.Join(dir, filepath.Base(program))
	quoted := "'" + strings.ReplaceAll(program, "'", `'\''`) + "'"
	text := "#!/bin/sh\nexec setpriv --pdeathsig KILL " + quoted + ` "$@"` + "\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil { //nolint:gosec // it is to be run
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return path, nil
}
