package cache

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// eviction is a pod that was told to go, or that is left alone after it would not.
type eviction struct {
	spared string    // why it is left alone; "" while it is to go
	until  time.Time // of either
}

// evictWithin is how long the watch may take to show that a pod goes away.
const evictWithin = 2 * time.Minute

// Evict counts a pod as going away from now on, until the watch shows it, Spare
// is called or the watch takes too long.
func (c *Cache) Evict(uid string, now time.Time) {
	c.setEviction(uid, eviction{until: now.Add(evictWithin)})
}

// Spare takes Evict back and leaves the pod alone until then; why says so.
func (c *Cache) Spare(uid, why string, until time.Time) {
	c.setEviction(uid, eviction{spared: why, until: until})
}

// Stay takes Evict back: nobody told the pod to go after all.
func (c *Cache) Stay(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pods[uid]; e != nil {
		delete(c.evictions, uid)
		c.touch(e)
		c.signal()
	}
}

// Wanted reports whether room is still to be made for a gang as was decided at a
// time: it exists, nothing else was decided since, the time is not over, and a member
// that the room is for has no place yet. What gives room up is wanted until something
// else is decided.
func (c *Cache) Wanted(gang string, since int64, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gangs[gang]
	if e == nil || e.nominated == nil || e.nominated.Since != since {
		return false
	}
	if n := e.nominated; n.Until <= max(n.Since, now.UnixNano()) {
		return n.Until <= n.Since
	}
	return slices.ContainsFunc(e.nominated.Pods, func(n snapshot.NominatedPod) bool {
		if n.Name != "" {
			return true // who is moved has a place
		}
		p := c.pods[n.UID]
		if p == nil {
			return false
		}
		seat := c.seat(p)
		return seat.Waits()
	})
}

// Goes reports whether a pod counts as going away, or has gone or ended.
func (c *Cache) Goes(uid string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.pods[uid]
	if e == nil {
		return true
	}
	p := c.seat(e)
	return p.Terminating || p.Terminal()
}

func (c *Cache) setEviction(uid string, ev eviction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pods[uid]; e != nil {
		c.evictions[uid] = ev
		c.touch(e)
		c.signal()
	}
}

func (c *Cache) touch(e *podEntry) {
	c.claimed.idle.seated(e.pod.UID)
	if e.gang != "" {
		c.gang(e.gang).snap = nil
	}
	if n := c.nodes[e.on]; n != nil && c.selected { // who goes counts for less there
		n.snap = nil
	}
}

// expireEvictions ends what is over; the watch shows what became of the pods.
func (c *Cache) expireEvictions(now time.Time) {
	for uid, ev := range c.evictions {
		if now.After(ev.until) {
			delete(c.evictions, uid)
			if e := c.pods[uid]; e != nil {
				c.touch(e)
			}
		}
	}
}

// Nominate keeps room for a gang, if it is still the one of that UID.
func (c *Cache) Nominate(gang, uid string, n snapshot.Nomination) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gangs[gang]
	if e == nil || e.group != nil && e.group.UID != uid {
		return
	}
	e.nominated, e.snap = &n, nil
}

// Unnominate gives the room of a gang up that was nominated at a time.
func (c *Cache) Unnominate(gang string, since int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.gangs[gang]; e != nil && e.nominated != nil && e.nominated.Since == since {
		e.nominated, e.snap = over(e.nominated), nil
		c.signal()
	}
}

// over is a nomination that is newer than the annotation of another and keeps no room,
// but has what became of the gang.
func over(n *snapshot.Nomination) *snapshot.Nomination {
	out := &snapshot.Nomination{Since: n.Since + 1, Moved: n.Moved}
	if slices.ContainsFunc(n.Pods, func(p snapshot.NominatedPod) bool { return p.Name != "" }) {
		out.Pods, out.Leaves = n.Pods, n.Leaves
	}
	return out
}

// nomination is the newest that is known: the annotation, or what was decided since.
func (e *gangEntry) nomination(written *snapshot.Nomination) *snapshot.Nomination {
	if e.nominated != nil && (written == nil || e.nominated.Since >= written.Since) {
		return e.nominated
	}
	return written
}

// maxNomination bounds what is read from an annotation.
const maxNomination = 256 << 10

// nominationOf reads the annotation; one that does not parse is none.
func nominationOf(annotations map[string]string) *snapshot.Nomination {
	text := annotations[wellknown.Nomination]
	if text == "" || len(text) > maxNomination {
		return nil
	}
	var n snapshot.Nomination
	if json.Unmarshal([]byte(text), &n) != nil {
		return nil
	}
	return &n
}

// budget is a PodDisruptionBudget.
type budget struct {
	uid, namespace string
	selector       labels.Selector
	text           string // of the selector
	allowed        int64
}

// SetBudget takes in a disruption budget.
func (c *Cache) SetBudget(p *policyv1.PodDisruptionBudget) {
	selector, err := metav1.LabelSelectorAsSelector(p.Spec.Selector)
	if err != nil {
		selector = labels.Nothing() // the API server admits none such
	}
	b := &budget{uid: string(p.UID), namespace: p.Namespace, selector: selector, text: selector.String(), allowed: int64(p.Status.DisruptionsAllowed)}
	key := p.Namespace + "/" + p.Name
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.budgets[key]
	if old != nil && old.text == b.text && old.allowed == b.allowed && old.uid == b.uid {
		return
	}
	c.budgets[key] = b
	if old == nil || old.text != b.text {
		c.touchNamespace(p.Namespace)
	}
	c.signal()
}

