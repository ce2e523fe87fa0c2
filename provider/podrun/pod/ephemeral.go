package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/crilog"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

const (
	// maxEphemeral bounds the file of added containers, in bytes, and
	// maxEphemerals their number.
	maxEphemeral  = 4 << 20
	maxEphemerals = 256
	// ephemeralGrace is how long they get to end once the pod's own containers have.
	ephemeralGrace = 2 * time.Second
)

// ephemerals are the containers that are added while the pod runs. None of them
// ever runs twice, and none keeps the pod from its end.
type ephemerals struct {
	stop  *stopper
	mu    sync.Mutex
	wg    sync.WaitGroup
	over  bool
	stamp time.Time // of the file that was read last
	told  string
}

// keepEphemerals carries over what an earlier run of the pod has had: it is not
// run again.
func keepEphemerals(before []manifest.Container) []manifest.Container {
	out := make([]manifest.Container, 0, len(before))
	for _, c := range before {
		if c.State.Terminated == nil {
			t := &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown",
				Message: "the batch job was requeued or its runner lost while the container ran", ContainerID: c.ContainerID}
			if c.State.Running != nil {
				t.StartedAt = c.State.Running.StartedAt
			}
			c.State, c.Usage = corev1.ContainerState{Terminated: t}, nil
		}
		out = append(out, c)
	}
	return out
}

// watchEphemerals looks for added containers until quit is closed.
func (r *runner) watchEphemerals(quit <-chan struct{}) {
	for {
		failed := r.addEphemerals()
		if !r.extended.wait(r.retry(failed), quit) {
			return
		}
	}
}

// addEphemerals starts what the provider has added since the last look. It reports
// whether that could not be read.
func (r *runner) addEphemerals() (failed bool) {
	e := r.added
	name := path.Join(r.dir, manifest.EphemeralFile)
	st, err := r.gang.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.ModTime().Equal(e.stamp) {
		return false
	}
	var list manifest.Ephemeral
	if err == nil {
		err = atomicfile.ReadJSON(r.gang, name, maxEphemeral, &list)
	}
	if err == nil && list.Version != manifest.Version {
		err = fmt.Errorf("%s has version %d, this runner knows %d", manifest.EphemeralFile, list.Version, manifest.Version)
	}
	if err != nil {
		if err.Error() != e.told {
			e.told = err.Error()
			r.warn(fmt.Errorf("read added containers: %w", err))
		}
		return true
	}
	e.stamp = st.ModTime()
	for i := range list.Containers {
		r.addEphemeral(i, &list.Containers[i])
	}
	return false
}

// addEphemeral starts one that is new.
func (r *runner) addEphemeral(i int, in *manifest.EphemeralContainer) {
	e := r.added
	e.mu.Lock()
	defer e.mu.Unlock()
	known := false
	r.status.View(func(s *manifest.Status) {
		for _, list := range [][]manifest.Container{s.InitContainers, s.Containers, s.Ephemeral} {
			for _, c := range list {
				known = known || c.Name == in.Container.Name
			}
		}
		known = known || len(s.Ephemeral) >= maxEphemerals
	})
	if known || e.over || !isLabel(in.Container.Name) {
		return
	}
	spec := in.Container
	c := &container{
		pod: r, spec: &spec, at: fmt.Sprintf("spec.ephemeralContainers[%d]", i), stop: e.stop, started: make(chan struct{}),
		grace: time.Duration(r.spec.GraceSeconds) * time.Second, added: true, declared: in.Env,
	}
	var at int
	r.status.Update(func(s *manifest.Status) {
		at = len(s.Ephemeral)
		s.Ephemeral = append(s.Ephemeral, manifest.Container{
			Name: spec.Name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reasonCreating}},
		})
	})
	c.slot = func(s *manifest.Status) *manifest.Container { return &s.Ephemeral[at] }
	refused := in.Refused
	if refused == "" {
		if err := refuseContainer(&spec, r.runtime.Image()); err != nil {
			refused = c.at + "." + err.Error()
		}
	}
	if refused != "" {
		// kubectl debug shows the log of a container that has ended, not its status.
		log := crilog.NewWriter(r.gang, path.Join(r.dir, "logs", spec.Name), 0, r.opts.LogLimits, time.Now)
		log.Copy("stderr", strings.NewReader(refused+"\n"))
		if err := log.Close(); err != nil {
			r.warn(fmt.Errorf("container %s: %w", spec.Name, err))
		}
		c.ended(time.Now(), &corev1.ContainerStateTerminated{ExitCode: codeNotStarted, Reason: reasonCreate, Message: refused})
		return
	}
	r.listMu.Lock()
	r.ephemerals = append(r.ephemerals, c)
	r.listMu.Unlock()
	e.wg.Go(func() { c.run() })
}

// endEphemerals stops what was added and takes no more.
func (r *runner) endEphemerals() {
	e := r.added
	e.mu.Lock()
	e.over = true
	e.mu.Unlock()
	grace := ephemeralGrace
	if r.stop.stopping() {
		grace = min(grace, max(r.stop.left(), 0))
	}
	e.stop.request(grace, cause{})
	e.wg.Wait()
}
