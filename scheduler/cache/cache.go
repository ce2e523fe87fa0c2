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
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/claims"
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

	nodes      map[string]*nodeEntry
	inOrder    []*nodeEntry         // those that are seen, by name; nil when out of date
	pods       map[string]*podEntry // by UID
	gangs      map[string]*gangEntry
	queues     map[string]*snapshot.Queue
	priorities map[string]priorityClass
	assumed    map[string]Assumption // by pod UID
	hyperNodes map[string]snapshot.HyperNodeSpec
	levels     []string
	places     []*snapshot.Place   // nil when out of date
	evictions  map[string]eviction // by pod UID
	budgets    map[string]*budget  // by namespace/name
	book       *estimate.Book      // nil when nothing is learnt
	learnt     int64               // grows with what is new in it
	held       accounts
	quotas     map[string]*quota // by namespace/name
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
	// selected says that some pod selects others, by labels of these keys.
	selected  bool
	labelKeys map[string]bool
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

	names []string // whose pods are placed
	await time.Duration

	changed, later chan struct{}
	broken         map[string]string // what nodes tell that cannot be read, not yet told
}

type nodeEntry struct {
	spec   *snapshot.NodeSpec // nil until the node itself is seen
	images []snapshot.Image   // all that the node has
	pods   map[string]*podEntry
	snap   *snapshot.Node // nil when out of date
}

type gangEntry struct {
	group *groupSpec // nil for a plain pod or while the PodGroup is not seen
	pods  map[string]*podEntry
	snap  *snapshot.Gang
	hold  string
	code  string // of the hold, as in snapshot.GangSpec
	until time.Time
	// seen is when a cycle first saw a pod without a PodGroup that may get one.
	seen time.Time
	out  quarantine
	// written is a status this program wrote that the watch has not shown yet.
	written   *snapshot.GroupStatus
	writtenRV string
	raw       []volcanov1.PodGroupCondition
	// nominated is room that was decided to be kept, in place of an older annotation.
	nominated *snapshot.Nomination
	short     int64 // since when the gang is short; 0 while it is not
}

type priorityClass struct {
	value     int32
	isDefault bool
}

// Assumption is a binding that was sent and that the watch has not shown yet.
type Assumption struct {
	Node    string
	Attempt string
	Size    int64
	Rank    int64
	Devices []string
	Cells   []snapshot.CellShare
	// Claims are the volumes and devices that are seen to before the pod is bound.
	Claims *claims.Got
	// Until is when the assumption is given up; zero while the binding is under way.
	Until time.Time
}

// New returns an empty cache.
func New() *Cache {
	return &Cache{
		classes: map[string]*snapshot.Class{},
		nodes:   map[string]*nodeEntry{}, pods: map[string]*podEntry{}, gangs: map[string]*gangEntry{},
		queues: map[string]*snapshot.Queue{}, priorities: map[string]priorityClass{},
		hyperNodes: map[string]snapshot.HyperNodeSpec{}, levels: snapshot.DefaultLevels(), labelKeys: map[string]bool{},
		names:   []string{wellknown.SchedulerVolcano, wellknown.SchedulerIsthmus},
		assumed: map[string]Assumption{}, evictions: map[string]eviction{}, budgets: map[string]*budget{}, quotas: map[string]*quota{}, reservations: map[string]*reservation{}, datasets: map[string]*dataset{}, jobs: map[string]bool{}, numa: map[string]numaEntry{},
		claimed: newClaimed(), namespaces: map[string]map[string]string{},
		changed: make(chan struct{}, 1), later: make(chan struct{}, 1),
	}
}

func (c *Cache) node(name string) *nodeEntry {
	n := c.nodes[name]
	if n == nil {
		n = &nodeEntry{pods: map[string]*podEntry{}}
		c.nodes[name] = n
	}
	return n
}

func (c *Cache) gang(key string) *gangEntry {
	g := c.gangs[key]
	if g == nil {
		g = &gangEntry{pods: map[string]*podEntry{}}
		c.gangs[key] = g
	}
	return g
}

