// Package binder carries plans out: it binds pods, writes PodGroup statuses and
// pod conditions, and tells events. It decides nothing. Every write is safe to
// repeat and carries the UID it is meant for.
//
// A gang's attempt id is made here, once a placement, and all members carry it
// in their Binding together with size and rank; the API server copies them to
// the pod in the write that binds it. A gang whose binding is cut short can
// therefore be completed by whoever schedules next. A binding whose outcome is
// unknown is repeated until the API server answers: its resources stay counted.
package binder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"volcano.sh/apis/pkg/client/clientset/versioned"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Config is what a Binder needs.
type Config struct {
	Client  kubernetes.Interface
	Volcano versioned.Interface
	// Dynamic writes the status of Reservations; nil where there are none.
	Dynamic dynamic.Interface
	Cache   *cache.Cache
	Events  record.EventRecorder
	// Workers bounds the bindings, and apart from them the status writes, under
	// way at a time.
	Workers int
	// HoldFor is how long a gang rests after the API server refused a binding; 0 is 10 s.
	HoldFor time.Duration
	// Delete makes room by deleting pods outright, as Volcano does, in place of the
	// Eviction API, which asks disruption budgets.
	Delete bool
	// ClaimsWithin is how long a gang whose place is found waits for its volumes before
	// it is given up; 0 is 10 minutes, as kube-scheduler has it.
	ClaimsWithin time.Duration
	Now          func() time.Time
	// NewID makes attempt and transition ids.
	NewID   func() string
	Observe Observer
}

// Observer is told what happened; its methods must not block.
type Observer interface {
	Bound(result string, took time.Duration) // "bound", "gone", "elsewhere", "refused", "retried"
	Wrote(kind, result string)               // kind "podgroup" or "pod"; result "written", "gone", "refused", "denied", "retried"
}

const (
	callTimeout = 15 * time.Second
	// confirmWithin is how long the watch may take to show a binding.
	confirmWithin = 2 * time.Minute
	firstRetry    = 50 * time.Millisecond
	lastRetry     = 30 * time.Second
	// lastBind is the longest pause between two tries to bind a pod: when the API server
	// answers again, no gang is to stay partial for longer than 5 seconds.
	lastBind = 4 * time.Second
	// prepareWorkers bounds the placements whose claims are looked at at a time.
	prepareWorkers = 4
)

// Binder carries out plans with workers of its own.
type Binder struct {
	Config
	prepares workqueue.TypedRateLimitingInterface[int64]
	binds    workqueue.TypedRateLimitingInterface[*bindTask]
	writes   workqueue.TypedRateLimitingInterface[string]
	claims   workqueue.TypedRateLimitingInterface[claimTask]
	evicts   workqueue.TypedRateLimitingInterface[evictTask]
	doubts   workqueue.TypedRateLimitingInterface[cache.Doubt]
	later    *later // what goes to writes once bindings let it

	within atomic.Int64 // nanoseconds that gangs wait for their volumes; 0 is Config's

	mu      sync.Mutex
	wishes  map[string]wish // by UID of the object to write
	claimed map[claimTask]plan.Claim
	// preparing are the placements whose claims are seen to, by number; prepared is
	// the last number.
	preparing map[int64]*preparation
	prepared  int64
	written   map[string]time.Time // last write of a message by UID
	refused   map[string]refusal   // by UID of a PodGroup
	asked     map[string]askedCopies
	waits     waits
	queues    queuesTold
	refreshes refreshes
	turns     turns
	workers   sync.WaitGroup
}

// bindTask is a pod to bind. Tasks are queued by where they are, for their many words
// would be hashed at each step of a queue; a pod has one, as one binding of it is assumed.
type bindTask struct {
	gang, attempt string
	size          int64
	domain        string
	bind          plan.Bind
	gangName      string
	since         time.Time
	gangUID       string
	run           int64 // nanoseconds
	runFrom       string
	paths         string
	reservedBy    string
}

