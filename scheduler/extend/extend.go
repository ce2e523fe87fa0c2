// Package extend asks an extender about the pods that wait, beside the cycles, and
// hands its answers to the cache, from where they go into snapshots. It asks once
// for each class of equal pods, again when there are new nodes or pods were placed,
// and now and then in any case. One that does not answer is asked again later; what
// that means for the pods is the plugin's matter.
package extend

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/extender"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Objects are the API's, as a watch holds them; nil for what it does not.
type Objects interface {
	PodObject(namespace, name string) *corev1.Pod
	NodeObject(name string) *corev1.Node
}

// Asker asks the extender of a configuration.
type Asker struct {
	Objects Objects
	// Set takes all answers there are.
	Set func([]snapshot.Opinion)
	Now func() time.Time
	// Count is told how asking about one class went: answered, or failed.
	Count func(result string)

	mu    sync.Mutex
	with  *extender.Plugin
	since int64 // grows with each configuration
	want  map[string]ask
	dirty bool // pods were placed since the extender was asked last
	wake  chan struct{}
	once  sync.Once

	// answers are those of the worker, by class.
	answers map[string]answer
	told    string
}

// ask is a class of pods that the extender is to be asked about.
type ask struct {
	class           string
	gang            string
	namespace, name string // of one of its pods
	task            string
	nodes           []string
}

type answer struct {
	opinion snapshot.Opinion
	at      time.Time
	nodes   []string
}

const (
	// refresh is how long an answer counts while pods wait for a place.
	refresh = 10 * time.Second
	// again is how long an extender that did not answer is left alone.
	again = 3 * time.Second
)

// Use has another extender asked from now on; nil is none. It may be called at any
// time.
func (a *Asker) Use(p *extender.Plugin) {
	a.mu.Lock()
	a.with, a.want = p, nil
	a.since++
	a.mu.Unlock()
	a.rouse()
}

func (a *Asker) woken() chan struct{} {
	a.once.Do(func() { a.wake = make(chan struct{}, 1) })
	return a.wake
}

func (a *Asker) rouse() {
	select {
	case a.woken() <- struct{}{}:
	default:
	}
}

// Look takes in who waits after a cycle. It does not block.
func (a *Asker) Look(s *snapshot.Snapshot, p plan.Plan) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.with == nil {
		return
	}
	nodes := make([]string, 0, len(s.Nodes))
	for _, n := range s.Nodes {
		nodes = append(nodes, n.Name)
	}
	a.want = map[string]ask{}
	for _, g := range s.Gangs {
		for _, pod := range g.Pods {
			if _, known := a.want[pod.Class.Key]; !known && pod.Waits() && a.with.Manages(pod.Class) {
				a.want[pod.Class.Key] = ask{class: pod.Class.Key, gang: g.Key, namespace: pod.Namespace, name: pod.Name, task: pod.Task, nodes: nodes}
			}
		}
	}
	for _, pl := range p.Placements {
		g := s.Gang(pl.Gang)
		a.dirty = a.dirty || g != nil && slices.ContainsFunc(g.Pods, func(pod *snapshot.Pod) bool { return a.with.Manages(pod.Class) })
	}
	if len(a.want) > 0 {
		a.rouse()
	}
}

// Run asks until ctx ends.
func (a *Asker) Run(ctx context.Context) {
	var since int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.woken():
		}
		a.mu.Lock()
		with, want, dirty, now := a.with, a.want, a.dirty, a.since
		a.dirty = false
		a.mu.Unlock()
		if now != since {
			since = now
			a.answers = map[string]answer{}
			a.Set(nil)
		}
		if with != nil {
			a.round(ctx, *with, want, dirty)
		}
	}
}

// round asks about the classes whose answer is missing or out of date.
func (a *Asker) round(ctx context.Context, with extender.Plugin, want map[string]ask, dirty bool) {
	var keys []string
	for key := range want {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	changed := false
	for key := range a.answers {
		if _, ok := want[key]; !ok {
			delete(a.answers, key)
		}
	}
	for _, key := range keys {
		if ctx.Err() != nil {
			return
		}
		had, ok := a.answers[key]
		age := a.Now().Sub(had.at)
		switch {
		case !ok:
		case had.opinion.Failed != "":
			if age < again {
				continue
			}
		case !dirty && age < refresh && slices.Equal(had.nodes, want[key].nodes):
			continue
		}
		got := a.ask(ctx, with, want[key])
		if got == nil {
			continue
		}
		a.answers[key] = answer{*got, a.Now(), want[key].nodes}
		changed = true
	}
	if changed {
		a.publish()
	}
}

func (a *Asker) publish() {
	out := make([]snapshot.Opinion, 0, len(a.answers))
	for _, an := range a.answers {
		out = append(out, an.opinion)
	}
	slices.SortFunc(out, func(x, y snapshot.Opinion) int { return strings.Compare(x.Class, y.Class) })
	a.Set(out)
}

// ask asks about one class; nil when the pod has gone.
func (a *Asker) ask(ctx context.Context, with extender.Plugin, want ask) *snapshot.Opinion {
	pod := a.Objects.PodObject(want.namespace, want.name)
	if pod == nil {
		return nil
	}
	call := caller{with: with, task: taskOf(pod, want), nodes: a.nodes(want.nodes)}
	opinion, err := call.all(ctx)
	if ctx.Err() != nil {
		return nil
	}
	opinion.Class = want.class
	result, said := "answered", ""
	if err != nil {
		result, said = "failed", err.Error()
		opinion = snapshot.Opinion{Class: want.class, Failed: plan.Bound(said)}
	}
	a.Count(result)
	if said != "" && said != a.told {
		logr.FromContextOrDiscard(ctx).Error(err, "the extender did not answer", "url", with.URL, "ignorable", with.Ignorable)
	}
	a.told = said
	return &opinion
}

func (a *Asker) nodes(names []string) []node {
	out := make([]node, 0, len(names))
	for _, name := range names {
		if n := a.Objects.NodeObject(name); n != nil {
			out = append(out, node{Name: name, Node: n})
		}
	}
	return out
}