// SetNode takes in a node.
func (c *Cache) SetNode(n *corev1.Node) {
	spec, images := nodeSpec(n), imagesOf(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.node(n.Name)
	same := slices.Equal(c.askedOf(e.images), c.askedOf(images))
	e.images = images
	if e.spec != nil && same && reflect.DeepEqual(*e.spec, spec) {
		return // a heartbeat
	}
	if e.spec == nil {
		c.inOrder = nil
	}
	c.noteBroken(e.spec, spec)
	if e.spec == nil || e.spec.Virtual != spec.Virtual || !maps.Equal(e.spec.Labels, spec.Labels) {
		c.places = nil
	}
	e.spec, e.snap = &spec, nil
	c.spaces = c.spaces || len(spec.Serves) > 0
	if c.dims != nil && !c.knows(spec) {
		c.dims = nil
	}
	c.signal()
}

// knows reports whether a node offers nothing that the table of names lacks.
// Names that vanish stay in the table until the next new one: they do no harm.
func (c *Cache) knows(spec snapshot.NodeSpec) bool {
	for _, name := range snapshot.DimsOf([]snapshot.NodeSpec{spec}).Names() {
		if _, ok := c.dims.Index(name); !ok {
			return false
		}
	}
	return true
}

// DeleteNode forgets a node; its pods are kept until they are deleted as well.
func (c *Cache) DeleteNode(name, uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.nodes[name]
	if e == nil || e.spec == nil || e.spec.UID != uid {
		return
	}
	e.spec, e.snap, c.places, c.inOrder = nil, nil, nil, nil
	if len(e.pods) == 0 {
		delete(c.nodes, name)
	}
	c.signal()
}

// SetPod takes in a pod of any scheduler.
func (c *Cache) SetPod(p *corev1.Pod) {
	e := newPodEntry(p, c.ours(p))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.learn(e)
	c.ask(e)
	c.visible(e)
	old := c.pods[e.pod.UID]
	if old != nil && old.equal(e) {
		return
	}
	little := old != nil && c.little(old, e)
	if e.pod.Node != "" || e.pod.Terminal() {
		c.unassume(e.pod.UID) // the watch tells the truth now
	}
	if g := c.gangs[e.gang]; old == nil && e.gang != "" && e.pod.Node == "" && g != nil && g.group != nil && c.Created != nil {
		c.Created(p.CreationTimestamp.Sub(time.Unix(0, g.group.CreatedAt)))
	}
	c.unlink(old)
	c.claimant(old, -1)
	c.claimant(e, 1)
	c.pods[e.pod.UID] = e
	c.link(e)
	if little {
		c.signalLater()
	} else {
		c.signal()
	}
}

// DeletePod forgets a pod.
func (c *Cache) DeletePod(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.pods[uid]
	if old == nil {
		return
	}
	c.unlink(old)
	c.claimant(old, -1)
	delete(c.pods, uid)
	c.unassume(uid)
	delete(c.evictions, uid)
	c.signal()
}

// seat is the pod's node and placement with the assumption applied.
func (c *Cache) seat(e *podEntry) snapshot.Pod {
	p := e.pod
	if a, ok := c.assumed[p.UID]; ok && p.Node == "" {
		p.Node, p.Attempt, p.Size, p.Rank, p.Devices, p.Cells, p.Assumed = a.Node, a.Attempt, a.Size, a.Rank, a.Devices, a.Cells, true
	}
	if ev, ok := c.evictions[p.UID]; ok {
		if ev.spared == "" {
			p.Terminating = true
		} else if p.Protected == "" {
			p.Protected = ev.spared
		}
	}
	return p
}

func (c *Cache) link(e *podEntry) {
	c.claimed.idle.seated(e.pod.UID)
	if p := c.seat(e); p.Node != "" && !p.Terminal() {
		e.on = p.Node
		n := c.node(e.on)
		n.pods[p.UID], n.snap = e, nil
	}
	if e.gang != "" {
		g := c.gang(e.gang)
		g.pods[e.pod.UID], g.snap = e, nil
	}
}

func (c *Cache) unlink(e *podEntry) {
	if e == nil {
		return
	}
	if e.on != "" {
		n := c.node(e.on)
		delete(n.pods, e.pod.UID)
		n.snap = nil
		if n.spec == nil && len(n.pods) == 0 {
			delete(c.nodes, e.on)
		}
		e.on = ""
	}
	if e.gang != "" {
		g := c.gang(e.gang)
		delete(g.pods, e.pod.UID)
		g.snap = nil
		if g.group == nil && len(g.pods) == 0 {
			delete(c.gangs, e.gang)
		}
	}
}

// SetGroup takes in a PodGroup.
func (c *Cache) SetGroup(pg *volcanov1.PodGroup) {
	spec := newGroupSpec(pg)
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gang(spec.Key)
	wrote := e.written
	e.raw = pg.Status.Conditions
	if e.group != nil && e.group.UID != spec.UID {
		e.written, e.nominated = nil, nil
	}
	if e.written != nil && !older(pg.ResourceVersion, e.writtenRV) {
		e.written = nil
		e.snap = nil
	}
	if e.group != nil {
		old := *e.group
		old.version = spec.version
		if reflect.DeepEqual(old, spec) {
			e.group.version = spec.version
			return
		}
		shown := old.Status
		if wrote != nil {
			shown = *wrote
		}
		phase := spec.Status.Phase
		if old.Status = spec.Status; shown.Phase == phase && reflect.DeepEqual(old, spec) {
			c.regroup(e, &spec) // what was written, or a count
			c.signalLater()
			return
		}
	}
	c.regroup(e, &spec)
	c.signal()
}

// older reports whether resource version a was certainly before b.
func older(a, b string) bool {
	cmp, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && cmp < 0
}

// DeleteGroup forgets a PodGroup; its pods stay and wait for one.
func (c *Cache) DeleteGroup(namespace, name, uid string) {
	c.deleteGroup(groupKey(namespace, name), uid)
}

func (c *Cache) deleteGroup(key, uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gangs[key]
	if e == nil || e.group == nil || e.group.UID != uid {
		return
	}
	c.regroup(e, nil)
	e.written, e.raw = nil, nil
	if len(e.pods) == 0 {
		delete(c.gangs, key)
	}
	c.signal()
}

// SetPriorityClass takes in a priority class.
func (c *Cache) SetPriorityClass(p *schedulingv1.PriorityClass) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.priorities[p.Name] = priorityClass{p.Value, p.GlobalDefault}
	c.touchGangs()
}

