package pod

import (
	"fmt"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// sidecarGrace is the least that a sidecar gets to end after the main containers
// have used up the pod's grace.
const sidecarGrace = 2 * time.Second

// containers runs init containers, then the main containers, and stops the
// sidecars at the end. It blocks until no container runs.
func (r *runner) containers() {
	defer r.endEphemerals()
	looks := make(chan struct{})
	var looker sync.WaitGroup
	looker.Go(func() { r.watchEphemerals(looks) })
	defer looker.Wait()
	defer close(looks)
	var sidecars []*running
	defer func() { r.stopSidecars(sidecars) }()
	for _, c := range r.inits {
		if r.stop.stopping() {
			return
		}
		if !c.init {
			s := begin(c)
			sidecars = append(sidecars, s)
			select {
			case <-c.started:
			case <-s.done:
			case <-r.stop.requested:
			}
			if !r.fatal(s) {
				continue
			}
			return
		}
		out := c.run()
		if out.fatal != nil {
			r.stop.request(0, *out.fatal)
			return
		}
		if out.code != 0 && !r.stop.stopping() {
			r.stop.request(0, cause{failed: true, message: fmt.Sprintf("init container %q ended with exit code %d", c.spec.Name, out.code)})
			return
		}
	}
	if r.stop.stopping() {
		return
	}
	r.status.Update(func(s *manifest.Status) { s.Phase = manifest.PhaseRunning })
	var mains []*running
	for _, c := range r.mains {
		mains = append(mains, begin(c))
	}
	// A container that can never run takes the others with it.
	var watch sync.WaitGroup
	for _, s := range append(mains, sidecars...) {
		watch.Go(func() {
			select {
			case <-s.done:
				r.fatal(s)
			case <-r.stop.requested:
			}
		})
	}
	for _, m := range mains {
		<-m.done
	}
	r.stopSidecars(sidecars)
	watch.Wait()
}

// running is a container with its goroutine.
type running struct {
	*container
	done chan struct{} // closed when it will not run again
	out  outcome       // valid then
}

func begin(c *container) *running {
	s := &running{container: c, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.out = c.run()
	}()
	return s
}

// fatal stops the pod when s has ended in a way that no restart mends. It reports
// whether that is so.
func (r *runner) fatal(s *running) bool {
	select {
	case <-s.done:
	default:
		return false
	}
	if s.out.fatal == nil {
		return false
	}
	r.stop.request(time.Duration(r.spec.GraceSeconds)*time.Second, *s.out.fatal)
	return true
}

// stopSidecars ends sidecars in the reverse order of their start. They share
// what is left of the pod's grace.
func (r *runner) stopSidecars(sidecars []*running) {
	deadline := time.Now().Add(time.Duration(r.spec.GraceSeconds) * time.Second)
	for i := len(sidecars) - 1; i >= 0; i-- {
		s := sidecars[i]
		left := time.Until(deadline)
		if r.stop.stopping() {
			left = min(left, r.stop.left())
		}
		s.stop.request(max(left, sidecarGrace), cause{})
		for waiting := true; waiting; {
			if r.stop.stopping() {
				<-s.done
				break
			}
			select {
			case <-s.done:
				waiting = false
			case <-r.stop.requested: // the pod's own stop may bring the end nearer
				s.stop.request(max(r.stop.left(), sidecarGrace), cause{})
			}
		}
	}
}
