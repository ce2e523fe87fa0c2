package pod

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
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
	"github.com/isthmus-hpc/isthmus/provider/podrun/peers"
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

// killLimit bounds the wait for processes that SIGKILL does not end at once.
const killLimit = 10 * time.Second

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

// env is the container's declared environment.
func (c *container) env() []manifest.EnvVar {
	if c.added {
		return c.declared
	}
	return c.pod.spec.Env[c.spec.Name]
}

// prepare makes what a run needs.
func (c *container) prepare() (stage.Sandbox, string, error) {
	p := c.pod
	token := c.id()
	env, err := newEnvironment(p.opts.Env, c.env(), p.volumes, p.at, p.hostname(), token, c.base())
	if err != nil {
		return stage.Sandbox{}, "", err
	}
	sb := stage.Sandbox{Env: env.vars, MountDir: p.scratch.mountDir()}
	if sb.Argv, err = arguments(c.spec, c.image.Config, env); err != nil {
		return stage.Sandbox{}, "", err
	}
	for i, word := range sb.Argv {
		sb.Argv[i] = []byte(peers.Word(string(word), p.at.names, p.at.resolves))
	}
	namespaces, _ := p.driver.Namespaces()
	namespaces = namespaces || p.runtime.Image()
	if sb.Mounts, err = mounts(c.spec, c.at, p.volumes, env, namespaces); err != nil {
		return stage.Sandbox{}, "", err
	}
	message, err := p.scratch.terminationFile(c.spec.Name, c.restarts)
	if err != nil {
		return stage.Sandbox{}, "", err
	}
	if namespaces {
		sb.Mounts = append(sb.Mounts,
			stage.Mount{Source: p.hostsFile, Target: "/etc/hosts", ReadOnly: true, Field: "spec.hostAliases"},
			stage.Mount{Source: message, Target: first(c.spec.TerminationMessagePath, corev1.TerminationMessagePathDefault), Optional: true})
	} else {
		sb.Env = env.with("ISTHMUS_HOSTS_FILE", p.hostsFile)
		sb.Env = append(sb.Env, []byte("ISTHMUS_TERMINATION_LOG="+message))
	}
	switch {
	case c.spec.WorkingDir != "":
		sb.Dirs = []string{c.spec.WorkingDir}
	case p.runtime.Image():
		sb.Dirs = []string{first(c.image.Config.WorkingDir, "/")}
	case env.home != "":
		sb.Dirs = []string{env.home, p.scratch.workDir(), "/"} // a volume may hide them
	default:
		sb.Dirs = []string{p.scratch.workDir(), "/"}
	}
	if s := c.spec.SecurityContext; s != nil && s.AllowPrivilegeEscalation != nil {
		sb.NoNewPrivileges = !*s.AllowPrivilegeEscalation
	}
	if s := c.spec.SecurityContext; s != nil && s.ReadOnlyRootFilesystem != nil {
		sb.ReadOnlyRoot = *s.ReadOnlyRootFilesystem
	}
	return sb, message, nil
}

