package snapshot

import (
	"cmp"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// The phases of a pod that scheduling tells apart.
const (
	PodPending   = "Pending"
	PodRunning   = "Running"
	PodSucceeded = "Succeeded"
	PodFailed    = "Failed"
)

// The phases of a PodGroup, as Volcano spells them.
const (
	GroupPending   = "Pending"
	GroupInqueue   = "Inqueue"
	GroupRunning   = "Running"
	GroupUnknown   = "Unknown"
	GroupCompleted = "Completed"
)

// Stale is the type of our own condition of a PodGroup that holds places which are
// of no use to it, BelowMinimum its reason when it is Short, and PodsMissing when it is
// Unmade.
const (
	Stale        = "Stale"
	BelowMinimum = "BelowMinimum"
	PodsMissing  = "PodsMissing"
)

// Pod is a member of a gang.
type Pod struct {
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Class     *Class `json:"-"`
	Task      string `json:"task,omitempty"`
	Index     int64  `json:"index,omitempty"` // within the task
	// Priority is the pod's own within its gang: higher ones are placed first.
	Priority int32 `json:"priority,omitempty"`
	// Policy is the gang's SubGroup policy the pod falls under, "" for none, and
	// SubGroup the part within it.
	Policy   string `json:"policy,omitempty"`
	SubGroup string `json:"subGroup,omitempty"`
	Phase    string `json:"phase"`
	// Node is where the pod is bound or assumed to be; "" while it waits.
	Node string `json:"node,omitempty"`
	// Attempt, Size and Rank are the placement the pod was bound with.
	Attempt string `json:"attempt,omitempty"`
	Size    int64  `json:"size,omitempty"`
	Rank    int64  `json:"rank,omitempty"`
	// After are the attempts that have to succeed before the pod starts, in the order in
	// which it names them: of a step that a flow queues early. Scheduling does not ask.
	After []string `json:"after,omitempty"`
	// Devices are the GPUs the pod has on its real node, as far as they are known.
	Devices []string `json:"devices,omitempty"`
	// Cells are the processors that the pod was given on its real node by NUMA node.
	Cells []CellShare `json:"cells,omitempty"`
	// Assumed says that the binding was sent and is not confirmed: the pod holds
	// its resources, but nobody is told yet that it is placed.
	Assumed bool `json:"assumed,omitempty"`
	// Submitted says that the provider has taken the attempt up, so that it
	// cannot be added to any more.
	Submitted bool `json:"submitted,omitempty"`
	Gated     bool `json:"gated,omitempty"`
	// Gate is what stands between the pod and its queue's room, if it asked for that:
	// GateClosed is the only scheduling gate it has, GateOpen was taken away.
	Gate        string `json:"gate,omitempty"`
	Terminating bool   `json:"terminating,omitempty"`
	// StartedAt is when the pod began to run, in nanoseconds since 1970; 0 before.
	StartedAt int64 `json:"startedAt,omitempty"`
	// Protected says why nobody may take the pod's place; "" when one may.
	Protected string `json:"protected,omitempty"`
	// Cooldown is how long after its start the pod is left alone, in nanoseconds.
	Cooldown int64 `json:"cooldown,omitempty"`
	// Budgets name the disruption budgets that cover the pod, in order.
	Budgets []string `json:"budgets,omitempty"`
	// Movable says that the pod may be ended to run elsewhere: its owner wants it to be
	// preemptable, and makes it anew under its name.
	Movable bool `json:"movable,omitempty"`
	// Picked says that the pod is one of those that a plugin asked to know of.
	Picked bool `json:"picked,omitempty"`
	// Lost says of a failed pod that its place was taken from it: it did not end by itself.
	Lost bool `json:"lost,omitempty"`
}

// SameBut reports whether two pods are alike but for their phase, since when they run,
// whether their binding is confirmed, and their class.
func (p *Pod) SameBut(o *Pod) bool {
	return p.UID == o.UID && p.Namespace == o.Namespace && p.Name == o.Name && p.Task == o.Task && p.Index == o.Index &&
		p.Priority == o.Priority && p.Policy == o.Policy && p.SubGroup == o.SubGroup && p.Node == o.Node && p.Attempt == o.Attempt &&
		p.Size == o.Size && p.Rank == o.Rank && p.Submitted == o.Submitted && p.Gated == o.Gated && p.Gate == o.Gate &&
		p.Terminating == o.Terminating && p.Protected == o.Protected && p.Cooldown == o.Cooldown && p.Movable == o.Movable &&
		p.Picked == o.Picked && p.Lost == o.Lost && slices.Equal(p.After, o.After) && slices.Equal(p.Devices, o.Devices) &&
		slices.Equal(p.Cells, o.Cells) && slices.Equal(p.Budgets, o.Budgets)
}

// What is said of a pod that is to be out of sight until its queue has room.
const (
	GateClosed = "closed"
	GateOpen   = "open"
)

// BeforeGate reports whether the pod waits for its queue to have room, and for nothing
// that is not the scheduler's.
func (p *Pod) BeforeGate() bool {
	return p.Gate == GateClosed && p.Node == "" && p.Phase == PodPending && !p.Terminating
}

// Terminal reports whether no container of the pod will run again.
func (p *Pod) Terminal() bool { return p.Phase == PodSucceeded || p.Phase == PodFailed }

// Waits reports whether the pod is to be placed.
func (p *Pod) Waits() bool {
	return p.Node == "" && p.Phase == PodPending && !p.Terminating && !p.Gated
}

// TaskMinimum is how many pods of a task a gang needs.
type TaskMinimum struct {
	Task string `json:"task"`
	Min  int64  `json:"min"`
}

// Condition is a PodGroup condition without its identity and time.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// GroupStatus is what a PodGroup's status says.
type GroupStatus struct {
	Phase      string      `json:"phase,omitempty"`
	Running    int64       `json:"running,omitempty"`
	Succeeded  int64       `json:"succeeded,omitempty"`
	Failed     int64       `json:"failed,omitempty"`
	Conditions []Condition `json:"conditions,omitempty"` // ordered by type
}

// Equal reports whether two statuses say the same.
func (a GroupStatus) Equal(b GroupStatus) bool {
	return a.Phase == b.Phase && a.Running == b.Running && a.Succeeded == b.Succeeded && a.Failed == b.Failed &&
		slices.Equal(a.Conditions, b.Conditions)
}

// GangSpec is a PodGroup, or a pod of ours without one.
type GangSpec struct {
	// Key is "podgroup/<namespace>/<name>" or "pod/<namespace>/<name>".
	Key       string `json:"key"`
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Plain is a pod without a PodGroup: no status is written for it.
	Plain bool `json:"plain,omitempty"`
	// Native is a PodGroup of Kubernetes' own API: it has no phases and nothing
	// lets it in.
	Native bool `json:"native,omitempty"`
	// Loose gangs are of pods that do not need each other, such as the replicas of a
	// Deployment: each is a placement of its own, wherever it fits.
	Loose bool `json:"loose,omitempty"`
	// Absent says that pods name a PodGroup that does not exist.
	Absent    bool   `json:"absent,omitempty"`
	Queue     string `json:"queue"`
	Priority  int32  `json:"priority,omitempty"`
	CreatedAt int64  `json:"createdAt,omitempty"` // nanoseconds since 1970
	// GrewAt is when the scheduler first saw the gang or the last of its pods, in
	// nanoseconds since 1970; 0 when that is not known.
	GrewAt int64 `json:"grewAt,omitempty"`

	MinMember    int64         `json:"minMember"`
	MinTask      []TaskMinimum `json:"minTask,omitempty"` // ordered by task
	MinResources resource.List `json:"minResources,omitempty"`
	Status       GroupStatus   `json:"status,omitzero"`
	// Estimate is how long the gang runs, in nanoseconds; 0 when nobody knows.
	// EstimateFrom says who says so: one of the constants below.
	Estimate     int64  `json:"estimate,omitempty"`
	EstimateFrom string `json:"estimateFrom,omitempty"`
	// Data is what the gang reads, ordered by name.
	Data []Data `json:"data,omitempty"`
	// Staging is what was written on its PodGroup of the copies that it waits for.
	Staging string `json:"staging,omitempty"`
	// ActsOnEviction says that the gang's Job restarts or ends something when one of its
	// pods is evicted, or that nobody knows, or that its PodGroup has all of it evicted or
	// nobody.
	ActsOnEviction bool `json:"actsOnEviction,omitempty"`
	// Strangers are the pods that name the gang's PodGroup and are not of it, since they name
	// a scheduler that is none of ours, by that in order.
	Strangers []Strangers `json:"strangers,omitempty"`
	// Patient gangs never take another's place: their pods' preemptionPolicy is Never.
	Patient bool `json:"patient,omitempty"`
	// Nominated is the place that was made for the gang by evicting others.
	Nominated *Nomination `json:"nominated,omitempty"`
	// Inherited says that Nominated was read from the gang's PodGroup, as a scheduler
	// before this one left it or somebody else wrote it, and not decided here.
	Inherited bool `json:"inherited,omitempty"`
	// ShortSince is since when the gang has been Short, in nanoseconds since 1970; 0
	// when it is not.
	ShortSince int64 `json:"shortSince,omitempty"`
	// Whole is what the gang needed when it last had that, nil when that is not known.
	Whole *Whole `json:"whole,omitempty"`
	// Unmade says in a clause what the gang has too few of, "" for nothing, if some of it
	// runs and there are no pods that could make up for the others, as when its owner was
	// scaled below its minimum. That is no loss: what runs is all that is wanted, and sent
	// away it would wait for ever. Pods that wait are placed beside what runs, one by one.
	Unmade string `json:"unmade,omitempty"`
	// UnmadeSince is since when that is so with as many pods as now, in nanoseconds since
	// 1970; 0 while it is not.
	UnmadeSince int64 `json:"unmadeSince,omitempty"`
	// Hold, when set, says why the gang must not be placed now: its last
	// binding failed a moment ago, or is still under way.
	Hold string `json:"hold,omitempty"`
	// HoldCode is why, for programs; "" is that a binding failed.
	HoldCode string `json:"holdCode,omitempty"`

	// Topology is what all of the gang demands, nil for nothing.
	Topology *Topology `json:"topology,omitempty"`
	// SubGroups are the policies for parts of it, in the order of the PodGroup.
	SubGroups []SubGroup `json:"subGroups,omitempty"`
	// Tasks is which of the gang's tasks want to be near each other, nil for nothing.
	Tasks *TaskTopology `json:"tasks,omitempty"`
	// WaitAtMost is how long, in nanoseconds, the gang should wait at most; 0 is
	// no such promise.
	WaitAtMost int64 `json:"waitAtMost,omitempty"`
}

// Strangers is how many pods name another scheduler.
type Strangers struct {
	Scheduler string `json:"scheduler"`
	Pods      int64  `json:"pods"`
}

// TaskTopology is which pods of a gang want to be on one node, by their tasks: a
// wish that plugin task-topology follows where there is room.
type TaskTopology struct {
	// Together are sets of tasks whose pods attract each other; in a set of one its
	// own do. Apart are those whose pods repel each other.
	Together [][]string `json:"together,omitempty"`
	Apart    [][]string `json:"apart,omitempty"`
	// Order is the order in which tasks are placed; others come after.
	Order []string `json:"order,omitempty"`
}

// Who says how long a gang runs.
const (
	EstimateDeclared = "declared" // its owner
	EstimateDeadline = "deadline" // activeDeadlineSeconds: it is ended then
	EstimateLearnt   = "learnt"   // the runs of its like before it
)

// Nomination is room that is kept for a gang until its pods are bound there, or
// time is up. It counts only the pods that still wait, so an old one does no harm.
type Nomination struct {
	Domain string         `json:"domain"`
	Pods   []NominatedPod `json:"pods"`  // ordered as in the gang
	Since  int64          `json:"since"` // nanoseconds since 1970
	Until  int64          `json:"until"`
	// Evicted is how many pods had to make room.
	Evicted int `json:"evicted,omitempty"`
	// Used says that the gang has had its minimum since, wherever: the room is not for what
	// it loses after that.
	Used bool `json:"used,omitempty"`
	// Moved is what became of the gang before, nil when nobody ever moved it.
	Moved *Moved `json:"moved,omitempty"`
	// Leaves are the nodes that a gang leaves that is moved: once that has begun.
	Leaves []string `json:"leaves,omitempty"`
}

// longestKept is beyond every time for which a scheduler keeps room, and what clocks differ
// by: a nomination for longer was written by somebody else.
const longestKept = 15 * time.Minute

// Keeps reports whether a nomination, nil for none, says at a time, in nanoseconds since
// 1970, that room is kept.
func (n *Nomination) Keeps(now int64) bool {
	return n != nil && n.Until > now && n.Until <= resource.Add(now, int64(longestKept))
}

// NominatedPod is a pod and the node where room is kept for it.
type NominatedPod struct {
	UID  string `json:"uid"`
	Node string `json:"node"`
	// Name, when set, is that of a pod that is moved: the room is for the one that its
	// owner makes anew under this name, and Needs is kept until there is one. UID is
	// then that of the old one.
	Name  string        `json:"name,omitempty"`
	Needs resource.List `json:"needs,omitempty"`
}

// Budget is a disruption budget: how many more of the pods that it covers may be
// evicted now.
type Budget struct {
	Name    string `json:"name"` // "<namespace>/<name>"
	Allowed int64  `json:"allowed"`
}

// Gang is a GangSpec with its pods.
type Gang struct {
	GangSpec
	Pods []*Pod // ordered by task, index, name, UID

	// Held is what the gang's bound, non-terminal pods hold.
	Held resource.Vector
	// Wants is what its pods that nobody has placed ask for, gated ones included;
	// of a gang without pods, its minimum resources.
	Wants resource.Vector
	peers bool // some pod says something about others
	// words are those of worded, see WholeWords.
	words  string
	worded *Whole

	// Waiting counts pods to be placed.
	Waiting int
	// Gated says that scheduling gates hold some back, and BeforeGate that for some of
	// those that is the gate which is the scheduler's. Unsettled says that some are
	// bound for an attempt that has not been taken up and may lack members. Most gangs
	// have none of these, and every cycle asks all of them.
	Gated, BeforeGate, Unsettled bool
	// Seen counts the pods as the watch shows them.
	Seen Seen

	shape  unique.Handle[Shape]
	shaped bool
	refs   []PodRef
}

// Seen counts pods of a gang by what a PodGroup's status tells of them, without what
// is only assumed.
type Seen struct {
	Succeeded, Failed, Running int64
	Live                       int64 // that have not ended
	Bound                      int64 // of these, to a node and not terminating
}

func (s *Seen) add(p *Pod) {
	switch {
	case p.Phase == PodSucceeded:
		s.Succeeded++
		return
	case p.Phase == PodFailed:
		s.Failed++
		return
	case p.Phase == PodRunning && !p.Terminating:
		s.Running++
	}
	s.Live++
	if p.Node != "" && !p.Assumed && !p.Terminating {
		s.Bound++
	}
}

// NewGang compiles a gang. It takes ownership of pods.
func NewGang(spec GangSpec, pods []*Pod, dims *resource.Dims) *Gang {
	slices.SortFunc(pods, ComparePods)
	g := &Gang{GangSpec: spec, Pods: pods, Held: make(resource.Vector, dims.Len()), Wants: make(resource.Vector, dims.Len())}
	if len(pods) == 0 {
		g.Wants, _ = dims.Vector(spec.MinResources)
	}
	for _, p := range pods {
		g.Seen.add(p)
		g.peers = g.peers || p.Class.peers != nil
		g.Gated = g.Gated || p.Gated && !p.Terminating
		g.BeforeGate = g.BeforeGate || p.BeforeGate()
		g.Unsettled = g.Unsettled || p.Attempt != "" && p.Node != "" && !p.Submitted && p.Phase == PodPending
		if p.Node == "" && !p.Terminal() && !p.Terminating {
			g.Wants.AddScaled(p.Class.Request, 1)
		}
		if p.Waits() {
			g.Waiting++
		}
		if p.Node != "" && !p.Terminal() {
			g.Held.AddScaled(p.Class.Request, 1)
		}
	}
	g.Unsettled = g.Unsettled && !wholeAttempt(pods)
	g.keepWords()
	g.compileWaiting()
	return g
}

// wholeAttempt reports whether the bound members are all of one attempt and nobody is
// missing from it, or it was taken up.
func wholeAttempt(pods []*Pod) bool {
	var of *Pod
	var members, size int64
	taken := false
	for _, p := range pods {
		switch {
		case p.Attempt == "" || p.Node == "":
			continue
		case of == nil:
			of = p
		case of.Attempt != p.Attempt:
			return false
		}
		taken = taken || p.Submitted || p.Phase != PodPending
		members, size = members+1, max(size, p.Size)
	}
	return taken || members >= size
}

// Unfinished reports whether the gang has pods that have not ended.
func (g *Gang) Unfinished() bool { return g.Seen.Live > 0 }

// ComparePods is the order of members, which becomes the order of ranks.
func ComparePods(a, b *Pod) int {
	return cmp.Or(strings.Compare(a.Task, b.Task), cmp.Compare(a.Index, b.Index),
		strings.Compare(a.Name, b.Name), strings.Compare(a.UID, b.UID))
}

// Job is the name under which the pod's resources are counted on its node.
func (p *Pod) Job(gangKey string) string {
	if p.Attempt != "" {
		return p.Attempt
	}
	return gangKey
}

// Minimum is how many members the gang needs, at least one.
func (g *GangSpec) Minimum() int64 { return max(g.MinMember, 1) }

// Have counts the members that are placed and alive, or have succeeded.
func (g *Gang) Have() int64 {
	if g.AllWait() {
		return 0
	}
	var n int64
	for _, p := range g.Pods {
		if p.Counts() {
			n++
		}
	}
	return n
}

// AllWait reports whether all of the gang's pods are to be placed, as of most that wait.
func (g *Gang) AllWait() bool { return g.Waiting == len(g.Pods) }

// Counts reports whether the pod is a placed member: bound and not going away,
// or succeeded.
func (p *Pod) Counts() bool {
	return p.Phase == PodSucceeded || p.Node != "" && !p.Terminating && p.Phase != PodFailed
}

// TaskMinimums returns the minimums of tasks that bind: as in Volcano they are
// ignored when the gang's own minimum is below their sum.
func (g *Gang) TaskMinimums() []TaskMinimum {
	var sum int64
	for _, t := range g.MinTask {
		sum = resource.Add(sum, t.Min)
	}
	if g.MinMember < sum {
		return nil
	}
	return g.MinTask
}
