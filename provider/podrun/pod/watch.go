package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// TerminateFile is the file in the gang's directory by which the launcher passes
// on the batch system's wish that the job ends.
const TerminateFile = "terminate.json"

// Termination is its contents. One of another restart is stale.
type Termination struct {
	Restart int `json:"restart"`
	// Reason and Message are for the pods' status; empty when the batch system
	// gave none.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// Times between looks at volumes with a limit. Memory runs out sooner than disks.
const (
	usageEvery  = 10 * time.Second
	memoryEvery = time.Second
)

// maxGrace bounds a grace period that comes from outside.
const maxGrace = 365 * 24 * time.Hour

// watcher turns everything that may end the pod from outside into requests.
type watcher struct {
	r    *runner
	quit chan struct{}
	wg   sync.WaitGroup
}

func newWatcher(r *runner) *watcher {
	w := &watcher{r: r, quit: make(chan struct{})}
	w.wg.Go(w.signals)
	w.wg.Go(w.files)
	if s := r.spec.Pod.Spec.ActiveDeadlineSeconds; s != nil {
		until := time.Until(r.status.Get().StartedAt.Add(time.Duration(*s) * time.Second))
		w.wg.Go(func() { w.deadline(until) })
	}
	return w
}

func (w *watcher) close() {
	close(w.quit)
	w.wg.Wait()
}

func (w *watcher) grace() time.Duration {
	return time.Duration(w.r.spec.GraceSeconds) * time.Second
}

func (w *watcher) terminate(t Termination) {
	if !w.r.stop.stopping() {
		w.r.status.Update(func(s *manifest.Status) { s.StoppedAt = metav1.Now() })
	}
	w.r.stop.request(w.grace(), cause{failed: true, reason: first(t.Reason, "Terminated"), message: first(t.Message, "the batch system ended the job")})
}

func (w *watcher) signals() {
	select {
	case <-w.r.opts.Terminate:
		w.terminate(Termination{})
	case <-w.quit:
	}
}

func (w *watcher) deadline(in time.Duration) {
	timer := time.NewTimer(in)
	defer timer.Stop()
	select {
	case <-timer.C:
		w.r.stop.request(w.grace(), cause{failed: true, reason: "DeadlineExceeded", message: "Pod was active on the node longer than the specified deadline"})
	case <-w.quit:
	}
}

// files looks for orders until the pod has ended: a later stop may shorten the
// grace of an earlier one. It is the one that looks, for all: an idle runner wakes
// once a Poll, since a host may have hundreds of them.
func (w *watcher) files() {
	o := newOrders(w.r.gang, w.r.dir, orderDirs(&w.r.spec)...)
	defer o.close()
	tick := time.NewTicker(w.r.opts.Poll)
	defer tick.Stop()
	told, again := false, false
	for {
		if o.due() {
			w.r.handedOver.ring()
			w.r.extended.ring()
			again = w.orders(&told)
		} else if again {
			again = w.orders(&told)
		}
		select {
		case <-tick.C:
		case <-w.quit:
			return
		}
	}
}

// orderDirs are the directories of a pod that orders for it come to.
func orderDirs(p *manifest.Pod) []string {
	dirs := []string{controlName}
	for _, v := range p.Volumes {
		if v.Kind == "files" {
			return append(dirs, manifest.UpdatesDir)
		}
	}
	return dirs
}

// orders reads what asks the pod to end; told keeps one failure from being said
// with every look. It reports whether that is to be read again whether or not
// anything changes: what is there may be replaced, and what cannot be read may be
// read later.
func (w *watcher) orders(told *bool) (again bool) {
	var stop manifest.Stop
	err := atomicfile.ReadJSON(w.r.gang, path.Join(w.r.dir, controlName, "stop"), maxControl, &stop)
	again = !errors.Is(err, fs.ErrNotExist)
	switch {
	case err == nil:
		grace := time.Duration(min(max(stop.GraceSeconds, 0), int64(maxGrace/time.Second))) * time.Second
		w.r.stop.request(grace, cause{reason: stop.Reason, message: "the pod was stopped"})
	case again && !*told:
		*told = true
		w.r.warn(fmt.Errorf("read stop order: %w", err))
	}
	var t Termination
	err = atomicfile.ReadJSON(w.r.gang, TerminateFile, maxControl, &t)
	if err == nil && t.Restart == w.r.opts.Restart {
		w.terminate(t)
	}
	return again || !errors.Is(err, fs.ErrNotExist)
}

// contents keeps files of volumes up to date until the pod has ended.
func (w *watcher) contents() {
	if w.r.contents == nil {
		return
	}
	w.wg.Go(func() {
		told := ""
		for w.r.handedOver.wait(w.r.retry(told != ""), w.quit) {
			w.r.freshen(&told)
		}
	})
}

// volumes watches the limits of emptyDirs.
func (w *watcher) volumes(all map[string]volume) {
	limited := map[string]volume{}
	for name, v := range all {
		if v.limit > 0 {
			limited[name] = v
		}
	}
	if len(limited) == 0 {
		return
	}
	every := usageEvery
	for _, v := range limited {
		if v.memory {
			every = memoryEvery
		}
	}
	every = min(every, 100*w.r.opts.Poll)
	w.wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			for name, v := range limited {
				if used := usage(v.path); used > v.limit {
					w.r.stop.request(time.Second, cause{failed: true, reason: "Evicted",
						message: fmt.Sprintf("Usage of EmptyDir volume %q is %d bytes, more than its limit of %d", name, used, v.limit)})
				}
			}
			select {
			case <-tick.C:
			case <-w.quit:
				return
			}
		}
	})
}
