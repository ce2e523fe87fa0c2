package podgroup

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podresource "k8s.io/component-helpers/resource"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// Input is everything that a decision rests on.
type Input struct {
	// Name is the PodGroup's.
	Name string
	// Pods are those that this PodGroup is for.
	Pods []*corev1.Pod
	// Owner controls them; nil for plain pods and for kinds that are not read.
	Owner *Owner
	// PodGroup of the name, nil if there is none.
	PodGroup *scheduling.PodGroup
	// NamespaceQueue is the queue that the namespace gives to what names none.
	NamespaceQueue string
	// Inherit says that the owner's annotations count.
	Inherit bool
}

// Output is what is to be done, in this order.
type Output struct {
	Create *scheduling.PodGroup
	// Update is the PodGroup as it is to be, nil when it is right.
	Update *scheduling.PodGroup
	// Annotate are the pods that do not name the PodGroup yet.
	Annotate []*corev1.Pod
	Delete   bool
	// Notices are what users should hear about, each on the pod it is about.
	Notices []Notice
}

// Notice is a warning about a pod.
type Notice struct {
	Pod             *corev1.Pod
	Reason, Message string
}

// GroupName is the name of the PodGroup that a pod gets: podgroup- and the UID of
// the owner that controls it, or else its own.
func GroupName(pod *corev1.Pod) string {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		return batch.PodgroupNamePrefix + string(ref.UID)
	}
	return batch.PodgroupNamePrefix + string(pod.UID)
}

