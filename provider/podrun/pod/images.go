package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
	"github.com/isthmus-hpc/isthmus/provider/podrun/safepath"
)

// Runtime runs containers. It makes the start of a program out of what a
// container is and what its image says; it does nothing itself, so that what it
// would do can be tested without it.
type Runtime interface {
	// Image reports whether containers run images; the others run programs of the
	// node.
	Image() bool
	// Run is the start of c's main program. The error is a *stage.Failure that
	// names the field which the runtime cannot give.
	Run(c *runtime.Container) (stage.Sandbox, error)
	// Exec is the start of a further program, what, in the running container whose
	// main process is pid.
	Exec(c *runtime.Container, pid int, what stage.Sandbox) (stage.Sandbox, error)
}

// openStore makes the image store of the pod, with what its pull secrets say.
func (r *runner) openStore() error {
	abs, err := filepath.Abs(r.opts.Dir)
	if err != nil {
		return err
	}
	r.store = image.New(r.spec.Images, filepath.Join(abs, "../..")) // beneath which the user's gang directories are
	var secrets [][]byte
	err = atomicfile.ReadJSON(r.gang, filepath.Join(r.dir, manifest.PullSecrets), image.MaxSecrets, &secrets)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		r.store.Credentials, err = image.ParseCredentials(secrets)
	}
	return err
}

// forgetSecrets removes the pull secrets from the shared file system once every
// container has its image. An earlier end of this process leaves them for the
// next one, and the directory's removal takes them at last.
func (r *runner) forgetSecrets() {
	r.imagesMu.Lock()
	defer r.imagesMu.Unlock()
	if r.fetched++; r.fetched < len(r.inits)+len(r.mains) {
		return
	}
	r.removeSecrets()
}

func (r *runner) removeSecrets() {
	if err := r.gang.Remove(filepath.Join(r.dir, manifest.PullSecrets)); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.warn(fmt.Errorf("remove pull secrets: %w", err))
	}
}

// fetch makes the container's image be there. It tries with growing pauses, as
// the kubelet does, until it has it or the container is stopped, which is false.
func (c *container) fetch() bool {
	if !c.pod.runtime.Image() || c.image.Digest != "" {
		return true
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-c.stop.requested:
			cancel()
		case <-stop:
		}
	}()
	abs, err := filepath.Abs(c.pod.opts.Dir)
	if err != nil {
		abs = c.pod.opts.Dir
	}
	once := filepath.Join(abs, image.Record(c.spec.Image))
	c.waiting(reasonCreating, fmt.Sprintf("getting image %q", c.spec.Image))
	var pause time.Duration
	for {
		img, err := c.pod.store.Ensure(ctx, c.spec.Image, c.spec.ImagePullPolicy, once)
		if err == nil {
			c.image = img
			c.update(func(s *manifest.Container) { s.ImageID = img.ID })
			c.tellUser()
			if !c.added {
				c.pod.forgetSecrets()
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		reason, again := image.Reasons(err)
		c.waiting(reason, err.Error())
		c.pod.event("Warning", "Failed", fmt.Sprintf("Failed to pull image %q: %v", c.spec.Image, err))
		pause = c.pod.opts.Backoff.Next(pause, 0)
		shown := min(pause/2, time.Second) // long enough for the reason to be seen, and to leave time for the next one
		if !c.pause(shown) {
			return false
		}
		// As with a kubelet this stays while the next try is under way.
		if again == manifest.ReasonImagePullBackOff {
			c.waiting(again, fmt.Sprintf("Back-off pulling image %q: %v", c.spec.Image, err))
		}
		if !c.pause(pause - shown) {
			return false
		}
	}
}

// pause waits, and reports false when the container is stopped meanwhile.
func (c *container) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.stop.requested:
		return false
	}
}

func (c *container) waiting(reason, message string) {
	c.update(func(s *manifest.Container) {
		s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	})
}

