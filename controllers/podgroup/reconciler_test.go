package podgroup_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/controllers/podgroup"
)

var plane *controllertest.Plane

const patience = time.Minute

func TestMain(m *testing.M) {
	os.Exit(controllertest.Main(m, &plane, (*controllertest.Plane).StartGarbageCollector))
}

func startController(t *testing.T) {
	t.Helper()
	plane.Run(t, ctrl.Options{Cache: cache.Options{DefaultTransform: cache.TransformStripManagedFields(), ByObject: podgroup.Caching()}}, func(ctx context.Context, mgr ctrl.Manager) error {
		r := &podgroup.Reconciler{Client: mgr.GetClient(), Events: mgr.GetEventRecorder(podgroup.Name), Schedulers: []string{"volcano", "isthmus"}, Inherit: true, Workers: 4}
		return r.SetupWithManager(ctx, mgr)
	})
}

func create(t *testing.T, o client.Object) {
	t.Helper()
	if err := plane.Client.Create(t.Context(), o); err != nil {
		t.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
}

func podOf(ns, name string, owner client.Object, kind string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": "x"}},
		Spec:       corev1.PodSpec{SchedulerName: "volcano", Containers: []corev1.Container{{Name: "main", Image: "busybox"}}},
	}
	if owner != nil {
		group := appsv1.SchemeGroupVersion
		if kind == "Job" {
			group = batchv1.SchemeGroupVersion
		}
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, group.WithKind(kind))}
	}
	return p
}

// group waits for a PodGroup that is as it should be, and for the pods to name it.
func group(t *testing.T, ns, name string, pods int, wrong func(*scheduling.PodGroup) string) {
	t.Helper()
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		pg := &scheduling.PodGroup{}
		if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, pg); err != nil {
			return err.Error()
		}
		if text := wrong(pg); text != "" {
			return text
		}
		var list corev1.PodList
		if err := plane.Client.List(ctx, &list, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		named := 0
		for i := range list.Items {
			if list.Items[i].Annotations[scheduling.KubeGroupNameAnnotationKey] == name {
				named++
			}
		}
		if named != pods {
			return fmt.Sprintf("%d pods name PodGroup %s, want %d", named, name, pods)
		}
		return ""
	})
}

func minimum(n int32, queue string) func(*scheduling.PodGroup) string {
	return func(pg *scheduling.PodGroup) string {
		if pg.Spec.MinMember != n || pg.Spec.Queue != queue {
			return fmt.Sprintf("PodGroup %s: %+v", pg.Name, pg.Spec)
		}
		return ""
	}
}

func gone(t *testing.T, ns, name string) {
	t.Helper()
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		pg := &scheduling.PodGroup{}
		if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, pg); !apierrors.IsNotFound(err) {
			return fmt.Sprintf("PodGroup %s: %v %v", name, pg.OwnerReferences, err)
		}
		return ""
	})
}

// Plain pods and the pods of owners of every kind get their PodGroups, which
// follow their owners and go with them.
func TestOwners(t *testing.T) {
	startController(t)
	ns := plane.Namespace(t)
	namespace := &corev1.Namespace{}
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Name: ns}, namespace); err != nil {
		t.Fatal(err)
	}
	namespace.Annotations = map[string]string{scheduling.QueueNameAnnotationKey: "team"}
	if err := plane.Client.Update(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	said := map[string]string{scheduling.VolcanoGroupMinMemberAnnotationKey: "2", "volcano.sh/preemptable": "true"}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: said}
	}

	rs := &appsv1.ReplicaSet{ObjectMeta: meta("rs"), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2), Selector: selector, Template: template}}
	ss := &appsv1.StatefulSet{ObjectMeta: meta("ss"), Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](2), Selector: selector, Template: template}}
	ds := &appsv1.DaemonSet{ObjectMeta: meta("ds"), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}
	jobTemplate := template
	jobTemplate.Spec.RestartPolicy = corev1.RestartPolicyNever
	jb := &batchv1.Job{ObjectMeta: meta("job"), Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](2), Completions: ptr.To[int32](5), Template: jobTemplate}}
	for _, o := range []client.Object{rs, ss, ds, jb} {
		create(t, o)
	}
	for kind, o := range map[string]client.Object{"ReplicaSet": rs, "StatefulSet": ss, "DaemonSet": ds, "Job": jb} {
		for i := range 2 {
			create(t, podOf(ns, fmt.Sprintf("%s-%d", o.GetName(), i), o, kind))
		}
	}
	plain := podOf(ns, "plain", nil, "")
	create(t, plain)
	foreign := podOf(ns, "foreign", nil, "")
	foreign.Spec.SchedulerName = "default-scheduler"
	create(t, foreign)
	grouped := podOf(ns, "grouped", nil, "")
	grouped.Annotations = map[string]string{scheduling.KubeGroupNameAnnotationKey: "mine"}
	create(t, grouped)
	older := podOf(ns, "older-name", nil, "")
	older.Annotations = map[string]string{scheduling.VolcanoGroupNameAnnotationKey: "mine"}
	create(t, older)

	name := func(o client.Object) string { return "podgroup-" + string(o.GetUID()) }
	inherited := func(n int32) func(*scheduling.PodGroup) string {
		return func(pg *scheduling.PodGroup) string {
			if pg.Annotations["volcano.sh/preemptable"] != "true" {
				return fmt.Sprintf("PodGroup %s: annotations %v", pg.Name, pg.Annotations)
			}
			return minimum(n, "team")(pg)
		}
	}
	group(t, ns, name(rs), 2, inherited(2))
	group(t, ns, name(ss), 2, inherited(1)) // it makes them one by one
	group(t, ns, name(ds), 2, inherited(2))
	group(t, ns, name(jb), 2, inherited(2))
	group(t, ns, name(plain), 1, minimum(1, "team"))
	var all scheduling.PodGroupList
	if err := plane.Client.List(t.Context(), &all, client.InNamespace(ns)); err != nil || len(all.Items) != 5 {
		t.Errorf("%d PodGroups, %v", len(all.Items), err)
	}
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		var list eventsv1.EventList
		if err := plane.Client.List(ctx, &list, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		for i := range list.Items {
			if list.Items[i].Reason == "NoGang" {
				return ""
			}
		}
		return "nobody is told why the StatefulSet is no gang"
	})

	// The owner says something else; it runs nothing; it goes.
	changed := rs.DeepCopy()
	changed.Annotations = map[string]string{scheduling.VolcanoGroupMinMemberAnnotationKey: "1", scheduling.QueueNameAnnotationKey: "other", "volcano.sh/preemptable": "true"}
	if err := plane.Client.Patch(t.Context(), changed, client.MergeFrom(rs)); err != nil {
		t.Fatal(err)
	}
	group(t, ns, name(rs), 2, minimum(1, "other"))
	idle := changed.DeepCopy()
	idle.Spec.Replicas = ptr.To[int32](0)
	if err := plane.Client.Patch(t.Context(), idle, client.MergeFrom(changed)); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := plane.Client.Delete(t.Context(), podOf(ns, fmt.Sprintf("rs-%d", i), nil, ""), client.GracePeriodSeconds(0)); err != nil {
			t.Fatal(err)
		}
	}
	gone(t, ns, name(rs))
	for _, o := range []client.Object{jb, plain} {
		if err := plane.Client.Delete(t.Context(), o, client.GracePeriodSeconds(0), client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
			t.Fatal(err)
		}
		gone(t, ns, name(o))
	}
}
