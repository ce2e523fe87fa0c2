// Package cache turns what the API server tells into snapshots. It keeps the
// compiled form of every node and gang and rebuilds only those that changed, so
// a cycle costs what changed. What the binder has sent and the watch has not
// shown yet is kept as assumptions on top.
//
// Objects may arrive in any order between kinds: a pod before its node or its
// PodGroup is kept until they come. Identity is the UID: an object that was
// deleted and made again under the same name is another one.
package cache

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/estimate"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Cache is safe for concurrent use.
type Cache struct {
	// Created, when set, is told how long after its PodGroup a new pod was made. It
	// must not call the cache. It is set before the cache is given anything.
	Created func(after time.Duration)
	// Rights, when set, says what may not be read. It is set before Watch.
	Rights Rights

	mu sync.Mutex
	// guarded says why pods that a budget covers are left alone.
	guarded string

	dims    *resource.Dims // nil when the names that nodes offer may have changed
	classes map[string]*snapshot.Class
	era     int // of the classes: grows when all are compiled anew
	specs   specs

	nodes      map[string]*nodeEntry
	inOrder    []*nodeEntry                    // those that are seen, by name; nil when out of date
	pods       map[string]*podEntry            // by UID
	undue      map[string]map[string]*podEntry // by node and UID: see Undue
	gangs      map[string]*gangEntry
	byKey      order            // gangs
	lineage    snapshot.Lineage // of the snapshots
	queues     map[string]*snapshot.Queue
	priorities map[string]priorityClass
	assumed    map[string]Assumption // by pod UID
	hyperNodes map[string]snapshot.HyperNodeSpec
	levels     []string
	places     []*snapshot.Place             // nil when out of date
	evictions  map[string]eviction           // by pod UID
	budgets    map[string]map[string]*budget // by namespace and name
	book       *estimate.Book                // nil when nothing is learnt
	learnt     int64                         // grows with what is new in it
	held       accounts
	quotas     map[string]*quota // by namespace/name
	strangers  strangers
	// reservations are by name.
	reservations map[string]*reservation
	datasets     map[string]*dataset // by namespace/name
	jobs         map[string]bool     // by UID: whether they act on an eviction
	loads        []snapshot.Load
	rounds       map[string]int64
	turns        map[string]string // who had the last turn in a round, by plugin
	opinions     []snapshot.Opinion
	numa         map[string]numaEntry // by node
	objects      *objects             // nil before Watch
	// sights is what pods' selectors can see of others.
	sights *sights
	anew   anew
	// imaged says that images matter, asked are those of pods, at most askedMost of them.
	imaged    bool
	asked     map[string]bool
	askedMost int
	// picks says which pods plugins have to know of, nil for none.
	picks *snapshot.Picks

	claimed claimed
	// spaces says that some pod selects namespaces by their labels; told is what
	// snapshots were given of namespaces, nil when they have changed since.
	spaces           bool
	namespaces, told map[string]map[string]string

	// inherits is until when nominations of others are believed, zero for always; sole says
	// that this is over.
	inherits time.Time
	sole     bool

	names []string // whose pods are placed
	await time.Duration

	changed, later chan struct{}
	broken         map[string]string // what nodes tell that cannot be read, not yet told
}

// New returns an empty cache.
func New() *Cache {
	return &Cache{
		classes:    map[string]*snapshot.Class{},
		specs:      newSpecs(),
		nodes:      map[string]*nodeEntry{},
		pods:       map[string]*podEntry{},
		undue:      map[string]map[string]*podEntry{},
		gangs:      map[string]*gangEntry{},
		queues:     map[string]*snapshot.Queue{},
		priorities: map[string]priorityClass{},
		assumed:    map[string]Assumption{},
		hyperNodes: map[string]snapshot.HyperNodeSpec{},
		levels:     snapshot.DefaultLevels(),
		evictions:  map[string]eviction{},
		budgets:    map[string]map[string]*budget{},
		quotas:     map[string]*quota{},
		jobs:       map[string]bool{},
		numa:       map[string]numaEntry{},
		sights:     newSights(),
		namespaces: map[string]map[string]string{},

		reservations: map[string]*reservation{},
		datasets:     map[string]*dataset{},
		claimed:      newClaimed(),

		names:   []string{wellknown.SchedulerVolcano, wellknown.SchedulerIsthmus},
		changed: make(chan struct{}, 1),
		later:   make(chan struct{}, 1),
	}
}

// Serve says which scheduler names of pods are this scheduler's; without it they
// are volcano and isthmus. It must be called before the cache is given anything.
func (c *Cache) Serve(names ...string) { c.names = slices.Clone(names) }

func (c *Cache) ours(p *corev1.Pod) bool { return slices.Contains(c.names, p.Spec.SchedulerName) }
