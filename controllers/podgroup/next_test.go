package podgroup

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func somePod(name string, age time.Duration, annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Annotations: annotations,
			Labels: map[string]string{"app": "x"}, CreationTimestamp: metav1.NewTime(day.Add(-age)),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "owner", Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true)}}},
		Spec: corev1.PodSpec{SchedulerName: "volcano", PriorityClassName: "high", Containers: []corev1.Container{{
			Name: "main", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("2")}}}}},
	}
}

// Every key of the contract that a pod, its owner or its namespace may say.
func TestKeys(t *testing.T) {
	t.Parallel()
	owner := func(annotations map[string]string, change ...func(*Owner)) *Owner {
		o := &Owner{Kind: "ReplicaSet", UID: "owner", Annotations: annotations, Most: 8, Keeps: true}
		for _, c := range change {
			c(o)
		}
		return o
	}
	const min, queue, resources = "scheduling.volcano.sh/group-min-member", "scheduling.volcano.sh/queue-name", "scheduling.volcano.sh/group-min-resources"
	const mode, tier = "volcano.sh/network-topology-mode", "volcano.sh/network-topology-highest-tier"
	type m = map[string]string
	for name, c := range map[string]struct {
		pod       m
		labels    m
		owner     *Owner
		namespace string
		deaf      bool // --inherit-owner-annotations=false
		want      string
		notices   []string
	}{
		"nothing said":                          {want: "min=1 queue=default cpu=2"},
		"minimum of the owner":                  {owner: owner(m{min: "3"}), want: "min=3 queue=default cpu=6"},
		"minimum of the pod before its owner's": {owner: owner(m{min: "3"}), pod: m{min: "2"}, want: "min=2 queue=default cpu=4"},
		"minimum of an owner that is not read":  {pod: m{min: "2"}, want: "min=2 queue=default cpu=4"},
		"never more than the owner can have":    {owner: owner(m{min: "20"}), want: "min=8 queue=default cpu=16"},
		"an owner that is scaling up from 0":    {owner: owner(m{min: "20"}, func(o *Owner) { o.Most = 0 }), want: "min=1 queue=default cpu=2"},
		"an owner of unknown size":              {owner: owner(m{min: "20"}, func(o *Owner) { o.Most = -1 }), want: "min=20 queue=default cpu=40"},
		"one by one": {owner: owner(m{min: "3"}, func(o *Owner) { o.Kind, o.OneByOne = "StatefulSet", true }), want: "min=1 queue=default cpu=2",
			notices: []string{"NoGang: annotation scheduling.volcano.sh/group-min-member is 3, but the StatefulSet makes a pod only when the one before is ready: each is placed alone; spec.podManagementPolicy: Parallel lets them go together"}},
		"no number": {owner: owner(m{min: "all"}), want: "min=1 queue=default cpu=2",
			notices: []string{`InvalidAnnotation: annotation scheduling.volcano.sh/group-min-member: Invalid value: "all": must be a whole number of 1 or more; 1 is taken`}},
		"zero":                          {pod: m{min: "0"}, want: "min=1 queue=default cpu=2", notices: []string{`InvalidAnnotation: annotation scheduling.volcano.sh/group-min-member: Invalid value: "0": must be a whole number of 1 or more; 1 is taken`}},
		"owners do not count":           {owner: owner(m{min: "3", "volcano.sh/preemptable": "true", queue: "q"}), deaf: true, want: "min=1 queue=default cpu=2"},
		"queue of the pod":              {pod: m{queue: "a"}, owner: owner(m{queue: "b"}), namespace: "c", want: "min=1 queue=a cpu=2"},
		"queue of the owner":            {owner: owner(m{queue: "b"}), namespace: "c", want: "min=1 queue=b cpu=2"},
		"queue of the label":            {labels: m{"volcano.sh/queue-name": "l"}, namespace: "c", want: "min=1 queue=l cpu=2"},
		"queue of the namespace":        {namespace: "c", want: "min=1 queue=c cpu=2"},
		"resources":                     {owner: owner(m{resources: `{"cpu":"7","nvidia.com/gpu":"1"}`}), want: "min=1 queue=default cpu=7 nvidia.com/gpu=1"},
		"resources that are none":       {pod: m{resources: `{"cpu":"much"}`}, want: "min=1 queue=default cpu=2", notices: []string{`InvalidAnnotation: annotation scheduling.volcano.sh/group-min-resources: Invalid value: "{\"cpu\":\"much\"}": must be amounts by resource, such as {"cpu":"4"}; what the pods request is taken`}},
		"topology":                      {pod: m{mode: "Soft", tier: "2"}, want: "min=1 queue=default cpu=2 topology=soft:2"},
		"topology of the owner, hard":   {owner: owner(m{tier: "1"}), want: "min=1 queue=default cpu=2 volcano.sh/network-topology-highest-tier=1 topology=hard:1"},
		"topology that is none":         {pod: m{mode: "near", tier: "x"}, want: "min=1 queue=default cpu=2 topology=hard", notices: []string{`InvalidAnnotation: annotation volcano.sh/network-topology-mode: Invalid value: "near": must be hard or soft; hard is taken`, `InvalidAnnotation: annotation volcano.sh/network-topology-highest-tier: Invalid value: "x": must be a whole number of 0 or more; any tier is taken`}},
		"all of Volcano's of the owner": {owner: owner(m{"volcano.sh/anything": "1", "example.org/x": "2", "sla-waiting-time": "1h"}), want: "min=1 queue=default cpu=2 sla-waiting-time=1h volcano.sh/anything=1"},
		"the pod's count for more":      {owner: owner(m{"volcano.sh/preemptable": "true"}), pod: m{"volcano.sh/preemptable": "false", "volcano.sh/task-index": "1"}, want: "min=1 queue=default cpu=2 volcano.sh/preemptable=false"},
		"what a pod says": {pod: m{"volcano.sh/cooldown-time": "1m", "volcano.sh/revocable-zone": "z", "volcano.sh/sla-waiting-time": "2h", "volcano.sh/jdb-min-available": "1", "volcano.sh/jdb-max-unavailable": "2"},
			labels: m{"volcano.sh/preemptable": "true", "volcano.sh/cooldown-time": "5m"},
			want:   "min=1 queue=default cpu=2 volcano.sh/cooldown-time=1m volcano.sh/jdb-min-available=1 volcano.sh/revocable-zone=z volcano.sh/sla-waiting-time=2h +volcano.sh/cooldown-time=5m +volcano.sh/preemptable=true"},
		"only the other budget": {pod: m{"volcano.sh/jdb-max-unavailable": "2"}, want: "min=1 queue=default cpu=2 volcano.sh/jdb-max-unavailable=2"},
	} {
		p := somePod("a", 0, c.pod)
		for k, v := range c.labels {
			p.Labels[k] = v
		}
		out := Next(Input{Name: "podgroup-owner", Pods: []*corev1.Pod{p}, Owner: c.owner, NamespaceQueue: c.namespace, Inherit: !c.deaf})
		var notices []string
		for _, n := range out.Notices {
			notices = append(notices, n.Reason+": "+n.Message)
		}
		if got := text(out.Create); got != c.want || !reflect.DeepEqual(notices, c.notices) {
			t.Errorf("%s: %s, want %s; notices %q", name, got, c.want, notices)
		}
		if pg := out.Create; pg != nil && (pg.Spec.PriorityClassName != "high" || pg.Status.Phase != scheduling.PodGroupPending || len(pg.OwnerReferences) != 1 ||
			pg.OwnerReferences[0].UID != "owner" || pg.OwnerReferences[0].BlockOwnerDeletion != nil) {
			t.Errorf("%s: %+v", name, pg)
		}
	}
}

