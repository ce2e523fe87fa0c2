package cache

import (
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	batchv1 "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

type gangEntry struct {
	key   string
	gone  bool       // see order
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
	// used is when room was decided to be kept that the gang needs no more, in nanoseconds
	// since 1970, 0 for none.
	used  int64
	short snapshot.Shortness
	// measured says that short is this program's own knowledge, and no longer asks the
	// PodGroup's condition.
	measured bool
	whole    *snapshot.Whole
	// had is how many pods the gang had when it was last compiled, grew when it first
	// had that many, as in snapshot.GangSpec.
	had  int
	grew int64
}

// noteGrowth remembers when the gang, or one more of its pods, was first seen.
func (e *gangEntry) noteGrowth(now time.Time) {
	if len(e.pods) > e.had || e.grew == 0 {
		e.grew = now.UnixNano()
	}
	e.had = len(e.pods)
}

// ofPods is what the pods say of their gang. The same one speaks for all whatever the order
// of the map.
func (e *gangEntry) ofPods() (spec snapshot.GangSpec) {
	first := ""
	for uid, pe := range e.pods {
		if first == "" || uid < first {
			first, spec = uid, pe.standing()
		}
	}
	return spec
}

func (c *Cache) gang(key string) *gangEntry {
	g := c.gangs[key]
	if g == nil {
		g = &gangEntry{key: key, pods: map[string]*podEntry{}}
		c.gangs[key] = g
		c.byKey.add(g)
	}
	return g
}

func (c *Cache) forgetGang(e *gangEntry) {
	delete(c.gangs, e.key)
	c.byKey.remove(e)
}

// groupSpec is a PodGroup; its priority class is resolved when compiled, and so is its
// queue where it names none.
type groupSpec struct {
	snapshot.GangSpec
	priorityClass  string
	nativePriority *int32 // resolved by the API server, of no class as well
	policies       []subGroupPolicy
	version        string
	estimateKey    string
	reads          []string // datasets
	protected      string   // why none of its pods may have to make room
	yields         bool     // its pods say by it that they may have to
	patient        bool     // it has nobody sent away, whatever its pods say
	whole          bool     // all of it is sent away, or nobody
}

// say takes in what labels and annotations say of a PodGroup of either kind.
func (g *groupSpec) say(m metav1.ObjectMeta) {
	g.estimateKey, g.reads = m.Annotations[wellknown.EstimateKey], listOf(m.Annotations[wellknown.Datasets])
	if d := duration(m.Annotations[wellknown.RunningEstimate]); d > 0 {
		g.Estimate, g.EstimateFrom = int64(d), snapshot.EstimateDeclared
	}
	if keeps(m.Labels) || keeps(m.Annotations) {
		g.protected = "its PodGroup says that it is not to be preempted"
	}
	g.yields = yields(m.Labels) || yields(m.Annotations)
}

func groupKey(namespace, name string) string { return "podgroup/" + namespace + "/" + name }

// SetGroup takes in a PodGroup.
func (c *Cache) SetGroup(pg *volcanov1.PodGroup) {
	c.setGroup(newGroupSpec(pg), pg.Status.Conditions)
}

func (c *Cache) setGroup(spec groupSpec, conditions []volcanov1.PodGroupCondition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gang(spec.Key)
	if e.group != nil && e.group.UID != spec.UID {
		e.forgetGroup()
	}
	wrote := e.written
	e.raw = conditions
	spec.Nominated = c.believed(e, &spec)
	if e.written != nil && !older(spec.version, e.writtenRV) {
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
	e.forgetGroup()
	if len(e.pods) == 0 {
		c.forgetGang(e)
	}
	c.signal()
}

// forgetGroup forgets what is remembered of the gang by its PodGroup, which is gone: one of
// the same name that is made anew has not had what it asks for, has not been told what it
// lacks, has nothing sent away for it, was not tried in vain, and is as young as it is.
func (e *gangEntry) forgetGroup() {
	e.hold, e.code, e.had, e.grew = "", "", 0, 0
	e.written, e.raw, e.nominated = nil, nil, nil
	e.whole, e.short, e.measured = nil, snapshot.Shortness{}, false
}

// uid is of the PodGroup, or of the pod that is a gang of its own, "" while there is neither.
func (e *gangEntry) uid() string {
	if e.group != nil {
		return e.group.UID
	}
	return e.ofPods().UID
}

// regroup gives a gang its PodGroup, or none. Pods that come into another queue by
// it may be kept to other nodes than before.
func (c *Cache) regroup(e *gangEntry, spec *groupSpec) {
	if e.group == nil || spec == nil || e.group.Queue != spec.Queue {
		for _, p := range e.pods {
			if p.on != "" {
				c.node(p.on).snap = nil
			}
		}
	}
	e.group, e.snap = spec, nil
}

// Status returns the PodGroup status that the next snapshot will show.
func (c *Cache) Status(gang string) (snapshot.GroupStatus, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gangs[gang]
	switch {
	case e == nil || e.group == nil:
		return snapshot.GroupStatus{}, false
	case e.written != nil:
		return *e.written, true
	}
	return e.group.Status, true
}

// StatusWritten notes the status that a write left behind at a resource version,
// so that it is not written again before the watch shows it.
func (c *Cache) StatusWritten(gang, uid string, pg *volcanov1.PodGroup) {
	c.statusWritten(gang, uid, pg.ResourceVersion, groupStatus(pg.Status), pg.Status.Conditions)
}

// NativeStatusWritten is StatusWritten of a PodGroup of Kubernetes' own API.
func (c *Cache) NativeStatusWritten(gang, uid string, pg *schedulingv1beta1.PodGroup) {
	status, raw := nativeStatus(pg.Status)
	c.statusWritten(gang, uid, pg.ResourceVersion, status, raw)
}

func (c *Cache) statusWritten(gang, uid, version string, status snapshot.GroupStatus, raw []volcanov1.PodGroupCondition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gangs[gang]
	if e == nil || e.group == nil || e.group.UID != uid {
		return
	}
	if e.group.version != "" && !older(e.group.version, version) {
		return // the watch was faster
	}
	before := e.group.Status.Phase
	e.written, e.writtenRV, e.raw, e.snap = &status, version, raw, nil
	if status.Phase == snapshot.GroupInqueue && before != status.Phase {
		c.signal() // its pods may be placed from now on
	} else {
		c.signalLater()
	}
}

// Conditions returns a PodGroup's conditions as the API server last told them.
func (c *Cache) Conditions(gang string) []volcanov1.PodGroupCondition {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.gangs[gang]; e != nil {
		return slices.Clone(e.raw)
	}
	return nil
}

// noteShort notes since when a gang is short: since it was first seen to be, by this
// program or by one before it. What is assumed proves nothing: a gang that was to be made
// whole by bindings that failed has been short all the while.
func (e *gangEntry) noteShort(g *snapshot.Gang, now time.Time) {
	first := !e.measured
	e.measured = e.group != nil
	if first {
		e.whole = e.toldWhole()
	}
	g.Whole = e.whole
	g.NoteWhole()
	if first && g.Short() {
		e.short.From(e.toldShort(), now.UnixNano())
	}
	e.short.Note(g, now.UnixNano())
	e.whole = g.Whole
}

// toldShort is since when the gang is short by its PodGroup's condition, which outlives the
// program that wrote it, 0 for nothing that holds. It holds only if no pod was bound since:
// one that was belongs to a gang that was made whole or placed anew after the condition was
// written, of which that program had no time to tell.
func (e *gangEntry) toldShort() int64 {
	for _, c := range e.raw {
		if c.Type != snapshot.Stale || c.Reason == snapshot.PodsMissing || c.Status != corev1.ConditionTrue || c.LastTransitionTime.IsZero() {
			continue
		}
		told := c.LastTransitionTime.UnixNano()
		for _, p := range e.pods {
			if p.bound > told {
				return 0
			}
		}
		return told
	}
	return 0
}

// toldWhole is what the gang needed when it last had that by its PodGroup's condition, as
// a scheduler before this one has written it.
func (e *gangEntry) toldWhole() *snapshot.Whole {
	for _, c := range e.raw {
		if (c.Type == volcanov1.PodGroupScheduled || string(c.Type) == schedulingv1beta1.PodGroupInitiallyScheduled) && c.Status == corev1.ConditionTrue {
			return snapshot.ReadWhole(c.Message)
		}
	}
	return nil
}

func newGroupSpec(pg *volcanov1.PodGroup) groupSpec {
	g := groupSpec{
		GangSpec: snapshot.GangSpec{
			Key: groupKey(pg.Namespace, pg.Name), UID: string(pg.UID), Namespace: pg.Namespace, Name: pg.Name,
			Queue: firstOf(pg.Spec.Queue, volcanov1.DefaultQueue), CreatedAt: pg.CreationTimestamp.UnixNano(),
			MinMember: int64(pg.Spec.MinMember), Status: groupStatus(pg.Status),
			Topology: topologyOf(pg.Spec.NetworkTopology, pg.Annotations), WaitAtMost: waitAtMost(pg.Annotations),
			Tasks: taskTopologyOf(pg.Annotations),
		},
		priorityClass: pg.Spec.PriorityClassName,
		policies:      subGroupsOf(pg.Spec.SubGroupPolicy),
		version:       pg.ResourceVersion,
	}
	g.Loose = g.Topology == nil && loose(pg)
	for _, p := range g.policies {
		g.SubGroups = append(g.SubGroups, p.SubGroup)
	}
	g.Nominated, g.Staging = nominationOf(pg.Annotations), pg.Annotations[wellknown.Staging]
	g.say(pg.ObjectMeta)
	for task, n := range pg.Spec.MinTaskMember {
		g.MinTask = append(g.MinTask, snapshot.TaskMinimum{Task: task, Min: int64(n)})
	}
	slices.SortFunc(g.MinTask, func(a, b snapshot.TaskMinimum) int { return strings.Compare(a.Task, b.Task) })
	if pg.Spec.MinResources != nil {
		var qs []resource.Quantity
		for name, q := range *pg.Spec.MinResources {
			qs = append(qs, resource.Quantity{Name: string(name), Amount: resource.Requested(snapshot.QuotaBase(string(name)), q)})
		}
		g.MinResources = resource.MakeList(qs...)
	}
	return g
}

func groupStatus(s volcanov1.PodGroupStatus) snapshot.GroupStatus {
	out := snapshot.GroupStatus{Phase: string(s.Phase), Running: int64(s.Running), Succeeded: int64(s.Succeeded), Failed: int64(s.Failed)}
	for _, c := range s.Conditions {
		out.Conditions = append(out.Conditions, snapshot.Condition{Type: string(c.Type), Status: string(c.Status), Reason: c.Reason, Message: c.Message})
	}
	slices.SortStableFunc(out.Conditions, func(a, b snapshot.Condition) int { return strings.Compare(a.Type, b.Type) })
	return out
}

// loose reports whether the pods of a PodGroup do not need each other: it is the
// one that the controllers make for an owner, and asks for one pod anywhere.
func loose(pg *volcanov1.PodGroup) bool {
	ref := metav1.GetControllerOf(pg)
	return ref != nil && pg.Name == batchv1.PodgroupNamePrefix+string(ref.UID) &&
		pg.Spec.MinMember <= 1 && len(pg.Spec.MinTaskMember) == 0 && len(pg.Spec.SubGroupPolicy) == 0
}
