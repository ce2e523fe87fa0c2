package pod

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

// killing is the wish of a probe or hook that the container ends.
type killing struct {
	note  string
	grace time.Duration
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