// DeleteBudget forgets a disruption budget.
func (c *Cache) DeleteBudget(p *policyv1.PodDisruptionBudget) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := p.Namespace + "/" + p.Name
	if b := c.budgets[key]; b != nil && b.uid == string(p.UID) {
		delete(c.budgets, key)
		c.touchNamespace(p.Namespace)
		c.signal()
	}
}

func (c *Cache) touchNamespace(namespace string) {
	for _, e := range c.pods {
		if e.pod.Namespace == namespace {
			c.touch(e)
		}
	}
}

// budgetsOf names the budgets that cover a pod, in order.
func (c *Cache) budgetsOf(e *podEntry) []string {
	var out []string
	for key, b := range c.budgets {
		if b.namespace == e.pod.Namespace && b.selector.Matches(labels.Set(e.labels)) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

func (c *Cache) allBudgets() []snapshot.Budget {
	out := make([]snapshot.Budget, 0, len(c.budgets))
	for key, b := range c.budgets {
		out = append(out, snapshot.Budget{Name: key, Allowed: b.allowed})
	}
	return out
}

// contend fills in what decides whether others may take the pod's place.
func contend(e *podEntry, p *corev1.Pod) {
	e.labels = p.Labels
	e.pod.Protected = protected(p)
	e.job = jobOf(p)
	e.spec.Revocable = revocable(p.Annotations)
	e.pod.Movable = e.job != "" && (yields(p.Labels) || yields(p.Annotations))
	e.pod.Cooldown = int64(duration(firstOf(p.Labels[volcanov1.CooldownTime], p.Annotations[volcanov1.CooldownTime])))
	e.pod.Lost = lost(p)
	e.past = historyOf(p)
	e.patient = p.Spec.PreemptionPolicy != nil && *p.Spec.PreemptionPolicy == corev1.PreemptNever
	if p.Status.Phase == corev1.PodRunning {
		e.pod.StartedAt = started(p)
	}
	switch {
	case p.Annotations[wellknown.RunningEstimate] != "":
		e.estimate, e.estimateFrom = int64(duration(p.Annotations[wellknown.RunningEstimate])), snapshot.EstimateDeclared
	case p.Spec.ActiveDeadlineSeconds != nil:
		e.estimate, e.estimateFrom = *p.Spec.ActiveDeadlineSeconds*int64(time.Second), snapshot.EstimateDeadline
	case p.Annotations[wellknown.Walltime] != "":
		e.estimate, e.estimateFrom = int64(duration(p.Annotations[wellknown.Walltime])), snapshot.EstimateDeadline
	}
}

// noteShort notes since when a gang is short: since it was first seen to be, or its
// PodGroup's condition says so, which outlives this program.
func (e *gangEntry) noteShort(g *snapshot.Gang, now time.Time) {
	if !g.Short() {
		e.short = 0
		return
	}
	if e.short == 0 {
		e.short = now.UnixNano()
	}
	for _, c := range e.raw {
		if c.Type == snapshot.Stale && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			e.short = min(e.short, c.LastTransitionTime.UnixNano())
		}
	}
	g.ShortSince = e.short
}

// lost reports whether the pod failed because its place was taken from it.
func lost(p *corev1.Pod) bool {
	if p.Status.Phase != corev1.PodFailed {
		return false
	}
	switch p.Status.Reason { // as kubelets and controllers of Kubernetes say it
	case "Evicted", "NodeLost", "NodeShutdown", "Terminated", "NodeAffinity", "OutOfcpu", "OutOfmemory", "OutOfpods", "UnexpectedAdmissionError":
		return true
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// protected says why nobody may take the pod's place: the set that Kubernetes'
// own components are in, and what its owner asked for.
func protected(p *corev1.Pod) string {
	switch {
	case p.Namespace == metav1.NamespaceSystem:
		return "it is in " + metav1.NamespaceSystem
	case p.Spec.PriorityClassName == "system-cluster-critical" || p.Spec.PriorityClassName == "system-node-critical":
		return "its priority class is " + p.Spec.PriorityClassName
	case keeps(p.Labels) || keeps(p.Annotations):
		return volcanov1.PodPreemptable + " is false"
	}
	return ""
}

// revocable are the zones that a pod may be in: what it says, or else any if it says that
// it is preemptable, as Volcano takes it.
func revocable(annotations map[string]string) []string {
	if zones, ok := annotations[volcanov1.RevocableZone]; ok {
		return listOf(zones)
	}
	if yields(annotations) {
		return []string{"*"}
	}
	return nil
}

// yields reports whether a pod, or its PodGroup, may be sent away by its own word, which
// is read as Volcano does: what is no boolean is false.
func yields(m map[string]string) bool {
	yes, err := strconv.ParseBool(m[volcanov1.PodPreemptable])
	return err == nil && yes
}

func keeps(m map[string]string) bool {
	_, said := m[volcanov1.PodPreemptable]
	return said && !yields(m)
}

// started is when the first container began, or else when the kubelet took the pod.
func started(p *corev1.Pod) int64 {
	var first int64
	for _, c := range p.Status.ContainerStatuses {
		if r := c.State.Running; r != nil && (first == 0 || r.StartedAt.UnixNano() < first) {
			first = r.StartedAt.UnixNano()
		}
	}
	if first == 0 && p.Status.StartTime != nil {
		first = p.Status.StartTime.UnixNano()
	}
	return first
}

// duration reads a Go duration; anything else, or a negative one, is 0.
func duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0
	}
	return d
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