// Next decides about one PodGroup. For the same input it gives the same answer.
func Next(in Input) Output {
	var live []*corev1.Pod
	for _, p := range in.Pods {
		if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			live = append(live, p)
		}
	}
	out := Output{}
	if len(live) == 0 {
		// What has ended is told by the PodGroup until its owner goes. An owner that
		// stays with nothing to run would hold its queue up for ever.
		out.Delete = in.PodGroup != nil && in.PodGroup.DeletionTimestamp == nil && len(in.Pods) == 0 &&
			in.Owner != nil && in.Owner.Keeps && in.Owner.Most == 0 && isOf(in.PodGroup, in.Owner.UID)
		return out
	}
	slices.SortFunc(live, func(a, b *corev1.Pod) int {
		if c := b.CreationTimestamp.Compare(a.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	newest := live[0]
	w := &wording{pod: newest, owner: in.Owner, inherit: in.Inherit}
	want := w.podGroup(in)
	switch have := in.PodGroup; {
	case have == nil:
		out.Create, out.Notices = want, w.notices
	case have.DeletionTimestamp != nil:
		return out // its own name has to be free first
	case !isOf(have, types.UID(strings.TrimPrefix(in.Name, batch.PodgroupNamePrefix))):
		out.Notices = []Notice{{newest, "NameTaken", fmt.Sprintf("PodGroup %s exists and is not of this pod's owner; it has to be gone first", have.Name)}}
		return out
	default:
		if changed := merged(have, want); changed != nil {
			out.Update, out.Notices = changed, w.notices
		}
	}
	for _, p := range live {
		if p.Annotations[scheduling.KubeGroupNameAnnotationKey] == "" {
			out.Annotate = append(out.Annotate, p)
		}
	}
	slices.SortFunc(out.Annotate, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func isOf(pg *scheduling.PodGroup, owner types.UID) bool {
	ref := metav1.GetControllerOfNoCopy(pg)
	return ref != nil && ref.UID == owner
}

// wording collects what a pod and its owner say.
type wording struct {
	pod     *corev1.Pod
	owner   *Owner
	inherit bool
	notices []Notice
}

// say is what the pod says under a key, or else its owner.
func (w *wording) say(key string) (string, bool) {
	if v, ok := w.pod.Annotations[key]; ok {
		return v, true
	}
	if w.owner != nil && w.inherit {
		v, ok := w.owner.Annotations[key]
		return v, ok
	}
	return "", false
}

func (w *wording) wrong(key, value, rule string) {
	w.notices = append(w.notices, Notice{w.pod, "InvalidAnnotation", fmt.Sprintf("annotation %s: Invalid value: %q: %s", key, value, rule)})
}

// ofPod are the keys that are copied from a pod; of an owner all of Volcano's are.
var ofPod = []string{
	scheduling.PodPreemptable, scheduling.CooldownTime, scheduling.RevocableZone, scheduling.JobWaitingTime, wellknown.PlainWaitingTime,
	"volcano.sh/task-topology", "volcano.sh/task-topology-affinity", "volcano.sh/task-topology-anti-affinity", "volcano.sh/task-topology-task-order",
}

// ofScheduler are Volcano's keys on a PodGroup that a scheduler writes.
var ofScheduler = []string{"volcano.sh/job-allocated-hypernode", scheduling.TopologyDecisionAnnotation}

// podGroup is the PodGroup as it is to be, in phase Pending.
func (w *wording) podGroup(in Input) *scheduling.PodGroup {
	p := w.pod
	pg := &scheduling.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: in.Name, Labels: map[string]string{}, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{reference(p)}},
		Spec:   scheduling.PodGroupSpec{MinMember: w.minMember(), PriorityClassName: p.Spec.PriorityClassName, NetworkTopology: w.networkTopology()},
		Status: scheduling.PodGroupStatus{Phase: scheduling.PodGroupPending},
	}
	pg.Spec.MinResources = w.minResources(pg.Spec.MinMember)
	pg.Spec.Queue = w.queue(in)
	if w.owner != nil && w.inherit {
		for k, v := range w.owner.Annotations {
			if strings.HasPrefix(k, scheduling.AnnotationPrefix) || k == wellknown.PlainWaitingTime || k == wellknown.RunningEstimate {
				pg.Annotations[k] = v
			}
		}
	}
	for _, k := range ofPod {
		if v, ok := p.Annotations[k]; ok {
			pg.Annotations[k] = v
		}
	}
	// Only one of the two is meant to be there; the first rules.
	for _, k := range []string{scheduling.JDBMinAvailable, scheduling.JDBMaxUnavailable} {
		if v, ok := p.Annotations[k]; ok {
			pg.Annotations[k] = v
			break
		}
	}
	for _, k := range []string{scheduling.PodPreemptable, scheduling.CooldownTime} {
		if v, ok := p.Labels[k]; ok {
			pg.Labels[k] = v
		}
	}
	return pg
}

// reference makes the owner of the pods the owner of the PodGroup, or else the
// pod. It does not hold up a deletion, so that no right on the owner is needed.
func reference(p *corev1.Pod) metav1.OwnerReference {
	ref := *metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))
	if owner := metav1.GetControllerOf(p); owner != nil {
		ref = *owner
	}
	ref.BlockOwnerDeletion = nil
	return ref
}

// minMember is how many of the pods go together.
func (w *wording) minMember() int32 {
	const key = scheduling.VolcanoGroupMinMemberAnnotationKey
	text, ok := w.say(key)
	if !ok {
		return 1
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		w.wrong(key, text, "must be a whole number of 1 or more; 1 is taken")
		return 1
	}
	if w.owner == nil {
		return int32(n)
	}
	if w.owner.OneByOne && n > 1 {
		w.notices = append(w.notices, Notice{w.pod, "NoGang", fmt.Sprintf("annotation %s is %s, but the %s makes a pod only when the one before is ready: "+
			"each is placed alone; spec.podManagementPolicy: Parallel lets them go together", key, text, w.owner.Kind)})
		return 1
	}
	if most := max(w.owner.Most, 1); w.owner.Most >= 0 && int32(n) > most {
		return most
	}
	return int32(n)
}

