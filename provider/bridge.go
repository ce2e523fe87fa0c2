package provider

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/effect"
	"github.com/isthmus-hpc/isthmus/provider/fairqueue"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/tracing"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// Stager hands gangs over through the cluster's file system. Every method acts
// as the named user, is safe to repeat and blocks until done.
type Stager interface {
	Stage(ctx context.Context, user string, key backends.Key, out translate.Output) error
	// Pull has the images of a staged gang pulled and tells how far that is. It does
	// not wait for the end.
	Pull(ctx context.Context, user string, key backends.Key) (manifest.Pull, error)
	Collect(ctx context.Context, user string) (manifest.Collected, error)
	// Stop tells the runners of members, by rank, to end them. It does not wait for
	// that; a later stop may give less grace.
	Stop(ctx context.Context, user string, key backends.Key, stops map[int]manifest.Stop) error
	// Refresh hands over newer contents of the members' volumes, by rank.
	Refresh(ctx context.Context, user string, key backends.Key, members map[int]translate.Refresh) error
	// Want notes which images Pull has to pull as well, for containers that are to
	// be added to a running member.
	Want(ctx context.Context, user string, key backends.Key, rank int, want manifest.Want) error
	// Ephemeral hands over the containers that were added to a running member.
	Ephemeral(ctx context.Context, user string, key backends.Key, rank int, list manifest.Ephemeral) error
	Remove(ctx context.Context, user string, key backends.Key) error
	// WorkDir is the gang's directory; it does no I/O.
	WorkDir(user string, key backends.Key) string
}

// Objects reads what a pod refers to.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	// PodGroup is how many members make a gang of it. The error is ErrNoPodGroups
	// where there is no such kind.
	PodGroup(ctx context.Context, namespace, name string) (minMember int32, err error)
	// PodGroups is the same for all of a namespace, by name.
	PodGroups(ctx context.Context, namespace string) (minMember map[string]int32, err error)
	// Token issues a token of the pod's service account that dies with the pod,
	// and says when it ends.
	Token(ctx context.Context, pod *corev1.Pod, audience string, lifetime time.Duration) (token string, ends time.Time, err error)
	// NamespaceLabels comes from a cache; ok is false for an unknown namespace.
	NamespaceLabels(name string) (labels map[string]string, ok bool)
}

// Options make a Bridge. All fields but APIServer, Gate, Clock, Log and Tracer are required.
type Options struct {
	// Cluster is the spec to serve; the bridge never changes it.
	Cluster *hpcv1alpha1.BatchCluster
	// Owner tags our jobs at the batch system: unique per Kubernetes cluster
	// and BatchCluster, [a-z0-9-]{1,63}.
	Owner string
	// Launcher is how the pod runner starts members: "slurm", "pbs", "torque" or "local".
	Launcher string
	Backend  backends.Backend
	Stager   Stager
	Pods     PodAPI
	Objects  Objects
	// APIServer is host:port under which compute hosts reach the API server, for
	// pods that carry tokens; empty leaves it to them.
	APIServer string
	// Gate is the door for effects; the default is effect.Open.
	Gate effect.Gate
	// Clock is the real one by default.
	Clock clock.PassiveClock
	Log   logr.Logger
	// Audit takes the record of every submission; nil is nobody. It must not block
	// for long.
	Audit func(account.Submission)
	// Adopted is told of every job that was found at the batch system and recorded,
	// instead of one more being submitted; nil is nobody.
	Adopted func()
	// Tracer tells what became of the gangs; nil tells nobody. Gate is the tracer's
	// then, so that the effects are told as well.
	Tracer *tracing.Tracer
	// Workers bounds the gangs that are worked on at once; default 256. Most wait
	// for others to share a command with, see staging and backends/slurm.
	Workers int
}

// tenantsPart is which part of the workers one namespace may have while others have
// pods here: an eighth, which is as much as the batch systems take at a time a few
// times over. One that is alone has them all, since many share a command.
const tenantsPart = 8

