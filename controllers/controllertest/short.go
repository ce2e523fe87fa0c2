package controllertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

// Short is a load of many short Jobs of one pod each, or, as a reference, of as
// many bare pods: each goes as soon as the one before has a place in the window.
type Short struct {
	// Namespace, and From and To, the numbers of the names that it uses.
	Namespace string
	From, To  int
	// Window is how many are under way at a time.
	Window int
	// Bare makes the pods of the Jobs without Jobs.
	Bare bool
	// Plugins are those of every tenth Job.
	Plugins map[string][]string
}

// Figures is what one load took.
type Figures struct {
	// Took is the time from the first creation to the last end.
	Took time.Duration
	// Transitions are the times from a cause (the creation of a Job, the status of
	// its pod) to the Job's phase that follows from it, as a watcher sees both,
	// sorted. There are none for bare pods.
	Transitions []time.Duration
}

// Quantile is the duration that a share of the transitions stayed within.
func (f Figures) Quantile(share float64) time.Duration {
	if len(f.Transitions) == 0 {
		return 0
	}
	return f.Transitions[min(len(f.Transitions)-1, int(share*float64(len(f.Transitions))))]
}

// shortSpec is the pod of both ways.
func shortSpec() corev1.PodSpec {
	return corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}
}

func (s Short) object(i int) client.Object {
	meta := metav1.ObjectMeta{Namespace: s.Namespace, Name: fmt.Sprint("short-", i)}
	if s.Bare {
		return &corev1.Pod{ObjectMeta: meta, Spec: shortSpec()}
	}
	job := &batch.Job{ObjectMeta: meta, Spec: batch.JobSpec{
		TTLSecondsAfterFinished: ptr.To[int32](24 * 3600),
		Tasks:                   []batch.TaskSpec{{Name: "w", Replicas: 1, Template: corev1.PodTemplateSpec{Spec: shortSpec()}}},
	}}
	if i%10 == 0 {
		job.Spec.Plugins = s.Plugins
	}
	return job
}

// RunShort makes the load, which Play has to carry, and returns when all of it has
// ended well, which a Job that comes to another end never does.
func (p *Plane) RunShort(ctx context.Context, s Short) (Figures, error) {
	w := &shortWatch{seen: map[string]map[string]time.Time{}, left: map[string]bool{}, room: make(chan struct{}, s.Window), done: make(chan struct{})}
	for i := s.From; i < s.To; i++ {
		w.left[fmt.Sprint("short-", i)] = true
	}
	stop, err := p.follow(ctx, s.Namespace, w.pod(s.Bare), w.job)
	if err != nil {
		return Figures{}, err
	}
	defer stop()
	began := time.Now()
	for i := s.From; i < s.To; i++ {
		select {
		case w.room <- struct{}{}:
		case <-ctx.Done():
			return Figures{}, w.late(ctx)
		}
		o := s.object(i)
		w.note(o.GetName(), "made")
		if err := p.Client.Create(ctx, o); err != nil {
			return Figures{}, fmt.Errorf("make %s: %w", o.GetName(), err)
		}
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		return Figures{}, w.late(ctx)
	}
	return Figures{Took: time.Since(began), Transitions: w.transitions()}, nil
}