func (c *container) id() string {
	return fmt.Sprintf("%s://%s/%s/%d", c.pod.spec.Runtime, c.pod.spec.Pod.UID, c.spec.Name, c.restarts)
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

// watch stays with a running container until its main process has ended. It
// runs hooks and probes and stops the container when asked to. The note says
// why the container was stopped by its own settings.
func (c *container) watch(child *stage.Process, mark process.Mark) (note string) {
	ctx, cancel := context.WithCancel(context.Background())
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	kill := make(chan killing, 4)
	helpers.Go(func() { c.attend(ctx, kill) })
	select {
	case <-child.Done():
		return note
	case <-c.stop.requested:
		cancel()
		c.terminate(child, mark, c.stop)
		return note
	case k := <-kill:
		cancel()
		note = k.note
		c.pod.event("Normal", "Killing", fmt.Sprintf("Container %s is killed: %s", c.spec.Name, note))
		own := newStopper()
		own.request(k.grace, cause{})
		done := make(chan struct{})
		helpers.Go(func() { // the pod's own stop may come meanwhile, with less patience
			select {
			case <-c.stop.requested:
				own.request(c.stop.left(), cause{})
			case <-done:
			}
		})
		c.terminate(child, mark, own)
		close(done)
		return note
	}
}

// killing is the wish of a probe or hook that the container ends.
type killing struct {
	note  string
	grace time.Duration
}

// attend runs the postStart hook and the probes until ctx ends.
func (c *container) attend(ctx context.Context, kill chan<- killing) {
	if l := c.spec.Lifecycle; l != nil && l.PostStart != nil {
		if err := c.hook(ctx, l.PostStart); err != nil {
			if ctx.Err() == nil {
				c.pod.event("Warning", "FailedPostStartHook", fmt.Sprintf("PostStartHook of container %s failed: %v", c.spec.Name, err))
				kill <- killing{note: "postStart hook failed: " + err.Error(), grace: c.grace}
			}
			return
		}
	}
	if p := c.spec.StartupProbe; p != nil {
		passed := false
		c.probe(ctx, "Startup", p, func(ok bool, err error) bool {
			if passed = ok; !ok {
				kill <- killing{note: "startup probe failed: " + err.Error(), grace: c.probeGrace(p)}
			}
			return false
		})
		if !passed {
			return
		}
	}
	if ctx.Err() != nil {
		return
	}
	c.update(func(s *manifest.Container) { s.Started, s.Ready = true, !c.init && c.spec.ReadinessProbe == nil })
	c.startedOnce.Do(func() { close(c.started) })
	var probes sync.WaitGroup
	defer probes.Wait()
	if p := c.spec.ReadinessProbe; p != nil {
		probes.Go(func() {
			c.probe(ctx, "Readiness", p, func(ok bool, _ error) bool {
				c.update(func(s *manifest.Container) { s.Ready = ok && s.State.Running != nil })
				return true
			})
		})
	}
	if p := c.spec.LivenessProbe; p != nil {
		probes.Go(func() {
			c.probe(ctx, "Liveness", p, func(ok bool, err error) bool {
				if !ok {
					kill <- killing{note: "liveness probe failed: " + err.Error(), grace: c.probeGrace(p)}
				}
				return ok
			})
		})
	}
}

func (c *container) probeGrace(p *corev1.Probe) time.Duration {
	if p.TerminationGracePeriodSeconds != nil {
		return time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
	}
	return c.grace
}

// terminate ends a running container: preStop hook, stop signal, grace, SIGKILL.
// It returns when the main process has ended.
func (c *container) terminate(child *stage.Process, mark process.Mark, by *stopper) {
	c.update(func(s *manifest.Container) { s.Ready = false })
	if l := c.spec.Lifecycle; l != nil && l.PreStop != nil && by.left() > 0 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := c.hook(ctx, l.PreStop); err != nil && ctx.Err() == nil {
				c.pod.warn(fmt.Errorf("container %s: preStop hook: %w", c.spec.Name, err))
				c.pod.event("Warning", "FailedPreStopHook", fmt.Sprintf("PreStopHook of container %s failed: %v", c.spec.Name, err))
			}
		}()
		either := make(chan struct{})
		go func() {
			defer close(either)
			select {
			case <-done:
			case <-child.Done():
			}
		}()
		by.wait(either)
		cancel()
		<-done
		<-either
	}
	if by.left() > 0 {
		if signal := c.stopSignal(); mark.Main != mark.PID {
			_ = syscall.Kill(mark.Main, signal) // the runtime's programs would pass it on, or not
		} else {
			mark.SignalSession(signal)
		}
		if by.wait(child.Done()) {
			return
		}
	}
	_ = syscall.Kill(-mark.PID, syscall.SIGKILL)
	if err := mark.KillAll(killLimit); err != nil {
		c.pod.warn(fmt.Errorf("container %s: %w", c.spec.Name, err))
	}
	<-child.Done()
}

// stopSignal is what asks the container to end.
func (c *container) stopSignal() syscall.Signal {
	if l := c.spec.Lifecycle; l != nil && l.StopSignal != nil {
		return unix.SignalNum(string(*l.StopSignal))
	}
	text := strings.ToUpper(c.image.Config.StopSignal)
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n)
	}
	if text != "" && !strings.HasPrefix(text, "SIG") {
		text = "SIG" + text
	}
	if n := unix.SignalNum(text); n != 0 {
		return n
	}
	return syscall.SIGTERM
}

// base is what the container's environment starts from: its image's, or nil
// for the node's.
func (c *container) base() []string {
	if !c.pod.runtime.Image() {
		return nil
	}
	return append([]string{"HOME=" + home(c.image.Rootfs, c.image.Config.User)}, c.image.Config.Env...)
}

// exec runs a command beside the container: with its mounts and environment. It
// fails when the command does; at the end of ctx the command is killed.
func (c *container) exec(ctx context.Context, command []string) error {
	words := make([][]byte, len(command))
	for i, w := range command {
		words[i] = []byte(w)
	}
	child, mark, err := c.beside(words, nil)
	if err != nil {
		return err
	}
	select {
	case <-child.Done():
	case <-ctx.Done():
		_ = syscall.Kill(-mark.PID, syscall.SIGKILL)
		if err := mark.KillAll(killLimit); err != nil {
			return err
		}
		<-child.Done()
		return ctx.Err()
	}
	if t := terminated(child.Status()); t.ExitCode != 0 {
		return errors.New("command ended with exit code " + strconv.Itoa(int(t.ExitCode)))
	}
	return nil
}