// Bridge carries the pods of one BatchCluster through the batch system. Pass is
// called by one goroutine at a time; the steps of gangs run beside it.
type Bridge struct {
	Options
	// Wake asks the loop for another pass soon; it holds at most one request.
	Wake chan struct{}

	slots *fairqueue.Queue // bounds drivers at work; namespaces take turns
	busy  sync.WaitGroup

	mu      sync.Mutex
	memos   map[backends.Key]*memo
	driven  map[string]backends.Key // by UID: the gang whose step is under way on the pod
	missed  bool                    // a pass left out a gang because of that
	overlay map[string]*corev1.Pod  // by UID: newest version we wrote
	view    View
	sweep   sweepState
	vnodes  map[string]hpcv1alpha1.VirtualNode // by node name
	views   map[string]inventory.View          // what is behind them
	users   map[string]bool                    // users that the mapping of accounts names
	ids     map[string]manifest.Identity       // by user, as the cluster said last
	places  map[backends.Key]place             // where the gangs are, as of the last pass
	queued  map[backends.Key]int64             // observations begun when a gang was admitted to the batch queue
	kept    map[backends.Key]place             // gangs that were kept out of it
	obsSeq  int64                              // observations begun
	groups  map[groupRef]podGroup              // of pods bound without a gang attempt
	booked  booked
	closed  bool

	listSize map[string]int // PodGroups of a namespace that a list gave last; of Pass alone

	missing map[[2]string]absence // by namespace and gang attempt; of Pass alone

	// inherited is by UID when pods were deleted that were being so before the first
	// pass; nil before it.
	inherited map[string]time.Time

	stagedWith map[string]manifest.Contents // by UID, until the refresh loop has seen it
	added      map[string]*handedOver       // by UID: ephemeral containers; of the refresh loop alone
	fresh      *freshness                   // what live pods' volumes hold; of the refresh loop alone
}

// View is the newest knowledge of the batch system.
type View struct {
	Seq       int64 // number of the last complete observation, assigned when it began
	At        time.Time
	Complete  bool // Seq is the newest observation
	Jobs      map[backends.Key][]backends.Job
	Reachable bool
	Since     time.Time // when Reachable last changed
	Err       error     // of the last observation
	Files     map[backends.Key]collected
	// FilesSeq is the number of the observation in which a user's directory was
	// last read, and Problems what is wrong with a user, if anything.
	FilesSeq map[string]int64
	Problems map[string]string
}

type collected struct {
	user string
	gang manifest.CollectedGang
}

// NewBridge checks o and gives a bridge that has seen nothing yet.
func NewBridge(o Options) *Bridge {
	if o.Gate == nil {
		o.Gate = effect.Open{}
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Workers < 1 {
		o.Workers = 256
	}
	b := &Bridge{
		Options: o,
		Wake:    make(chan struct{}, 1),
		slots:   fairqueue.New(o.Workers, o.Workers/tenantsPart),
		memos:   map[backends.Key]*memo{},
		driven:  map[string]backends.Key{},
		overlay: map[string]*corev1.Pod{},
		vnodes:  map[string]hpcv1alpha1.VirtualNode{},
		views:   map[string]inventory.View{},
		users:   map[string]bool{},
		ids:     map[string]manifest.Identity{},

		stagedWith: map[string]manifest.Contents{},
		places:     map[backends.Key]place{},
		kept:       map[backends.Key]place{},
		queued:     map[backends.Key]int64{},
		listSize:   map[string]int{},
	}
	b.view.Reachable = true
	b.fresh = newFreshness(o.Objects, o.Clock)
	b.added = map[string]*handedOver{}
	for _, a := range o.Cluster.Spec.Accounts {
		b.users[a.User] = true
	}
	return b
}

// SetVirtualNodes says which nodes the bridge serves. Safe at any time.
func (b *Bridge) SetVirtualNodes(nodes []hpcv1alpha1.VirtualNode) {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.vnodes)
	for _, n := range nodes {
		b.vnodes[n.Name] = n
	}
}

// View gives the newest knowledge. The maps must not be changed.
func (b *Bridge) View() View {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.view
}

// wake requests another pass without blocking.
func (b *Bridge) wake() {
	select {
	case b.Wake <- struct{}{}:
	default:
	}
}

