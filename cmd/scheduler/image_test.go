package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/test/testbed/fetch"
)

const volcanoNamespace = "volcano-system"

func words(s string) []string { return strings.Fields(s) }

// installation is a cluster with Volcano's kinds, and with Volcano's role, service
// account, arguments and mounted ConfigMap for the scheduler, in which the image is ours.
type installation struct {
	scene
	kubeconfig, conf string
}

func install(t *testing.T, plane *controllertest.Plane, actions string, without ...string) *installation {
	t.Helper()
	in := &installation{scene: scene{plane, plane.Namespace(t)}}
	t.Cleanup(func() { clear(t, plane, in.namespace) })
	err := plane.Client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: volcanoNamespace}})
	if err != nil && !strings.Contains(err.Error(), "already exists") {
		t.Fatal(err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "volcano-scheduler"}, Rules: volcanoRole(without...)}
	bound := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "volcano-scheduler-role"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "volcano-scheduler"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "volcano-scheduler", Namespace: volcanoNamespace}},
	}
	for _, o := range []client.Object{role, bound} {
		in.create(t, o)
		t.Cleanup(func() { _ = plane.Client.Delete(context.WithoutCancel(t.Context()), o) })
	}
	config, err := clientcmd.LoadFromFile(plane.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		user.Impersonate = "system:serviceaccount:" + volcanoNamespace + ":volcano-scheduler"
		user.ImpersonateGroups = []string{"system:serviceaccounts", "system:serviceaccounts:" + volcanoNamespace, "system:authenticated"}
	}
	dir := t.TempDir()
	in.kubeconfig, in.conf = filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "volcano-scheduler.conf")
	if err := clientcmd.WriteToFile(*config, in.kubeconfig); err != nil {
		t.Fatal(err)
	}
	text := "actions: \"" + actions + `"
configurations:
- name: preempt
  arguments: {minimumRunTime: 1ms}
` + schedtest.VolcanoTiers
	if err := os.WriteFile(in.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return in
}

// run starts our program as Volcano's Deployment does its own. Only the addresses are
// others, since many tests run on this machine, and rights are asked for again sooner.
func (in *installation) run(t *testing.T) *runner {
	t.Helper()
	return start(t, in.plane, fate{}, "--kubeconfig="+in.kubeconfig, "--logtostderr", "--scheduler-conf="+in.conf,
		"--enable-healthz=true", "--enable-metrics=true", "--leader-elect=true", "--leader-elect-resource-namespace="+volcanoNamespace,
		"--kube-api-qps=2000", "--kube-api-burst=2000", "--schedule-period=1s", "--node-worker-threads=20",
		"--healthz-address=127.0.0.1:0", "--listen-address=127.0.0.1:0", "--rights-interval=1s", "-v=3", "2>&1")
}

func (in *installation) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := in.plane.Client.Create(t.Context(), o); err != nil {
		t.Fatalf("create %s: %v", o.GetName(), err)
	}
}