// text is a PodGroup in one line.
func text(pg *scheduling.PodGroup) string {
	if pg == nil {
		return "none"
	}
	words := []string{fmt.Sprintf("min=%d queue=%s", pg.Spec.MinMember, pg.Spec.Queue)}
	var more []string
	for k, v := range *pg.Spec.MinResources {
		more = append(more, string(k)+"="+v.String())
	}
	slices.Sort(more)
	words = append(words, more...)
	more = nil
	for k, v := range pg.Annotations {
		more = append(more, k+"="+v)
	}
	for k, v := range pg.Labels {
		more = append(more, "+"+k+"="+v)
	}
	slices.SortFunc(more, func(a, b string) int {
		return strings.Compare(strings.Replace(a, "+", "~", 1), strings.Replace(b, "+", "~", 1))
	})
	words = append(words, more...)
	if nt := pg.Spec.NetworkTopology; nt != nil {
		s := "topology=" + string(nt.Mode)
		if nt.HighestTierAllowed != nil {
			s += fmt.Sprintf(":%d", *nt.HighestTierAllowed)
		}
		words = append(words, s)
	}
	return strings.Join(words, " ")
}

// The life of a PodGroup: made, named by the pods, changed with the newest pod,
// left alone otherwise, deleted with the last pod of an owner that runs nothing.
func TestLife(t *testing.T) {
	t.Parallel()
	owner := &Owner{Kind: "ReplicaSet", UID: "owner", Annotations: map[string]string{"volcano.sh/x": "1"}, Most: 3, Keeps: true}
	old, young := somePod("old", time.Hour, map[string]string{"scheduling.volcano.sh/queue-name": "old"}), somePod("young", 0, nil)
	ended := somePod("ended", 0, nil)
	ended.Status.Phase = corev1.PodSucceeded
	in := Input{Name: "podgroup-owner", Pods: []*corev1.Pod{old, young, ended}, Owner: owner, Inherit: true, NamespaceQueue: "first"}
	out := Next(in)
	if text(out.Create) != "min=1 queue=first cpu=2 volcano.sh/x=1" || len(out.Annotate) != 2 || out.Annotate[0] != old {
		t.Fatalf("%s, annotate %d", text(out.Create), len(out.Annotate))
	}
	pg := out.Create
	pg.Annotations["isthmus.sh/nomination"], pg.Annotations["volcano.sh/job-allocated-hypernode"] = "kept", "kept"
	pg.Status.Phase = scheduling.PodGroupRunning
	young.Annotations = map[string]string{"scheduling.k8s.io/group-name": "podgroup-owner"}
	old.Annotations["scheduling.k8s.io/group-name"] = "podgroup-owner"
	in.PodGroup, in.NamespaceQueue = pg, "second"
	if out := Next(in); !reflect.DeepEqual(out, Output{}) {
		t.Errorf("nothing changed: %+v, %s", out, text(out.Update))
	}
	owner.Annotations = map[string]string{"volcano.sh/y": "2", "scheduling.volcano.sh/group-min-member": "2"}
	if out := Next(in); text(out.Update) != "min=2 queue=first cpu=4 isthmus.sh/nomination=kept volcano.sh/job-allocated-hypernode=kept volcano.sh/y=2" || out.Update.Status.Phase != scheduling.PodGroupRunning {
		t.Errorf("the owner changed: %s", text(out.Update))
	}
	for name, c := range map[string]struct {
		pods []*corev1.Pod
		most int32
		want bool
	}{
		"scaled to nothing":    {most: 0, want: true},
		"pods are on the way":  {most: 3},
		"a pod is left":        {pods: []*corev1.Pod{young}, most: 0},
		"what ended is told":   {pods: []*corev1.Pod{ended}, most: 0},
		"nothing but the dead": {pods: []*corev1.Pod{ended}, most: 3},
	} {
		owner.Most = c.most
		if out := Next(Input{Name: in.Name, Pods: c.pods, Owner: owner, PodGroup: pg}); out.Delete != c.want {
			t.Errorf("%s: delete %v", name, out.Delete)
		}
	}
	pg.OwnerReferences[0].UID = "other"
	out = Next(in)
	if len(out.Notices) != 1 || out.Notices[0].Reason != "NameTaken" || out.Update != nil || out.Create != nil {
		t.Errorf("a stranger's: %+v", out)
	}
	pg.DeletionTimestamp = ptr.To(metav1.NewTime(day))
	if out := Next(in); !reflect.DeepEqual(out, Output{}) {
		t.Errorf("on its way out: %+v", out)
	}
}