// DeletePriorityClass forgets a priority class.
func (c *Cache) DeletePriorityClass(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.priorities, name)
	c.touchGangs()
}

// touchGangs marks all gangs: priority classes change rarely.
func (c *Cache) touchGangs() {
	for _, g := range c.gangs {
		g.snap = nil
	}
	c.signal()
}

// Snapshot returns the present state; it is immutable and the cache's work goes
// on beside it.
func (c *Cache) Snapshot(now time.Time) *snapshot.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dims == nil || len(c.classes) > 2*len(c.pods)+1024 {
		c.recompile()
	}
	c.expireEvictions(now)
	c.forgetImages()
	nodes := make([]*snapshot.Node, 0, len(c.nodes))
	for _, e := range c.ordered() {
		if e.snap == nil {
			e.snap = snapshot.NewNode(c.withImages(c.withNUMA(*e.spec), e), c.residents(e), c.dims)
		}
		nodes = append(nodes, e.snap)
	}
	gangs := make([]*snapshot.Gang, 0, len(c.gangs))
	for key, e := range c.gangs {
		c.awaitGroup(e, now)
		if e.out.of(e, now) {
			continue
		}
		if e.hold != "" && !now.Before(e.until) {
			e.hold, e.code, e.snap = "", "", nil
		}
		if e.snap == nil {
			e.snap = c.compileGang(key, e, now)
		}
		gangs = append(gangs, e.snap)
	}
	s := snapshot.Assemble(c.dims, nodes, gangs, slices.Collect(maps.Values(c.queues)))
	s.SetBudgets(c.allBudgets())
	s.SetReservations(c.allReservations())
	s.Loads, s.Opinions, s.Rounds, s.Turns = c.loads, c.opinions, c.rounds, c.turns
	s.SetQuotas(c.allQuotas())
	s.Usage = c.usage()
	s.Claims = c.world()
	s.Namespaces = c.namespaceLabels()
	return c.topology(s)
}