// box is the present run for an image runtime.
func (c *container) box(main stage.Sandbox) (*runtime.Container, error) {
	p := c.pod
	b := &runtime.Container{
		Name:  fmt.Sprintf("%s-%d-%s-%d", p.gangFile.Key, p.opts.Rank, c.spec.Name, c.restarts),
		Token: c.id(), Main: main, Rootfs: c.image.Rootfs, Hostname: p.hostname(),
		HostPID: p.spec.Pod.Spec.HostPID, HostIPC: p.spec.Pod.Spec.HostIPC,
	}
	if !p.runtime.Image() {
		return b, nil
	}
	b.Scratch = filepath.Join(p.scratch.dir, "c", c.spec.Name+"."+strconv.Itoa(int(c.restarts)))
	if err := os.MkdirAll(filepath.Join(b.Scratch, "tmp"), 0o700); err != nil {
		return nil, fmt.Errorf("make scratch space: %w", err)
	}
	if err := os.Chmod(filepath.Join(b.Scratch, "tmp"), 0o1777|os.ModeSticky); err != nil {
		return nil, fmt.Errorf("make scratch space: %w", err)
	}
	var err error
	if b.Init, err = p.program(); err != nil {
		return nil, err
	}
	if b.Brief, err = p.brief(); err != nil {
		return nil, err
	}
	b.Main.Mounts = slices.Clone(main.Mounts)
	for i := range b.Main.Mounts {
		if err := real(&b.Main.Mounts[i]); err != nil {
			return nil, err
		}
	}
	for _, kv := range p.opts.Env {
		name, value, _ := strings.Cut(kv, "=")
		switch name {
		case "PATH":
			b.Path = value
		case "USER":
			b.User = value
		case "CUDA_VISIBLE_DEVICES":
			if value != "" && exists("/dev/nvidiactl") {
				b.NVIDIA = strings.Split(value, ",")
			}
		case "ROCR_VISIBLE_DEVICES":
			b.AMD = value != "" && exists("/dev/kfd")
		}
	}
	if b.User == "" {
		b.User = strconv.Itoa(os.Geteuid())
		if u, err := user.Current(); err == nil { // a directory service may not be readable here
			b.User = u.Username
		}
	}
	return b, nil
}

// clear removes what a run has left in the scratch space.
func (c *container) clear(b *runtime.Container) {
	if b.Scratch == "" {
		return
	}
	if err := errors.Join(removeTree(b.Scratch), removeTree(b.Brief)); err != nil {
		c.pod.warn(fmt.Errorf("container %s: remove scratch space: %w", c.spec.Name, err))
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// real resolves a mount's source for programs that take it by name. They run as
// the job's user and reach nothing that he cannot.
func real(m *stage.Mount) error {
	if m.Sub == "" && len(m.Within) == 0 {
		return nil
	}
	f, err := safepath.Open(m.Source, m.Within)
	if err == nil && m.Sub != "" {
		dir := f
		f, err = safepath.Beneath(dir, m.Sub)
		_ = dir.Close() // it was only looked up
	}
	if err != nil {
		if m.Optional {
			return nil
		}
		return fmt.Errorf("%s: %w", m.Field, err)
	}
	defer f.Close()
	if m.Source, err = os.Readlink(safepath.Named(f)); err != nil {
		return fmt.Errorf("%s: %w", m.Field, err)
	}
	m.Sub = ""
	return nil
}

// brief is a new directory of a short path.
func (r *runner) brief() (string, error) {
	r.imagesMu.Lock()
	defer r.imagesMu.Unlock()
	dir, err := r.scratch.briefDir()
	if err != nil {
		return "", err
	}
	r.briefs++
	dir = filepath.Join(dir, strconv.Itoa(r.briefs))
	return dir, os.Mkdir(dir, 0o700)
}

// program is a path of this very program. When its file was replaced since it
// was started, or cannot be named, a copy is made.
func (r *runner) program() (string, error) {
	r.imagesMu.Lock()
	defer r.imagesMu.Unlock()
	if r.self != "" {
		return r.self, nil
	}
	const link = "/proc/self/exe"
	want, err := os.Stat(link)
	if err != nil {
		return "", fmt.Errorf("find the pod runner: %w", err)
	}
	if name, err := os.Readlink(link); err == nil {
		if have, err := os.Stat(name); err == nil && os.SameFile(want, have) {
			r.self = name
			return name, nil
		}
	}
	data, err := os.ReadFile(link)
	if err != nil {
		return "", fmt.Errorf("copy the pod runner: %w", err)
	}
	name := filepath.Join(r.scratch.dir, "podrun")
	if err := os.WriteFile(name, data, 0o700); err != nil {
		return "", fmt.Errorf("copy the pod runner: %w", err)
	}
	r.self = name
	return name, nil
}