// New returns a Binder; Start sets it to work.
func New(c Config) *Binder {
	if c.HoldFor <= 0 {
		c.HoldFor = 10 * time.Second
	}
	if c.ClaimsWithin <= 0 {
		c.ClaimsWithin = 10 * time.Minute
	}
	return &Binder{
		Config: c,
		prepares: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[int64](firstRetry, lastLook)),
		binds: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[*bindTask](firstRetry, lastBind)),
		writes: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)),
		claims: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[claimTask](firstRetry, lastRetry)),
		evicts: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[evictTask](firstRetry, lastRetry)),
		doubts: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[cache.Doubt](firstRetry, lastRetry)),
		later: newLater(), preparing: map[int64]*preparation{},
		wishes: map[string]wish{}, claimed: map[claimTask]plan.Claim{}, written: map[string]time.Time{}, refused: map[string]refusal{}, asked: map[string]askedCopies{}, waits: waits{told: map[waitOf]toldPod{}}, queues: queuesTold{}, refreshes: refreshes{last: map[string]time.Time{}}, turns: turns{last: map[string]turn{}},
	}
}

// Start starts the workers, which run until ctx ends. Wait waits for them.
func (b *Binder) Start(ctx context.Context) {
	for range max(b.Workers, 1) {
		b.workers.Go(func() { work(ctx, b.binds, b.bind) })
		b.workers.Go(func() { work(ctx, b.writes, b.write) })
	}
	for range prepareWorkers {
		b.workers.Go(func() { work(ctx, b.prepares, b.step) })
	}
	for range evictWorkers {
		b.workers.Go(func() { work(ctx, b.claims, b.claim) })
		b.workers.Go(func() { work(ctx, b.evicts, b.evict) })
		b.workers.Go(func() { work(ctx, b.doubts, b.doubt) })
	}
	b.workers.Go(func() { b.later.run(ctx, func() bool { return b.binds.Len() > 0 }, b.Now, b.writes.Add) })
	b.workers.Go(func() {
		<-ctx.Done()
		b.prepares.ShutDown()
		b.binds.ShutDown()
		b.writes.ShutDown()
		b.claims.ShutDown()
		b.evicts.ShutDown()
		b.doubts.ShutDown()
	})
}

// Wait blocks until the workers have stopped.
func (b *Binder) Wait() { b.workers.Wait() }

// work hands items to f until the queue shuts down; an item for which f reports
// false is repeated later.
func work[T comparable](ctx context.Context, q workqueue.TypedRateLimitingInterface[T], f func(context.Context, T) bool) {
	for {
		item, shutdown := q.Get()
		if shutdown {
			return
		}
		if ctx.Err() == nil && !f(ctx, item) {
			q.AddRateLimited(item)
		} else {
			q.Forget(item)
		}
		q.Done(item)
	}
}

// Carry starts everything a plan asks for and returns at once. All members of a
// placement are counted before the first is sent.
func (b *Binder) Carry(p plan.Plan) {
	now := b.Now()
	for _, pl := range p.Placements {
		attempt := pl.Attempt
		if attempt == "" {
			attempt = b.NewID()
		}
		var first *preparation
		if claiming(pl) {
			first = &preparation{placement: pl, since: now, granted: map[string]bool{}, asked: map[string]bool{}}
		}
		for _, bind := range pl.Binds {
			a := cache.Assumption{Node: bind.Node, Attempt: attempt, Size: pl.Size, Rank: bind.Rank, Devices: cache.Devices(bind.Devices), Cells: snapshot.ParseCells(bind.Cells), Claims: bind.Claims}
			if !b.Cache.Assume(bind.UID, a) {
				continue // deleted since the snapshot: the next cycle sees what is left
			}
			t := &bindTask{gang: pl.Gang, gangUID: pl.GangUID, gangName: pl.Name, attempt: attempt, size: pl.Size, domain: pl.Domain, bind: bind, since: now, run: pl.Run, runFrom: pl.RunFrom, paths: pl.Paths, reservedBy: pl.ReservedBy}
			if first != nil {
				first.pods = append(first.pods, t)
				continue
			}
			b.binds.Add(t)
		}
		if first != nil && len(first.pods) > 0 {
			b.prepare(first)
		}
	}
	for _, d := range b.Cache.Doubted() {
		b.doubts.Add(d)
	}
	b.makeRoom(p, now)
	b.takeBack()
	b.note(p, now)
}