func (c *Cache) residents(n *nodeEntry) []snapshot.Resident {
	out := make([]snapshot.Resident, 0, len(n.pods))
	for uid, e := range n.pods {
		p := c.seat(e)
		out = append(out, snapshot.Resident{UID: uid, Class: c.class(e), Job: p.Job(e.gang), Devices: p.Devices, Cells: p.Cells, Running: p.Phase == snapshot.PodRunning, Leaving: p.Terminating})
	}
	return out
}

func (c *Cache) compileGang(key string, e *gangEntry, now time.Time) *snapshot.Gang {
	pods := make([]*snapshot.Pod, 0, len(e.pods))
	var priority int32 // of the most urgent pod; it may be below zero
	patient, acts := false, c.actsOnEviction(e)
	for _, pe := range e.pods {
		p := c.seat(pe)
		p.Class = c.class(pe)
		p.Budgets = c.budgetsOf(pe)
		if e.group != nil && e.group.protected != "" && p.Protected == "" {
			p.Protected = e.group.protected
		}
		if c.guarded != "" && len(p.Budgets) > 0 && p.Protected == "" {
			p.Protected = c.guarded
		}
		p.Picked = c.picked(pe)
		p.Movable = p.Protected == "" && (p.Movable || pe.job != "" && e.group != nil && e.group.yields) && !acts
		if len(pods) == 0 || pe.priority > priority {
			priority = pe.priority
		}
		pods = append(pods, &p)
		patient = patient || pe.patient
	}
	spec := snapshot.GangSpec{Key: key}
	switch {
	case e.group != nil:
		spec = e.group.GangSpec
		spec.Priority = c.priority(e.group.priorityClass, priority, len(pods) > 0)
		if e.group.nativePriority != nil {
			spec.Priority = *e.group.nativePriority
		}
		if len(e.group.policies) > 0 {
			assign(e.group.policies, pods, func(uid string) map[string]string { return e.pods[uid].labels })
		}
		if e.written != nil {
			spec.Status = *e.written
		}
	default:
		first := ""
		for uid, pe := range e.pods { // the same pod speaks for all whatever the order of the map
			if first == "" || uid < first {
				first, spec = uid, pe.stand
			}
		}
		spec.Priority = priority
	}
	spec.ActsOnEviction = acts
	spec.Hold, spec.HoldCode, spec.Patient, spec.Data = e.hold, e.code, patient, c.dataOf(spec.Namespace, e)
	spec.Nominated = e.nomination(spec.Nominated)
	estimated(&spec, e.pods)
	named := ""
	if e.group != nil {
		named = e.group.estimateKey
	}
	c.learnFrom(&spec, named, e.pods)
	g := snapshot.NewGang(spec, pods, c.dims)
	e.noteShort(g, now)
	return g
}

// priority resolves a PodGroup's class; without one its pods' priority counts,
// which the API server has resolved, and before there are pods the default.
func (c *Cache) priority(class string, ofPods int32, hasPods bool) int32 {
	if p, ok := c.priorities[class]; ok && class != "" {
		return p.value
	}
	if hasPods || class != "" {
		return ofPods
	}
	for _, p := range c.priorities {
		if p.isDefault {
			return p.value
		}
	}
	return 0
}