// gang makes a gang with a priority class, and says something of its pods.
func (in *installation) urgent(t *testing.T, name, class string, size int) {
	t.Helper()
	in.gang(t, name, nil, make([]string, size)...)
	if class == "" {
		return
	}
	if err := in.plane.Client.Patch(t.Context(), &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: in.namespace, Name: name}},
		client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"priorityClassName":"`+class+`"}}`))); err != nil {
		t.Fatal(err)
	}
}

// runs has pods run, as a kubelet would.
func (in *installation) runs(t *testing.T, pods map[string]*corev1.Pod) {
	t.Helper()
	for _, p := range pods {
		if err := in.plane.SetPod(t.Context(), p, corev1.PodRunning, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// get asks one of the program's servers; what goes wrong is the answer.
func (r *runner) get(t *testing.T, what, path string) string {
	t.Helper()
	address, err := r.serving(what)
	if err != nil {
		return err.Error()
	}
	text, err := fetch.Text(t.Context(), "http://"+address+path)
	if err != nil {
		return err.Error()
	}
	return text
}

// wants waits until something is so.
func (r *runner) wants(t *testing.T, check func(ctx context.Context) string) {
	t.Helper()
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		wrong := check(ctx)
		if wrong != "" {
			wrong += "; the log ends with\n" + r.Tail()
		}
		return wrong
	})
}

func (r *runner) missing(t *testing.T, verb, resource string, n int) {
	t.Helper()
	line := fmt.Sprintf("isthmus_scheduler_rights_missing{resource=%q,verb=%q} %d\n", resource, verb, n)
	r.wants(t, func(context.Context) string {
		if got := r.get(t, "metrics", "/metrics"); !strings.Contains(got, line) {
			return "no " + line
		}
		return ""
	})
}

// TestImageInVolcanosInstallation is the whole promise: with Volcano's role, arguments
// and ConfigMap, and without a kind of ours, our scheduler places gangs, binds volumes,
// makes room by preemption as disruption budgets allow, and writes what it is to write.
func TestImageInVolcanosInstallation(t *testing.T) {
	plane, err := controllertest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)
	for _, kind := range words("batchclusters datasets reservations schedulingprofiles") {
		crd := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": kind + ".hpc.isthmus.sh"}}}
		if err := plane.Client.Delete(t.Context(), crd); err != nil {
			t.Fatal(err)
		}
		controllertest.Eventually(t, patience, func(ctx context.Context) string {
			if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(crd), crd); err == nil {
				return crd.GetName() + " is still served"
			}
			return ""
		})
	}
	if err := plane.StartControllers("persistentvolume-binder-controller"); err != nil {
		t.Fatal(err)
	}
	in := install(t, plane, "enqueue, allocate, preempt, backfill")
	realNode(t, plane, "i-a", "3")
	realNode(t, plane, "i-b", "3")
	r := in.run(t)
	r.leads(t)
	r.wants(t, func(ctx context.Context) string {
		for _, q := range []string{"root", "default"} {
			if err := plane.Client.Get(ctx, client.ObjectKey{Name: q}, &volcanov1.Queue{}); err != nil {
				return err.Error()
			}
		}
		return ""
	})
	if got := r.get(t, "health", "/healthz"); !strings.HasPrefix(got, "ok") {
		t.Errorf("healthz says %q", got)
	}

	// A gang goes Pending, Inqueue, Running.
	for _, name := range words("covered plain-a plain-b") {
		in.urgent(t, name, "", 2)
		in.runs(t, in.placed(t, r, name, 2))
		in.phase(t, r, name, volcanov1.PodGroupRunning)
	}

	// One that fits nowhere is told so on its PodGroup, its pods and as an event.
	in.urgent(t, "waits", "", 1)
	r.wants(t, in.told)

	// Room is made by what no budget covers, though the other would do as well: the
	// budget would allow it, and nobody counts that.
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: in.namespace, Name: "keeps"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MaxUnavailable: ptr.To(intstr.FromInt32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"covered": "yes"}},
	}}
	in.create(t, budget)
	budget.Status = policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 2, ExpectedPods: 2, CurrentHealthy: 2, ObservedGeneration: budget.Generation}
	if err := plane.Client.Status().Update(t.Context(), budget); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: in.namespace, Name: fmt.Sprintf("covered--%d", i)}}
		if err := plane.Client.Patch(t.Context(), p, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"covered":"yes"}}}`))); err != nil {
			t.Fatal(err)
		}
	}
	r.missing(t, "create", "pods/eviction", 1)
	in.create(t, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "urgent"}, Value: 1000})
	in.urgent(t, "first", "urgent", 2)
	r.wants(t, in.gone("plain", 2))
	in.runs(t, in.placed(t, r, "first", 2))
	in.urgent(t, "second", "urgent", 2)
	r.wants(t, in.gone("plain", 2))
	in.runs(t, in.placed(t, r, "second", 2))
	in.placed(t, r, "covered", 2)

	// Once the right is there, budgets are asked.
	in.grant(t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/eviction"}, Verbs: []string{"create"}})
	in.urgent(t, "third", "urgent", 2)
	r.wants(t, in.gone("covered", 2))
	in.runs(t, in.placed(t, r, "third", 2))
	r.missing(t, "create", "pods/eviction", 0)

	// A volume is given to the claim of a pod before that is bound.
	realNode(t, plane, "i-c", "2")
	if err := plane.Client.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "i-c"}},
		client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"`+corev1.LabelHostname+`":"i-c"}}}`))); err != nil {
		t.Fatal(err)
	}
	class := schedtest.StorageClass("later", "kubernetes.io/no-provisioner")
	volume := schedtest.LocalVolume("i-c-disk", "later", "i-c", "2Gi")
	claim := schedtest.VolumeClaim("data", "later", "1Gi")
	class.UID, volume.UID, volume.Status, claim.UID, claim.Namespace = "", "", corev1.PersistentVolumeStatus{}, "", in.namespace
	for _, o := range []client.Object{class, volume, claim} {
		in.create(t, o)
	}
	in.create(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: in.namespace, Name: "claims-0"},
		Spec: corev1.PodSpec{
			SchedulerName: wellknown.SchedulerVolcano, NodeSelector: map[string]string{corev1.LabelHostname: "i-c"},
			Containers: []corev1.Container{{Name: "c", Image: "none"}},
			Volumes:    []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}},
		},
	})
	in.placed(t, r, "claims", 1)

	if n := strings.Count(r.all(t), "WARNING: a right is missing"); n == 0 || n > 8 {
		t.Errorf("%d warnings of missing rights:\n%s", n, r.all(t))
	}
}

func (r *runner) all(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(r.Log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// grant adds a rule to the role.
func (in *installation) grant(t *testing.T, rules ...rbacv1.PolicyRule) {
	t.Helper()
	role := &rbacv1.ClusterRole{}
	if err := in.plane.Client.Get(t.Context(), client.ObjectKey{Name: "volcano-scheduler"}, role); err != nil {
		t.Fatal(err)
	}
	role.Rules = append(role.Rules, rules...)
	if err := in.plane.Client.Update(t.Context(), role); err != nil {
		t.Fatal(err)
	}
}

func (in *installation) phase(t *testing.T, r *runner, name string, want volcanov1.PodGroupPhase) {
	t.Helper()
	r.wants(t, func(ctx context.Context) string {
		var g volcanov1.PodGroup
		if err := in.plane.Client.Get(ctx, client.ObjectKey{Namespace: in.namespace, Name: name}, &g); err != nil {
			return err.Error()
		}
		if g.Status.Phase != want {
			return fmt.Sprintf("PodGroup %s is %s, want %s", name, g.Status.Phase, want)
		}
		return ""
	})
}

// told says what of the gang "waits" is not told yet.
func (in *installation) told(ctx context.Context) string {
	var g volcanov1.PodGroup
	if err := in.plane.Client.Get(ctx, client.ObjectKey{Namespace: in.namespace, Name: "waits"}, &g); err != nil {
		return err.Error()
	}
	if len(g.Status.Conditions) == 0 {
		return "the PodGroup has no condition"
	}
	var p corev1.Pod
	if err := in.plane.Client.Get(ctx, client.ObjectKey{Namespace: in.namespace, Name: "waits--0"}, &p); err != nil {
		return err.Error()
	}
	if len(p.Status.Conditions) == 0 || p.Status.Conditions[0].Reason != corev1.PodReasonUnschedulable {
		return fmt.Sprintf("the pod's conditions are %v", p.Status.Conditions)
	}
	var events corev1.EventList
	if err := in.plane.Client.List(ctx, &events, client.InNamespace(in.namespace)); err != nil {
		return err.Error()
	}
	for _, e := range events.Items {
		if e.InvolvedObject.Name == "waits" {
			return ""
		}
	}
	return "there is no event"
}

// gone says whether all pods of a gang are told to go, and ends them as a kubelet would.
func (in *installation) gone(name string, size int) func(context.Context) string {
	return func(ctx context.Context) string {
		var pods corev1.PodList
		if err := in.plane.Client.List(ctx, &pods, client.InNamespace(in.namespace)); err != nil {
			return err.Error()
		}
		var going []*corev1.Pod
		for i := range pods.Items {
			if p := &pods.Items[i]; strings.HasPrefix(p.Name, name+"-") && p.DeletionTimestamp != nil {
				going = append(going, p)
			}
		}
		if len(going) != size {
			return fmt.Sprintf("%d of %d pods of %s are told to go", len(going), size, name)
		}
		for _, p := range going {
			if err := in.plane.Client.Delete(ctx, p, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
				return err.Error()
			}
		}
		return ""
	}
}

// TestRightsThatComeLater: without a right that nothing is sound without, nothing is decided and
// the log says which; without one that can be done without, the rest goes on.
func TestRightsThatComeLater(t *testing.T) {
	plane := shared(t)
	in := install(t, plane, "enqueue, allocate, backfill", "podgroups", "poddisruptionbudgets", "jobs")
	realNode(t, plane, "l-a", "2")
	in.urgent(t, "g", "", 2)
	r := in.run(t)
	r.missing(t, "list, watch", "podgroups.scheduling.volcano.sh", 1)
	r.missing(t, "list, watch", "poddisruptionbudgets.policy", 1)
	if strings.Contains(r.all(t), "scheduler runs") {
		t.Fatalf("it runs without PodGroups:\n%s", r.all(t))
	}
	in.grant(t, rbacv1.PolicyRule{APIGroups: []string{volcanov1.GroupName}, Resources: []string{"podgroups"}, Verbs: words("list watch update")})
	in.runs(t, in.placed(t, r, "g", 2))
	in.phase(t, r, "g", volcanov1.PodGroupRunning)
	r.missing(t, "list, watch", "podgroups.scheduling.volcano.sh", 0)
	for _, kind := range words("poddisruptionbudgets.policy schedulingprofiles.hpc.isthmus.sh reservations.hpc.isthmus.sh datasets.hpc.isthmus.sh") {
		r.missing(t, "list, watch", kind, 1)
		name, group, _ := strings.Cut(kind, ".")
		if n := strings.Count(r.all(t), `"verbs":"list, watch","resource":"`+kind+`"`); n != 1 {
			t.Errorf("%d warnings about %s:\n%s", n, kind, r.all(t))
		}
		in.grant(t, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{name}, Verbs: words("list watch")})
		r.missing(t, "list, watch", kind, 0)
	}
}
