package pod

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/crilog"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
	"github.com/isthmus-hpc/isthmus/provider/podrun/restart"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

// Reasons in container states, as the kubelet spells them.
const (
	reasonInitializing = "PodInitializing"
	reasonCreating     = "ContainerCreating"
	reasonBackOff      = "CrashLoopBackOff"
	reasonCompleted    = "Completed"
	reasonError        = "Error"
	reasonOOM          = "OOMKilled"
	reasonStart        = "StartError"
	reasonCreate       = "CreateContainerError"
)

// codeNotStarted is the exit code of a container whose program could not be executed.
const codeNotStarted = 128

// container is one container of the pod through all its runs.
type container struct {
	pod  *runner
	spec *corev1.Container
	at   string // field path
	init bool   // an init container that is no sidecar
	slot func(*manifest.Status) *manifest.Container
	// added is a container that came while the pod ran, with its environment.
	added    bool
	declared []manifest.EnvVar
	stop     *stopper

	restarts int32       // number of the next run
	image    image.Image // once it is there
	done     *outcome    // it ended for good in an earlier run of the batch job
	grace    time.Duration

	// started is closed once the container has been up, its hook done and its
	// startup probe passed; sidecars are waited for.
	started     chan struct{}
	startedOnce sync.Once

	mu  sync.Mutex
	now *present // the current run while its main process lives
}

// outcome is how one run ended.
type outcome struct {
	code  int32
	ran   time.Duration
	fatal *cause // the container can never run: the pod has failed
}

func (c *container) update(change func(*manifest.Container)) {
	c.pod.status.Update(func(s *manifest.Status) { change(c.slot(s)) })
}

// number is that of the present run.
func (c *container) number() int32 {
	var n int32
	c.pod.status.View(func(s *manifest.Status) { n = c.slot(s).RestartCount })
	return n
}

// run runs the container until it needs no more runs or is stopped, and gives
// the last outcome. It blocks.
func (c *container) run() outcome {
	if c.done != nil {
		return *c.done
	}
	if !c.fetch() {
		return outcome{code: codeNotStarted}
	}
	wait := restart.NeverEnded
	for {
		out := c.once()
		if out.fatal != nil || c.added || c.stop.stopping() || !restart.Again(c.pod.spec.Pod.Spec.RestartPolicy, c.spec, c.init, out.code) {
			return out
		}
		wait = c.pod.opts.Backoff.Next(wait, out.ran)
		if wait == 0 { // a kubelet does not make a first restart wait
			c.restarts++
			c.update(func(s *manifest.Container) { s.LastState = s.State })
			continue
		}
		c.pod.event("Warning", "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.spec.Name, c.pod.spec.Pod.Name))
		c.restarts++
		var last corev1.ContainerState
		c.update(func(s *manifest.Container) {
			last = s.State
			s.LastState = last
			s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reasonBackOff,
				Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", wait, c.spec.Name,
					c.pod.spec.Pod.Name, c.pod.spec.Pod.Namespace, c.pod.spec.Pod.UID)}}
		})
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.stop.requested:
			timer.Stop()
			c.update(func(s *manifest.Container) { s.State, s.LastState = last, corev1.ContainerState{} })
			return out
		}
	}
}