// bind sends one binding and reports whether it is settled.
func (b *Binder) bind(ctx context.Context, t *bindTask) bool {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	handed := b.Cache.HandOver(t.bind.UID, t.bind.Node, cache.Devices(t.bind.Devices), b.Now())
	if handed != nil {
		switch ok, err := b.inTurn(call, t); {
		case err != nil:
			logr.FromContextOrDiscard(ctx).Error(err, "a pod is not bound yet", "pod", t.bind.Namespace+"/"+t.bind.Name, "node", t.bind.Node)
			return false
		case !ok:
			return true
		}
	}
	annotations := says(t)
	maps.Copy(annotations, handed)
	err := b.Client.CoreV1().Pods(t.bind.Namespace).Bind(call, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: t.bind.Namespace, Name: t.bind.Name, UID: types.UID(t.bind.UID),
			Annotations: annotations,
		},
		Target: corev1.ObjectReference{Kind: "Node", Name: t.bind.Node},
	}, metav1.CreateOptions{})
	result, settled := b.settle(call, t, err)
	if settled && result != "bound" && handed != nil {
		b.pass(t)
	}
	b.Observe.Bound(result, b.Now().Sub(t.since))
	if err != nil && !errors.Is(err, context.Canceled) {
		logr.FromContextOrDiscard(ctx).V(1).Info("binding was not accepted", "pod", t.bind.Namespace+"/"+t.bind.Name, "podUID", t.bind.UID, "node", t.bind.Node, "result", result, "reason", err.Error())
	}
	return settled
}

// says is what a binding tells the pod, whatever its node.
func says(t *bindTask) map[string]string {
	annotations := map[string]string{
		wellknown.GangAttempt: t.attempt,
		wellknown.GangSize:    strconv.FormatInt(t.size, 10),
		wellknown.GangRank:    strconv.FormatInt(t.bind.Rank, 10),
	}
	if t.bind.Devices != "" {
		annotations[wellknown.GPUIDs] = t.bind.Devices
		annotations[wellknown.ActualGPUIDs] = "" // what the pod's author may have written there
	}
	if t.bind.Cells != "" {
		annotations[wellknown.TopologyDecision] = cache.Decision(snapshot.ParseCells(t.bind.Cells))
	}
	if t.run > 0 {
		annotations[wellknown.ExpectedRun] = strconv.FormatInt((t.run+int64(time.Second)-1)/int64(time.Second), 10)
		annotations[wellknown.ExpectedRunFrom] = t.runFrom
	}
	if t.paths != "" {
		annotations[wellknown.DatasetPaths] = t.paths
	}
	if t.reservedBy != "" {
		annotations[wellknown.ReservedBy] = t.reservedBy
	}
	return annotations
}

// settle works out what an answer to a binding means.
func (b *Binder) settle(ctx context.Context, t *bindTask, err error) (result string, settled bool) {
	switch {
	case err == nil:
		b.Cache.Confirm(t.bind.UID, b.Now().Add(confirmWithin))
		return "bound", true
	case apierrors.IsNotFound(err):
		b.Cache.Forget(t.bind.UID)
		return "gone", true
	case apierrors.IsConflict(err):
		return b.look(ctx, t)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsForbidden(err):
		b.Cache.Hold(t.gang, fmt.Sprintf("binding pod %s was refused: %v", t.bind.Name, err), b.Now().Add(b.HoldFor))
		b.Cache.Forget(t.bind.UID)
		return "refused", true
	}
	return "retried", false
}

// live reads a pod from the API server. It lists by name, since a scheduler has the
// right to list pods anyway and needs no other.
func (b *Binder) live(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	list, err := b.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String(),
	})
	if err != nil {
		return nil, fmt.Errorf("look for pod %s/%s: %w", namespace, name, err)
	}
	for i := range list.Items {
		if list.Items[i].Name == name {
			return &list.Items[i], nil
		}
	}
	return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
}

// look finds out why a binding conflicts: it may have been accepted before, by
// us, with the answer lost; or the pod is another one, or bound elsewhere.
func (b *Binder) look(ctx context.Context, t *bindTask) (string, bool) {
	p, err := b.live(ctx, t.bind.Namespace, t.bind.Name)
	switch {
	case apierrors.IsNotFound(err), err == nil && string(p.UID) != t.bind.UID, err == nil && p.DeletionTimestamp != nil && p.Spec.NodeName == "":
		b.Cache.Forget(t.bind.UID)
		return "gone", true
	case err != nil, p.Spec.NodeName == "":
		return "retried", false
	case p.Spec.NodeName == t.bind.Node && p.Annotations[wellknown.GangAttempt] == t.attempt:
		b.Cache.Confirm(t.bind.UID, b.Now().Add(confirmWithin))
		return "bound", true
	}
	b.Cache.Correct(p) // what a live read says is no older than what we assume
	return "elsewhere", true
}
