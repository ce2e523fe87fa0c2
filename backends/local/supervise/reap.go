package supervise

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// reapUntil takes in ended children, orphans of the job among them, until pid
// itself has ended.
func reapUntil(pid int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			// No child is left, so pid was taken in by nobody: cannot happen.
			return syscall.WaitStatus(1 << 8)
		case got == pid:
			return status
		}
	}
}

// sweepChildren kills whatever the job left: after its program has ended, every
// process of the job descends from this one. Only this goroutine takes children
// in, so a number that was read cannot be somebody else's by the time it is killed.
func sweepChildren() {
	for begin := time.Now(); time.Since(begin) < sweepLimit; {
		for {
			got, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.ECHILD) {
				return
			}
			if got <= 0 && !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		for _, pid := range children() {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				fmt.Fprintf(os.Stderr, "kill process %d: %v\n", pid, err)
			}
		}
		<-time.After(killPause)
	}
	fmt.Fprintf(os.Stderr, "processes %v of the job do not go\n", children())
}

func children() []int {
	all, err := processes()
	if err != nil {
		fmt.Fprintf(os.Stderr, "look for processes of the job: %v\n", err)
		return nil
	}
	var found []int
	for pid, st := range all {
		if st.Parent == os.Getpid() && !st.Zombie {
			found = append(found, pid)
		}
	}
	return found
}
