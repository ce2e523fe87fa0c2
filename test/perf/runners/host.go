package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

const (
	// patience is how long all pods may take to start, and to end.
	patience = 5 * time.Minute
	look     = 100 * time.Millisecond
	// atOnce bounds the pods that are starting.
	atOnce = 10
)

// host is the pods that run.
type host struct {
	launchers []*exec.Cmd
	runners   []int // their process ids
}

// start runs so many pods, each in a directory of its own below place, and waits
// until all run.
func start(ctx context.Context, pods int, podrun, place string, who *syscall.Credential) (*host, error) {
	h := &host{}
	for i := range pods {
		dir := filepath.Join(place, strconv.Itoa(i))
		if err := stage(dir, i, who); err != nil {
			return h, err
		}
		cmd := exec.Command(podrun, "launch", ".") //nolint:gosec // the program that is measured
		cmd.Dir = dir
		cmd.Env = []string{"PATH=/usr/bin:/bin", "TMPDIR=" + filepath.Join(dir, "tmp")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who, Setpgid: true}
		if err := cmd.Start(); err != nil {
			return h, err
		}
		h.launchers = append(h.launchers, cmd)
		if i >= atOnce {
			if err := runs(ctx, place, i-atOnce); err != nil {
				return h, err
			}
		}
	}
	for i, cmd := range h.launchers {
		if err := runs(ctx, place, i); err != nil {
			return h, err
		}
		children, err := childrenOf(cmd.Process.Pid)
		if err != nil {
			return h, err
		}
		if len(children) != 1 {
			return h, fmt.Errorf("the launcher of pod %d has children %v, want its runner", i, children)
		}
		h.runners = append(h.runners, children[0])
	}
	return h, nil
}

// stage writes a gang of one pod: a container that sleeps, with a volume whose
// contents could be replaced.
func stage(dir string, i int, who *syscall.Credential) error {
	name := fmt.Sprintf("p%d", i)
	uid := types.UID("uid-" + name)
	gang := manifest.Gang{
		Version: manifest.Version, Key: fmt.Sprintf("k%d", i), Attempt: fmt.Sprintf("runners-%d-%s", os.Getpid(), name), Launcher: "local",
		Components: []manifest.Component{{Tasks: 1, CPUs: 1}},
		Members:    []manifest.Member{{Namespace: "ns", Name: name, UID: string(uid), Hostnames: []string{name}}},
	}
	pod := manifest.Pod{
		Version: manifest.Version, Runtime: "host", GraceSeconds: 5,
		Volumes: map[string]manifest.Volume{"conf": {Kind: "files"}},
		Pod: corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: uid},
			Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
				Name: "main", Command: []string{"sleep", "infinity"}, VolumeMounts: []corev1.VolumeMount{{Name: "conf", MountPath: "/mnt"}},
			}}},
		},
	}
	for _, d := range []string{"tmp", "pods/0/volumes/conf"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	for file, v := range map[string]any{"gang.json": gang, "pods/0/pod.json": pod, "pods/0/volumes/conf/key": "value"} {
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			return err
		}
	}
	if who == nil {
		return nil
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // its user must come through
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(who.Uid), int(who.Gid))
	})
}

// runs waits until the container of a pod runs.
func runs(ctx context.Context, place string, i int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	file := filepath.Join(place, strconv.Itoa(i), "pods/0/status.json")
	for {
		var s manifest.Status
		data, err := os.ReadFile(file) //nolint:gosec // our own directory
		if err == nil {
			err = json.Unmarshal(data, &s)
		}
		if err == nil && len(s.Containers) == 1 && s.Containers[0].State.Running != nil {
			return nil
		}
		if err == nil && s.Phase.Terminal() {
			return fmt.Errorf("pod %d has ended: %s", i, data)
		}
		if perr := pause(ctx, look); perr != nil {
			return fmt.Errorf("pod %d does not run: %w; its status: %s, %w", i, perr, data, err)
		}
	}
}

// use is what all have used since they started.
type use struct {
	runners, launchers time.Duration
	wakes              int64
	err                error
}

func (h *host) use() use {
	var u use
	for _, pid := range h.runners {
		cpu, err := processor(pid)
		wakes, err2 := voluntary(pid)
		u.runners, u.wakes, u.err = u.runners+cpu, u.wakes+wakes, errors.Join(u.err, err, err2)
	}
	for _, cmd := range h.launchers {
		cpu, err := processor(cmd.Process.Pid)
		u.launchers, u.err = u.launchers+cpu, errors.Join(u.err, err)
	}
	return u
}

// processor is the processor time of a process without its children.
func processor(pid int) (time.Duration, error) {
	var ts unix.Timespec
	// The clock of another process, in the kernel's own encoding (clock_getcpuclockid(3)).
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil { //nolint:gosec // see above
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// voluntary counts how often threads of a process have gone to sleep.
func voluntary(pid int) (int64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, file := range files {
		data, err := os.ReadFile(file) //nolint:gosec // of the kernel
		if err != nil {
			continue // a thread that has ended
		}
		for line := range strings.Lines(string(data)) {
			if text, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
				if err != nil {
					return 0, fmt.Errorf("read %s: %w", file, err)
				}
				sum += n
			}
		}
	}
	return sum, nil
}

func childrenOf(pid int) ([]int, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	var out []int
	for _, file := range files {
		data, err := os.ReadFile(file) //nolint:gosec // of the kernel
		if err != nil {
			continue // a thread that has ended
		}
		for _, word := range strings.Fields(string(data)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", file, err)
			}
			out = append(out, child)
		}
	}
	return out, nil
}

// stop ends all pods.
func (h *host) stop() error {
	if h == nil {
		return nil
	}
	for _, cmd := range h.launchers {
		_ = cmd.Process.Signal(syscall.SIGTERM) // one that has ended needs none
	}
	kill := time.AfterFunc(patience, func() {
		for _, cmd := range h.launchers {
			_ = cmd.Process.Kill()
		}
	})
	defer kill.Stop()
	for _, cmd := range h.launchers {
		_ = cmd.Wait() // told to end, none ends well
	}
	return nil
}