// DeleteAll deletes all objects of a kind of list in a namespace one by one: for
// thousands a request for all of them takes longer than the API server allows.
func (p *Plane) DeleteAll(ctx context.Context, namespace string, list schema.GroupVersionKind) error {
	all := &metav1.PartialObjectMetadataList{}
	all.SetGroupVersionKind(list)
	if err := p.Client.List(ctx, all, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("list what is to be deleted: %w", err)
	}
	kind := list.GroupVersion().WithKind(strings.TrimSuffix(list.Kind, "List"))
	var g errgroup.Group
	g.SetLimit(players)
	for i := range all.Items {
		all.Items[i].SetGroupVersionKind(kind)
		g.Go(func() error {
			return client.IgnoreNotFound(p.Client.Delete(ctx, &all.Items[i], client.PropagationPolicy(metav1.DeletePropagationBackground)))
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// shortWatch notes when each state was first seen.
type shortWatch struct {
	room, done chan struct{}
	mu         sync.Mutex
	seen       map[string]map[string]time.Time // by name and state
	left       map[string]bool                 // that have not ended
}

func (w *shortWatch) note(name, state string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[name] == nil {
		w.seen[name] = map[string]time.Time{}
	}
	if _, ok := w.seen[name][state]; !ok {
		w.seen[name][state] = time.Now()
	}
}

func (w *shortWatch) end(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.left[name] {
		return
	}
	delete(w.left, name)
	<-w.room
	if len(w.left) == 0 {
		close(w.done)
	}
}

func (w *shortWatch) pod(bare bool) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		name := pod.Labels[batch.JobNameKey]
		if bare {
			name = pod.Name
		}
		w.note(name, "pod "+string(pod.Status.Phase))
		if bare && pod.Status.Phase == corev1.PodSucceeded {
			w.end(name)
		}
	}
}

func (w *shortWatch) job(job *batch.Job) {
	w.note(job.Name, string(job.Status.State.Phase))
	if job.Status.State.Phase == batch.Completed {
		w.end(job.Name)
	}
}

func (w *shortWatch) transitions() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []time.Duration
	for _, at := range w.seen {
		for cause, effect := range map[string]batch.JobPhase{
			"made": batch.Pending, "pod " + string(corev1.PodRunning): batch.Running, "pod " + string(corev1.PodSucceeded): batch.Completed,
		} {
			// Two watches may tell in the other order, and a phase may be passed over.
			if from, to := at[cause], at[string(effect)]; !from.IsZero() && !to.IsZero() {
				out = append(out, max(0, to.Sub(from)))
			}
		}
	}
	slices.Sort(out)
	return out
}

func (w *shortWatch) late(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.left {
		return fmt.Errorf("%d have not ended, one is %s, seen %v: %w", len(w.left), name, slices.Sorted(maps.Keys(w.seen[name])), context.Cause(ctx))
	}
	return context.Cause(ctx)
}

// follow calls back for what is and becomes of the pods and Jobs of a namespace.
func (p *Plane) follow(ctx context.Context, namespace string, pod func(*corev1.Pod), job func(*batch.Job)) (stop func(), err error) {
	return p.inform(ctx, namespace, map[client.Object]toolscache.ResourceEventHandlerFuncs{
		&corev1.Pod{}: each(pod, nil), &batch.Job{}: each(job, nil),
	})
}

// each is a handler of one kind; gone may be nil.
func each[T any](is, gone func(T)) toolscache.ResourceEventHandlerFuncs {
	call := func(f func(T), o any) {
		if tomb, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
			o = tomb.Obj
		}
		if t, ok := o.(T); ok && f != nil {
			f(t)
		}
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { call(is, o) }, UpdateFunc: func(_, o any) { call(is, o) }, DeleteFunc: func(o any) { call(gone, o) },
	}
}

// inform starts informers of one namespace with a handler for each kind and
// returns once they have told all that there is; stop ends them.
func (p *Plane) inform(ctx context.Context, namespace string, handlers map[client.Object]toolscache.ResourceEventHandlerFuncs) (stop func(), err error) {
	c, err := ctrlcache.New(p.Config, ctrlcache.Options{Scheme: p.Scheme, DefaultNamespaces: map[string]ctrlcache.Config{namespace: {}}})
	if err != nil {
		return nil, fmt.Errorf("make informers: %w", err)
	}
	ctx, cancel := context.WithCancel(logr.NewContext(ctx, logr.Discard()))
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Start(ctx) }() // it ends with its context
	stop = func() { cancel(); <-ended }
	for kind, handler := range handlers {
		informer, err := c.GetInformer(ctx, kind)
		if err != nil {
			stop()
			return nil, fmt.Errorf("start informers: %w", err)
		}
		registered, err := informer.AddEventHandler(handler)
		if err != nil {
			stop()
			return nil, fmt.Errorf("start informers: %w", err)
		}
		if !toolscache.WaitForCacheSync(ctx.Done(), registered.HasSynced) {
			stop()
			return nil, fmt.Errorf("start informers: %w", context.Cause(ctx))
		}
	}
	return stop, nil
}

// moving are the objects of one kind that somebody still has to move on.
type moving[T client.Object] struct {
	mu sync.Mutex
	by map[types.UID]T
}

func (m *moving[T]) handler(finished func(T) bool) toolscache.ResourceEventHandlerFuncs {
	return each(func(o T) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if finished(o) {
			delete(m.by, o.GetUID())
			return
		}
		m.by[o.GetUID()] = o
	}, func(o T) {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.by, o.GetUID())
	})
}

func (m *moving[T]) all() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.by))
}
