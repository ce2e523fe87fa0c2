package stage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// DefaultPath is the PATH of a program whose environment has none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const (
	orderFD  = 3
	reportFD = 4
	maxOrder = 64 << 20
)

// Enter is the stage inside the namespaces: it reads its order, mounts, gives up
// every capability and executes the program. It returns only on failure, after
// telling the parent, with the exit code to use.
func Enter() int {
	runtime.LockOSThread() // capabilities belong to threads: the one that drops them must be the one that executes
	report := os.NewFile(reportFD, "report")
	f := enter()
	if f == nil {
		return 0 // a trial
	}
	data, err := json.Marshal(f)
	if err == nil {
		_, err = report.Write(data)
	}
	if err != nil {
		return 126
	}
	return 125
}

func enter() *Failure {
	in := os.NewFile(orderFD, "order")
	data, err := io.ReadAll(io.LimitReader(in, maxOrder))
	if err != nil {
		return &Failure{Kind: "stage", Message: "read order: " + err.Error()}
	}
	_ = in.Close()
	var o order
	if err := json.Unmarshal(data, &o); err != nil {
		return &Failure{Kind: "stage", Message: "decode order: " + err.Error()}
	}
	unix.Umask(0o022)
	if o.Namespaces {
		if f := mountAll(o.Mounts, o.MountDir); f != nil {
			return f
		}
		if o.ReadOnlyRoot {
			if err := protect(o.Mounts); err != nil {
				return &Failure{Kind: "mount", Field: "securityContext.readOnlyRootFilesystem", Message: err.Error()}
			}
		}
		if o.View != nil {
			if f := makeView(o.View); f != nil {
				return f
			}
		}
		if f := setUp(o.Setup); f != nil {
			return f
		}
		if err := dropCapabilities(); err != nil {
			return &Failure{Kind: "stage", Message: "give up capabilities: " + err.Error()}
		}
	}
	if o.Trial {
		return nil
	}
	if o.Inside {
		if err := dropBounding(); err != nil {
			return &Failure{Kind: "stage", Message: "give up capabilities: " + err.Error()}
		}
		if len(o.Dirs) > 0 {
			_ = os.MkdirAll(o.Dirs[0], 0o755) // as the kubelet's runtimes do; whether it is there shows next
		}
	}
	if f := chdir(o.Dirs); f != nil {
		return f
	}
	if o.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return &Failure{Kind: "stage", Message: "set no_new_privs: " + err.Error()}
		}
	}
	if err := closeOnExec(); err != nil {
		return &Failure{Kind: "stage", Message: "close descriptors: " + err.Error()}
	}
	// When podrun is killed, its containers must not live on without a keeper. A
	// process whose parents are the runtime's programs is theirs to end.
	if o.Parent != 0 {
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			return &Failure{Kind: "stage", Message: "set parent-death signal: " + err.Error()}
		}
		if os.Getppid() != o.Parent {
			return &Failure{Kind: "stage", Message: "the runner has gone"}
		}
	}
	if o.Next != nil {
		next := order{Sandbox: *o.Next, Parent: o.Parent}
		if o.Keeps {
			next.Parent = 0
		}
		if err := handOn(next); err != nil {
			return &Failure{Kind: "stage", Message: err.Error()}
		}
	}
	return execute(o.Argv, o.Env, o.Inside)
}

// setUp runs the programs that prepare the view.
func setUp(programs [][]string) *Failure {
	for _, words := range programs {
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Env = []string{"PATH=" + DefaultPath}
		if out, err := cmd.CombinedOutput(); err != nil {
			return &Failure{Kind: "stage", Message: fmt.Sprintf("%s: %v: %.500s", words[0], err, bytes.TrimSpace(out))}
		}
	}
	return nil
}

// handOn puts the order for the stage inside the container, and the report, where
// that stage looks for them.
func handOn(next order) error {
	f, err := memory(next)
	if err != nil {
		return err
	}
	// Duplicating leaves out the close-on-exec flag. Where the order got the right
	// number by itself, since this stage's own was closed, the flag is taken away.
	if fd := int(f.Fd()); fd != orderFD {
		if err := unix.Dup3(fd, orderFD, 0); err != nil {
			return fmt.Errorf("hand the order on: %w", err)
		}
		_ = f.Close() // its copy goes on
	} else if _, err := unix.FcntlInt(orderFD, unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("hand the order on: %w", err)
	} else {
		handedOn = f
	}
	if _, err := unix.FcntlInt(reportFD, unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("hand the report on: %w", err)
	}
	return nil
}