// Wait blocks until no gang's step is under way.
func (b *Bridge) Wait() { b.busy.Wait() }

// Pass looks at every pod once and starts what has to be done. With fresh it
// asks the batch system first: one list query, and one collection a user. It
// does not wait for the steps it starts; see Wait.
func (b *Bridge) Pass(ctx context.Context, fresh bool) {
	if fresh {
		b.observe(ctx)
	}
	gangs, index := b.gangs(ctx)
	b.locate(gangs, index)
	b.slots.SetPart(b.part(gangs))
	all := attemptsIn(index)
	if fresh {
		b.lookForMissing(ctx, index, all)
	}
	live := make(map[backends.Key]bool, len(gangs))
	for _, g := range inTurns(gangs) {
		if b.over(g) {
			continue
		}
		live[g.Key] = true
		if b.engaged(g) {
			continue
		}
		m := b.memo(g.Key)
		if m == nil {
			continue // a step of this gang is under way
		}
		pods := members(g, index)
		if awaits := b.awaitedBy(g, index, all, m.awaits); !slices.Equal(m.awaits, awaits) {
			m.awaits, m.quiet = awaits, false
		}
		if !fresh && m.quiet && b.observed(m.quietSeq) && m.quietPods == versions(g, pods) {
			continue
		}
		b.absorb(m, g)
		b.start(ctx, g, m, pods)
	}
	b.prune(live)
	if fresh {
		b.collectGarbage(ctx, gangs)
	}
}

// part is how many workers one namespace may have.
func (b *Bridge) part(gangs []lifecycle.Gang) int {
	for i := range gangs {
		if tenant(gangs[i]) != tenant(gangs[0]) {
			return b.Workers / tenantsPart
		}
	}
	return b.Workers
}

// observed reports whether seq is the newest observation.
func (b *Bridge) observed(seq int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return seq == b.obsSeq
}

// gangs reads the pods, each in its newest version, and sorts them into gangs.
// The index holds the same pods by UID.
func (b *Bridge) gangs(ctx context.Context) ([]lifecycle.Gang, map[string]*corev1.Pod) {
	pods := b.Pods.List()
	b.readGroups(ctx, pods)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inherit(pods)
	index := make(map[string]*corev1.Pod, len(pods))
	list, of := make([]lifecycle.Pod, 0, len(pods)), make([]*corev1.Pod, 0, len(pods))
	for _, p := range pods {
		uid := string(p.UID)
		if o := b.overlay[uid]; o != nil {
			if !newer(o, p) {
				delete(b.overlay, uid)
			} else {
				p = o
			}
		}
		index[uid] = p
		f := facts(p)
		f.Grace = b.graceOf(p)
		if f.Finished && !f.Finalizer && !f.Deleting && f.JobID == "" && f.Intent == "" {
			continue // ended before us and never ours
		}
		list, of = append(list, f), append(of, p)
	}
	b.grouped(list, of)
	for uid := range b.overlay {
		if index[uid] == nil {
			delete(b.overlay, uid)
		}
	}
	for uid := range b.stagedWith {
		if index[uid] == nil {
			delete(b.stagedWith, uid)
		}
	}
	return lifecycle.Gangs(b.Owner, list), index
}

// newer compares resource versions, which the API server documents as ordered
// within one resource since Kubernetes 1.35 and has always made so.
func newer(a, than *corev1.Pod) bool {
	x, errX := strconv.ParseUint(a.ResourceVersion, 10, 64)
	y, errY := strconv.ParseUint(than.ResourceVersion, 10, 64)
	return errX == nil && errY == nil && x > y
}

// members picks a gang's pods from the index.
func members(g lifecycle.Gang, index map[string]*corev1.Pod) map[string]*corev1.Pod {
	out := make(map[string]*corev1.Pod, len(g.Members))
	for _, m := range g.Members {
		out[m.UID] = index[m.UID]
	}
	return out
}

// wrote remembers what we wrote until the cache has caught up.
func (b *Bridge) wrote(p *corev1.Pod) {
	if p == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.overlay[string(p.UID)] = p
}