// once runs the container one time.
func (c *container) once() outcome {
	c.update(func(s *manifest.Container) {
		if s.State.Waiting == nil || s.State.Waiting.Reason != reasonCreating {
			s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reasonCreating}}
		}
		s.RestartCount, s.ContainerID = c.restarts, c.id()
	})
	sb, messageFile, err := c.prepare()
	if err != nil {
		return c.cannot(err)
	}
	began := time.Now()
	log := crilog.NewWriter(c.pod.gang, path.Join(c.pod.dir, "logs", c.spec.Name), int(c.restarts), c.pod.opts.LogLimits, time.Now)
	std, err := newConsole(c.spec.Stdin, c.spec.TTY)
	if err != nil {
		_ = log.Close()
		return c.cannot(err)
	}
	if sb.Terminal = c.spec.TTY; sb.Terminal && !has(sb.Env, "TERM=") {
		sb.Env = append(sb.Env, []byte("TERM=xterm"))
	}
	var copies sync.WaitGroup
	copies.Go(func() { log.Copy("stdout", std.tee(std.out, false)) })
	if std.errs != nil {
		copies.Go(func() { log.Copy("stderr", std.tee(std.errs, true)) })
	}
	finish := func() {
		// Nothing of the container lives, but what does not die may hold a pipe.
		std.drain(2 * time.Second)
		copies.Wait()
		std.close()
		if err := log.Close(); err != nil {
			c.pod.warn(fmt.Errorf("container %s: %w", c.spec.Name, err))
		}
	}
	oom := oomKills()
	box, err := c.box(sb)
	var child *stage.Process
	var start stage.Sandbox
	if err == nil {
		start, err = c.pod.runtime.Run(box)
	}
	if err == nil {
		child, err = c.pod.driver.Start(start, std.child[0], std.child[1], std.child[2])
	}
	std.started()
	if err != nil {
		finish()
		var f *stage.Failure
		switch {
		case !errors.As(err, &f), f.Kind == "mount", f.Kind == "stage":
			return c.cannot(err)
		case f.Kind == "runtime":
			return c.cannot(fmt.Errorf("%w: %s", err, c.lastOutput()))
		}
		return c.ended(began, &corev1.ContainerStateTerminated{ExitCode: codeNotStarted, Reason: reasonStart, Message: err.Error()})
	}
	mark := process.Mark{PID: child.PID(), Token: c.id()}
	main := child.PID()
	if start.Keeps {
		main = child.Main(mark)
	}
	if namespaces, _ := c.pod.driver.Namespaces(); namespaces && !start.Bare || main != child.PID() {
		var release func()
		mark.MountNS, release = process.PinMountNS(main)
		defer release()
	}
	mark.Main = main
	c.mu.Lock()
	c.now = &present{box: box, mark: mark, console: std}
	c.mu.Unlock()
	c.update(func(s *manifest.Container) {
		s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(began)}}
		s.Usage = nil // what the run before has used
	})

	note := c.watch(child, mark)

	c.mu.Lock()
	c.now = nil // from here on nothing more is started in it
	c.mu.Unlock()
	if err := mark.KillAll(killLimit); err != nil {
		c.pod.warn(fmt.Errorf("container %s: %w", c.spec.Name, err))
	}
	finish()
	c.clear(box)
	if err := child.Failed(); err != nil {
		return c.ended(began, &corev1.ContainerStateTerminated{ExitCode: codeNotStarted, Reason: reasonStart, Message: err.Error()})
	}
	t := terminated(child.Status())
	if t.ExitCode == 128+int32(unix.SIGKILL) && oomKills() > oom {
		t.Reason = reasonOOM
	}
	t.Message = readMessage(messageFile)
	if t.Message == "" && t.ExitCode != 0 && c.spec.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
		t.Message = c.lastOutput()
	}
	if t.Message == "" {
		t.Message = note
	}
	return c.ended(began, t)
}

// terminated translates a process's end.
func terminated(ws syscall.WaitStatus) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{ExitCode: int32(ws.ExitStatus()), Reason: reasonError}
	if ws.Signaled() {
		t.Signal = int32(ws.Signal())
		t.ExitCode = 128 + t.Signal
	}
	if t.ExitCode == 0 {
		t.Reason = reasonCompleted
	}
	return t
}

// cannot ends the pod: the container could never run.
func (c *container) cannot(err error) outcome {
	now := time.Now()
	out := c.ended(now, &corev1.ContainerStateTerminated{ExitCode: codeNotStarted, Reason: reasonCreate, Message: err.Error()})
	out.fatal = &cause{reason: reasonCreate, message: fmt.Sprintf("container %q: %v", c.spec.Name, err), failed: true}
	return out
}

func (c *container) ended(began time.Time, t *corev1.ContainerStateTerminated) outcome {
	now := time.Now()
	t.StartedAt, t.FinishedAt, t.ContainerID = metav1.NewTime(began), metav1.NewTime(now), c.id()
	c.update(func(s *manifest.Container) {
		s.State = corev1.ContainerState{Terminated: t}
		s.Ready, s.Started = c.init && t.ExitCode == 0, false
	})
	return outcome{code: t.ExitCode, ran: now.Sub(began)}
}

// lastOutput is the end of the log, as the kubelet takes it: 80 lines, 2048 bytes.
func (c *container) lastOutput() string {
	var b strings.Builder
	dir := path.Join(c.pod.dir, "logs", c.spec.Name)
	err := crilog.Print(context.Background(), &b, c.pod.gang, dir, int(c.restarts), crilog.Query{Tail: 80, LimitBytes: -1})
	if err != nil {
		return ""
	}
	s := b.String()
	return strings.ToValidUTF8(s[max(0, len(s)-2048):], "")
}