// minResources is what the annotation says, or else what the first pods request.
func (w *wording) minResources(members int32) *corev1.ResourceList {
	const key = scheduling.VolcanoGroupMinResourcesAnnotationKey
	if text, ok := w.say(key); ok {
		var raw map[string]string
		list := corev1.ResourceList{}
		err := json.Unmarshal([]byte(text), &raw)
		for name, value := range raw {
			q, parsed := resource.ParseQuantity(value)
			if parsed != nil || q.Sign() < 0 {
				err = fmt.Errorf("%s: %q is no amount", name, value)
				break
			}
			list[corev1.ResourceName(name)] = q
		}
		if err == nil {
			return &list
		}
		w.wrong(key, text, `must be amounts by resource, such as {"cpu":"4"}; what the pods request is taken`)
	}
	list := podresource.PodRequests(w.pod, podresource.PodResourcesOptions{})
	for name, q := range list {
		q.Mul(int64(members))
		list[name] = q
	}
	return &list
}

// queue is the one that the pod, its owner or its namespace names. A PodGroup
// stays in the queue it was made in until the pod or its owner name another.
func (w *wording) queue(in Input) string {
	if q, ok := w.say(scheduling.QueueNameAnnotationKey); ok && q != "" {
		return q
	}
	if q := w.pod.Labels[batch.QueueNameKey]; q != "" {
		return q
	}
	switch {
	case in.PodGroup != nil && in.PodGroup.Spec.Queue != "":
		return in.PodGroup.Spec.Queue
	case in.NamespaceQueue != "":
		return in.NamespaceQueue
	}
	return scheduling.DefaultQueue
}

func (w *wording) networkTopology() *scheduling.NetworkTopologySpec {
	mode, hasMode := w.say(topology.NetworkTopologyModeAnnotationKey)
	tier, hasTier := w.say(topology.NetworkTopologyHighestTierAnnotationKey)
	if !hasMode && !hasTier {
		return nil
	}
	out := &scheduling.NetworkTopologySpec{Mode: scheduling.HardNetworkTopologyMode}
	switch m := scheduling.NetworkTopologyMode(strings.ToLower(mode)); {
	case m == scheduling.HardNetworkTopologyMode || m == scheduling.SoftNetworkTopologyMode:
		out.Mode = m
	case hasMode:
		w.wrong(topology.NetworkTopologyModeAnnotationKey, mode, "must be hard or soft; hard is taken")
	}
	if hasTier {
		n, err := strconv.Atoi(tier)
		if err != nil || n < 0 {
			w.wrong(topology.NetworkTopologyHighestTierAnnotationKey, tier, "must be a whole number of 0 or more; any tier is taken")
		} else {
			out.HighestTierAllowed = &n
		}
	}
	return out
}

// merged is have with what want says, nil when have says it already. What others
// wrote stays, except Volcano's keys that nobody says any more.
func merged(have, want *scheduling.PodGroup) *scheduling.PodGroup {
	out := have.DeepCopy()
	groups := out.Spec.SubGroupPolicy
	out.Spec = want.Spec
	out.Spec.SubGroupPolicy = groups // whoever wrote these, we do not
	out.Spec.MinTaskMember = maps.Clone(have.Spec.MinTaskMember)
	out.Annotations = mergedKeys(have.Annotations, want.Annotations)
	out.Labels = mergedKeys(have.Labels, want.Labels)
	same := out.Spec.MinMember == have.Spec.MinMember && out.Spec.Queue == have.Spec.Queue && out.Spec.PriorityClassName == have.Spec.PriorityClassName &&
		equality.Semantic.DeepEqual(out.Spec.MinResources, have.Spec.MinResources) && equality.Semantic.DeepEqual(out.Spec.NetworkTopology, have.Spec.NetworkTopology) &&
		maps.Equal(out.Annotations, have.Annotations) && maps.Equal(out.Labels, have.Labels)
	if same {
		return nil
	}
	return out
}

func mergedKeys(have, want map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range have {
		ours := strings.HasPrefix(k, scheduling.AnnotationPrefix) || k == wellknown.PlainWaitingTime || k == wellknown.RunningEstimate
		if _, said := want[k]; said || !ours || slices.Contains(ofScheduler, k) {
			out[k] = v
		}
	}
	maps.Copy(out, want)
	return out
}