// handedOn keeps the order from being closed as garbage before it is executed.
var handedOn *os.File

// chdir goes to the first directory that can be entered. Only the first was
// asked for by the user when there is just one.
func chdir(dirs []string) *Failure {
	err := errors.New("no working directory given")
	for _, d := range dirs {
		if err = os.Chdir(d); err == nil {
			return nil
		}
	}
	return &Failure{Kind: "dir", Field: "workingDir", Message: err.Error()}
}

func execute(argv, env [][]byte, inside bool) *Failure {
	args, total := make([]string, len(argv)), 0
	for i, a := range argv {
		args[i] = string(a)
		total += len(a) + 1 + 8
	}
	vars, search := make([]string, len(env)), DefaultPath
	for i, e := range env {
		vars[i] = string(e)
		total += len(e) + 1 + 8
		if p, ok := bytes.CutPrefix(e, []byte("PATH=")); ok {
			search = string(p)
		}
	}
	if len(args) == 0 {
		return &Failure{Kind: "exec", Message: "no command"}
	}
	makeRoom(total)
	file, err := lookPath(args[0], search)
	if err == nil {
		if inside && unix.Access(file, unix.X_OK) == nil {
			_, _ = unix.Write(reportFD, []byte{executing}) // without a reader nobody waits for it
		}
		err = syscall.Exec(file, args, vars)
	}
	switch {
	case errors.Is(err, syscall.E2BIG):
		return &Failure{Kind: "exec", Message: fmt.Sprintf("execute %q: command and environment of %d bytes are more than this node allows: %v", args[0], total, err)}
	case errors.Is(err, syscall.ENOENT):
		return &Failure{Kind: "exec", Missing: true, Message: fmt.Sprintf("execute %q: no such file, or its interpreter is missing", args[0])}
	}
	return &Failure{Kind: "exec", Missing: errors.Is(err, errNotInPath), Message: fmt.Sprintf("execute %q: %v", args[0], err)}
}

// makeRoom raises the soft stack limit when a quarter of it, which is what the
// kernel allows for arguments and environment, is too little.
func makeRoom(total int) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_STACK, &l); err != nil {
		return
	}
	need := uint64(total)*4 + 1<<20
	if l.Cur >= need {
		return
	}
	l.Cur = min(need, l.Max)
	_ = syscall.Setrlimit(syscall.RLIMIT_STACK, &l) // the exec reports it when this did not help
}

var errNotInPath = errors.New("not found in PATH")

// lookPath finds a program as execvp does.
func lookPath(file, search string) (string, error) {
	if strings.Contains(file, "/") {
		return file, nil
	}
	var denied error
	for _, dir := range filepath.SplitList(search) {
		if dir == "" {
			dir = "."
		}
		full := filepath.Join(dir, file)
		if !strings.Contains(full, "/") {
			full = "./" + full
		}
		st, err := os.Stat(full)
		if err != nil || st.IsDir() {
			continue
		}
		if err := unix.Access(full, unix.X_OK); err != nil {
			denied = err
			continue
		}
		return full, nil
	}
	if denied != nil {
		return "", denied
	}
	return "", fmt.Errorf("%w %q", errNotInPath, search)
}

// dropCapabilities empties this thread's capability sets.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// dropBounding gives up every capability for good. A program that is root in its
// container would get them back when it is executed, as far as they are in the
// bounding set.
func dropBounding() error {
	for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
			break // without CAP_SETPCAP there are none; newer ones than the kernel's do not exist
		}
		if err != nil {
			return err
		}
	}
	return dropCapabilities()
}

// closeOnExec keeps every descriptor but the standard ones from the program:
// the batch system leaves some of its own open.
func closeOnExec() error {
	if err := unix.CloseRange(orderFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err == nil {
		return nil
	}
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil && fd >= orderFD {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
