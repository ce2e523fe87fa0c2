package cache

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/estimate"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// history is what a pod tells of its run.
type history struct {
	likeness uint64 // equal for pods of one template
	named    string // the key that its owner gave it
	// began and ended are in nanoseconds since 1970; ended is 0 unless it succeeded.
	began, ended int64
}

func historyOf(p *corev1.Pod) history {
	h := history{likeness: likeness(p), named: p.Annotations[wellknown.EstimateKey]}
	if p.Status.Phase != corev1.PodSucceeded {
		return h
	}
	for _, c := range p.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil && !t.FinishedAt.IsZero() && !t.StartedAt.IsZero() {
			h.ended = max(h.ended, t.FinishedAt.UnixNano())
			b := t.StartedAt.UnixNano()
			if c.RestartCount > 0 && p.Status.StartTime != nil { // that was the last of its runs
				b = min(b, p.Status.StartTime.UnixNano())
			}
			if h.began == 0 || b < h.began {
				h.began = b
			}
		}
	}
	return h
}

// likeness is a hash of what a pod's template says it runs. It is part of keys under which
// runs are remembered, also by schedulers after this one.
func likeness(p *corev1.Pod) uint64 {
	var room [1024]byte // the hash is asked of each event
	text, digits := room[:0], make([]byte, 0, 32)
	add := func(parts ...string) {
		for _, s := range parts {
			text = append(append(text, s...), 0)
		}
	}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		add(ref.Kind)
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		add(c.Name, c.Image)
		add(c.Command...)
		add("args")
		add(c.Args...)
		var some [8]string
		names := some[:0]
		for name := range c.Resources.Requests {
			names = append(names, string(name))
		}
		slices.Sort(names)
		for _, name := range names {
			q := c.Resources.Requests[corev1.ResourceName(name)]
			add(name)
			number, suffix := q.CanonicalizeBytes(digits) // as String has it
			text = append(append(append(text, number...), suffix...), 0)
		}
	}
	h := fnv.New64a()
	_, _ = h.Write(text) // a hash takes everything
	return h.Sum64()
}

// keyOf is the key under which the runs of a gang's like are remembered: what its
// owner says, within the namespace, or else what its pods run.
func keyOf(spec *snapshot.GangSpec, named string, pods map[string]*podEntry) string {
	kinds := map[uint64]bool{}
	for _, e := range pods {
		if named == "" || e.past.named != "" && e.past.named < named {
			named = e.past.named
		}
		kinds[e.past.likeness] = true
	}
	if named != "" {
		return spec.Namespace + "/" + named
	}
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, spec.Minimum(), slices.Sorted(maps.Keys(kinds))) // a hash takes everything
	return fmt.Sprintf("%s/#%016x", spec.Namespace, h.Sum64())
}

// Learn has the cache tell run times of gangs that nobody else does, from the runs
// of their like, which it adds to the book. It is called before the cache is given
// anything, and the book is the cache's from then on.
func (c *Cache) Learn(b *estimate.Book) { c.book = b }

// rememberRuns adds what is known from before.
func (c *Cache) rememberRuns(o *estimate.Book) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.book != nil && c.book.Merge(o) {
		c.learnt++
		c.touchGangs()
	}
}

// touchUnknown marks the gangs that may be told another run time now.
func (c *Cache) touchUnknown() {
	for _, e := range c.gangs {
		if e.snap != nil && (e.snap.Estimate <= 0 || e.snap.EstimateFrom == snapshot.EstimateLearnt) {
			e.snap = nil
		}
	}
	c.signal()
}

// learnFrom notes the run of a gang that has ended well, and tells the run time of
// one of which nobody says anything.
func (c *Cache) learnFrom(spec *snapshot.GangSpec, named string, pods map[string]*podEntry) {
	if c.book == nil || len(pods) == 0 {
		return
	}
	began, ended := int64(0), int64(0)
	done := int64(len(pods)) >= spec.Minimum()
	for _, e := range pods {
		if e.past.ended == 0 {
			done = false
			break
		}
		ended = max(ended, e.past.ended)
		if began == 0 || e.past.began < began {
			began = e.past.began
		}
	}
	if !done && spec.Estimate > 0 {
		return
	}
	key := keyOf(spec, named, pods)
	if done {
		run := estimate.Run{Ended: ended / int64(time.Second), Took: cmp.Or((ended-began+int64(time.Second)-1)/int64(time.Second), 1)}
		before := c.book.Estimate(key)
		if c.book.Add(key, run) {
			c.learnt++
			if c.book.Estimate(key) != before {
				c.touchUnknown()
			}
		}
		return
	}
	if d := c.book.Estimate(key); d > 0 {
		spec.Estimate, spec.EstimateFrom = int64(d), snapshot.EstimateLearnt
	}
}

// estimated works out how long a gang runs: what its PodGroup says, else the
// longest that any of its pods says.
func estimated(spec *snapshot.GangSpec, pods map[string]*podEntry) {
	if spec.Estimate > 0 {
		return
	}
	for _, e := range pods {
		if e.estimate > spec.Estimate || e.estimate == spec.Estimate && e.estimate > 0 && e.estimateFrom < spec.EstimateFrom {
			spec.Estimate, spec.EstimateFrom = e.estimate, e.estimateFrom
		}
	}
}
