package main

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/certificate"
	"github.com/isthmus-hpc/isthmus/controllers/cronjob"
	"github.com/isthmus-hpc/isthmus/controllers/dataset"
	"github.com/isthmus-hpc/isthmus/controllers/hypernode"
	"github.com/isthmus-hpc/isthmus/controllers/job"
	"github.com/isthmus-hpc/isthmus/controllers/jobflow"
	"github.com/isthmus-hpc/isthmus/controllers/podgroup"
	"github.com/isthmus-hpc/isthmus/controllers/queue"
)

// everyKind is what a miniature may hold.
func everyKind() []schema.GroupVersionKind {
	var out []schema.GroupVersionKind
	for _, of := range []struct {
		group schema.GroupVersion
		kinds []string
	}{
		{corev1.SchemeGroupVersion, []string{"Namespace", "Node", "Pod", "Service", "ConfigMap", "Secret", "PersistentVolumeClaim"}},
		{networking.SchemeGroupVersion, []string{"NetworkPolicy"}},
		{appsv1.SchemeGroupVersion, []string{"ReplicaSet"}},
		{certificates.SchemeGroupVersion, []string{"CertificateSigningRequest"}},
		{batch.SchemeGroupVersion, []string{"Job", "CronJob"}},
		{scheduling.SchemeGroupVersion, []string{"PodGroup", "Queue"}},
		{bus.SchemeGroupVersion, []string{"Command"}},
		{flow.SchemeGroupVersion, []string{"JobFlow", "JobTemplate"}},
		{topology.SchemeGroupVersion, []string{"HyperNode"}},
		{hpc.GroupVersion, []string{"Dataset"}},
	} {
		for _, kind := range of.kinds {
			out = append(out, of.group.WithKind(kind))
		}
	}
	return out
}

// keys are what a controller is to look at. One that is not known here fails the
// test, so that a new controller does not hide.
func (m *miniature) keys(controller string) []types.NamespacedName {
	m.t.Helper()
	var out []types.NamespacedName
	add := func(o client.Object) { out = append(out, client.ObjectKeyFromObject(o)) }
	switch controller {
	case queue.Name, hypernode.Name:
		return []types.NamespacedName{{Name: "all"}}
	case job.Name:
		for _, o := range list[batch.JobList](m).Items {
			add(&o)
		}
		for _, c := range list[bus.CommandList](m).Items {
			if c.TargetObject != nil && c.TargetObject.Kind == "Job" {
				out = append(out, types.NamespacedName{Namespace: c.Namespace, Name: c.TargetObject.Name})
			}
		}
	case podgroup.Name:
		for _, p := range list[corev1.PodList](m).Items {
			if p.Spec.SchedulerName == "volcano" && metav1.GetControllerOfNoCopy(&p) == nil || strings.HasPrefix(p.Name, "replica") {
				out = append(out, types.NamespacedName{Namespace: p.Namespace, Name: podgroup.GroupName(&p)})
			}
		}
		for _, g := range list[scheduling.PodGroupList](m).Items {
			if strings.HasPrefix(g.Name, batch.PodgroupNamePrefix) {
				add(&g)
			}
		}
	case cronjob.Name:
		for _, o := range list[batch.CronJobList](m).Items {
			add(&o)
		}
	case jobflow.Name:
		for _, o := range list[flow.JobFlowList](m).Items {
			add(&o)
		}
	case jobflow.TemplatesName:
		for _, o := range list[flow.JobTemplateList](m).Items {
			add(&o)
		}
	case dataset.Name:
		for _, o := range list[hpc.DatasetList](m).Items {
			add(&o)
		}
	case certificate.Name:
		for _, o := range list[certificates.CertificateSigningRequestList](m).Items {
			add(&o)
		}
	default:
		m.t.Fatalf("what controller %s looks at is not known to the test", controller)
	}
	slices.SortFunc(out, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

// create makes an object as its user does.
func (m *miniature) create(o client.Object) {
	m.t.Helper()
	if err := m.api.Create(m.t.Context(), o); err != nil {
		m.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
}

// edit changes an object as its user does.
func edit[T client.Object](m *miniature, o T, name string, change func(T)) {
	m.t.Helper()
	namespace := "ns"
	switch any(o).(type) {
	case *scheduling.Queue, *corev1.Node:
		namespace = ""
	}
	if err := m.api.Get(m.t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, o); err != nil {
		m.t.Fatal(err)
	}
	change(o)
	o.SetGeneration(o.GetGeneration() + 1)
	if err := m.api.Update(m.t.Context(), o); err != nil {
		m.t.Fatal(err)
	}
}

// play is what the rest of a cluster does in one step: garbage goes, pods end that
// are deleted, a PodGroup is admitted, a pod is bound, runs, and ends by the script.
func (m *miniature) play(script func(*corev1.Pod) (corev1.PodPhase, int32)) {
	m.t.Helper()
	m.collect()
	ctx := m.t.Context()
	must := func(err error) {
		if err != nil {
			m.t.Fatal(err)
		}
	}
	for _, g := range list[scheduling.PodGroupList](m).Items {
		if g.Status.Phase == "" || g.Status.Phase == scheduling.PodGroupPending {
			g.Status.Phase = scheduling.PodGroupInqueue
			must(m.api.Update(ctx, &g))
		}
	}
	for _, p := range list[corev1.PodList](m).Items {
		switch {
		case p.DeletionTimestamp != nil:
			p.Finalizers = nil
		case p.Spec.NodeName == "":
			p.Spec.NodeName = "node-0"
			if p.Annotations[wellknown.QueueEarly] == "true" {
				p.Annotations[wellknown.GangAttempt], p.Annotations[wellknown.GangSize] = "of "+string(p.UID), "1"
			}
		case p.Status.Phase == corev1.PodPending && m.behind(&p):
			continue
		case p.Status.Phase == corev1.PodPending:
			p.Status.Phase = corev1.PodRunning
			p.Status.PodIP = "127.0.0.1"
		case p.Status.Phase == corev1.PodRunning:
			phase, code := script(&p)
			if phase == corev1.PodRunning {
				continue
			}
			p.Status.Phase = phase
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(m.now)}}}}
		default:
			continue
		}
		must(m.api.Update(ctx, &p))
	}
}

// behind reports whether a pod's batch job waits for that of another pod.
func (m *miniature) behind(p *corev1.Pod) bool {
	after := p.Annotations[wellknown.After]
	return after != "" && !slices.ContainsFunc(list[corev1.PodList](m).Items, func(o corev1.Pod) bool {
		return o.Annotations[wellknown.GangAttempt] == after && o.Status.Phase == corev1.PodSucceeded
	})
}

// collect deletes what has lost its owner.
func (m *miniature) collect() {
	m.t.Helper()
	for again := true; again; {
		again = false
		all := m.objects()
		there := map[types.UID]bool{}
		for _, o := range all {
			there[o.GetUID()] = true
		}
		for _, o := range all {
			owner := metav1.GetControllerOfNoCopy(o)
			if owner == nil || there[owner.UID] || o.GetDeletionTimestamp() != nil {
				continue
			}
			if err := m.api.Delete(m.t.Context(), o); err != nil {
				m.t.Fatal(err)
			}
			again = true
		}
	}
}
