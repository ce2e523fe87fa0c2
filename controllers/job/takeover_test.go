package job_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/env"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/mpi"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/ssh"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/svc"
)

// A Job of Volcano's controllers, which restarted it once, with all that they make
// of it, goes on under these: nothing of it is deleted or made again. A pod that
// fails then restarts it, once, with its ssh Secret as it is; it completes.
func TestJobOfVolcanoGoesOn(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	j, before := volcanoJob(t, ns)
	var fails, ends atomic.Bool
	plane.Play(t, ns, func(pod *corev1.Pod) (corev1.PodPhase, int32) {
		switch {
		case fails.Load() && pod.Name == "taken-worker-1" && pod.Annotations[batch.JobVersion] == "1":
			return corev1.PodFailed, 3
		case ends.Load():
			return corev1.PodSucceeded, 0
		}
		return corev1.PodRunning, 0
	})
	log := &writes{}
	gate := controllertest.NewGate()
	gate.Decide = log.note
	watched := *plane
	watched.Config = rest.CopyConfig(plane.Config)
	watched.Config.Wrap(gate.Wrap)
	startOn(t, &watched, ns, plugins.Set{env.Factory(), svc.Factory(), ssh.Factory(), mpi.Factory()})

	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		pg, err := podGroupOf(ctx, j)
		if err != nil {
			return err.Error()
		}
		if pg.Annotations[batch.JobVersion] != "1" || pg.Annotations["team"] != "physics" {
			return fmt.Sprintf("annotations of the PodGroup %v", pg.Annotations)
		}
		return ""
	})
	got := waitPhase(t, j, batch.Running)
	if st := got.Status; st.Version != 1 || st.RetryCount != 1 || st.Running != 3 || len(st.Conditions) != len(j.Status.Conditions) ||
		!maps.Equal(st.ControlledResources, j.Status.ControlledResources) {
		t.Errorf("taken over: %+v", st)
	}
	if now := held(t, ns); !maps.Equal(now, before) {
		t.Fatalf("there was %v, there is %v", before, now)
	}
	if deleted := log.of(http.MethodDelete); len(deleted) > 0 {
		t.Fatalf("deleted: %v", deleted)
	}

	fails.Store(true)
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(j), got); err != nil {
			return err.Error()
		}
		if st := got.Status; st.Version != 2 || st.State.Phase != batch.Running {
			return fmt.Sprintf("status %+v", st)
		}
		return ""
	})
	if got.Status.RetryCount != 2 {
		t.Errorf("%d retries, want the one before and one more", got.Status.RetryCount)
	}
	after := held(t, ns)
	for name, uid := range before {
		again := strings.HasPrefix(name, "Pod") // pods and the PodGroup
		if after[name] == "" || (after[name] != uid) != again {
			t.Errorf("%s was %s and is %s", name, uid, after[name])
		}
	}
	if len(after) != len(before) {
		t.Errorf("there was %v, there is %v", before, after)
	}
	for _, pod := range podsOf(t.Context(), t, ns) {
		if pod.Annotations[batch.JobRetryCountKey] != "2" {
			t.Errorf("pod %s is of retry %s", pod.Name, pod.Annotations[batch.JobRetryCountKey])
		}
		checkSSH(t, &pod)
	}
	ends.Store(true)
	st := waitPhase(t, j, batch.Completed).Status
	var phases []string
	for _, c := range st.Conditions {
		phases = append(phases, string(c.Status))
	}
	if got := strings.Join(phases, " "); got != "Pending Running Restarting Pending Running Restarting Pending Running Completed" || st.Succeeded != 3 || st.RetryCount != 2 {
		t.Errorf("phases %s, status %+v", got, st)
	}
	deleted := log.of(http.MethodDelete)
	want := []string{"podgroups/" + j.Name + "-" + string(j.UID), "pods/taken-master-0", "pods/taken-worker-0", "pods/taken-worker-1"}
	if !slices.Equal(deleted, want) {
		t.Errorf("deleted %v, want %v", deleted, want)
	}
}

// checkSSH looks for what a pod mounts of the Secret that Volcano made.
func checkSSH(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	for i := range pod.Spec.Volumes {
		s := pod.Spec.Volumes[i].Secret
		if s == nil {
			continue
		}
		var files []string
		for _, item := range s.Items {
			files = append(files, item.Key)
		}
		slices.Sort(files)
		if got := strings.Join(files, " "); s.SecretName != "taken-ssh" || got != "authorized_keys config id_rsa id_rsa.pub" {
			t.Errorf("pod %s mounts %s of %s, and the kubelet would wait for what is not there", pod.Name, got, s.SecretName)
		}
		return
	}
	t.Errorf("pod %s mounts no Secret", pod.Name)
}

// writes are the objects that a program wrote to, by method.
type writes struct {
	mu  sync.Mutex
	all map[string]map[string]bool
}

func (w *writes) note(_ int, method, path string) controllertest.Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[string]map[string]bool{}
	}
	if w.all[method] == nil {
		w.all[method] = map[string]bool{}
	}
	parts := strings.Split(path, "/")
	w.all[method][strings.Join(parts[max(0, len(parts)-2):], "/")] = true
	return controllertest.None
}

func (w *writes) of(method string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.all[method]))
}

// held are the objects of a job, by kind and name, with their UIDs.
func held(t *testing.T, ns string) map[string]types.UID {
	t.Helper()
	out := map[string]types.UID{}
	note := func(kind string, o client.Object) {
		if metav1.GetControllerOf(o) != nil {
			out[kind+" "+o.GetName()] = o.GetUID()
		}
	}
	var pods corev1.PodList
	var groups scheduling.PodGroupList
	var secrets corev1.SecretList
	var configs corev1.ConfigMapList
	var services corev1.ServiceList
	var policies networking.NetworkPolicyList
	var claims corev1.PersistentVolumeClaimList
	for _, list := range []client.ObjectList{&pods, &groups, &secrets, &configs, &services, &policies, &claims} {
		if err := plane.Client.List(t.Context(), list, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range pods.Items {
		note("Pod", &pods.Items[i])
	}
	for i := range groups.Items {
		note("PodGroup", &groups.Items[i])
	}
	for i := range secrets.Items {
		note("Secret", &secrets.Items[i])
	}
	for i := range configs.Items {
		note("ConfigMap", &configs.Items[i])
	}
	for i := range services.Items {
		note("Service", &services.Items[i])
	}
	for i := range policies.Items {
		note("NetworkPolicy", &policies.Items[i])
	}
	for i := range claims.Items {
		note("PersistentVolumeClaim", &claims.Items[i])
	}
	return out
}

// volcanoJob makes a running Job as Volcano's controllers leave it, one master and
// two workers that were restarted once, with all that belongs to it.
func volcanoJob(t *testing.T, ns string) (j *batch.Job, objects map[string]types.UID) {
	t.Helper()
	const claim = "taken-volume-0123456789ab"
	j = newJob(ns, "taken", 1)
	j.Annotations = map[string]string{"team": "physics"}
	spec := &j.Spec
	spec.Queue, spec.SchedulerName, spec.MaxRetry, spec.MinAvailable = "default", "volcano", 3, 3
	spec.Plugins = map[string][]string{"env": {}, "svc": {}, "ssh": {}, "mpi": {}}
	spec.Policies = []batch.LifecyclePolicy{{Event: bus.PodFailedEvent, Action: bus.RestartJobAction}}
	// Volcano writes the name that it chose into the spec.
	spec.Volumes = []batch.VolumeSpec{{MountPath: "/data", VolumeClaimName: claim, VolumeClaim: &corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": mustParse("1Gi")}}}}}
	spec.Tasks[0].Name, spec.Tasks[0].MinAvailable = "master", ptr.To[int32](1)
	spec.Tasks = append(spec.Tasks, *spec.Tasks[0].DeepCopy())
	spec.Tasks[1].Name, spec.Tasks[1].Replicas, spec.Tasks[1].MinAvailable = "worker", 2, ptr.To[int32](2)
	create(t, j)
	at := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	j.Status = batch.JobStatus{
		State: batch.JobState{Phase: batch.Running, LastTransitionTime: at}, MinAvailable: 3, Running: 3, Version: 1, RetryCount: 1,
		TaskStatusCount: map[string]batch.TaskState{
			"master": {Phase: map[corev1.PodPhase]int32{corev1.PodRunning: 1}}, "worker": {Phase: map[corev1.PodPhase]int32{corev1.PodRunning: 2}}},
		ControlledResources: map[string]string{"plugin-env": "env", "plugin-svc": "svc", "plugin-ssh": "ssh", "plugin-mpi": "mpi", "volume-pvc-" + claim: claim},
	}
	for _, phase := range []batch.JobPhase{batch.Pending, batch.Running, batch.Restarting, batch.Pending, batch.Running} {
		j.Status.Conditions = append(j.Status.Conditions, batch.JobCondition{Status: phase, LastTransitionTime: &at})
	}
	if err := plane.Client.Status().Update(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	own := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: ns, Name: name, OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(j, batch.SchemeGroupVersion.WithKind("Job"))}}
	}
	members := map[string]string{batch.JobNameKey: j.Name, batch.JobNamespaceKey: ns}
	group := &scheduling.PodGroup{ObjectMeta: own(j.Name + "-" + string(j.UID)), Spec: scheduling.PodGroupSpec{
		MinMember: 3, MinTaskMember: map[string]int32{"master": 1, "worker": 2}, Queue: "default",
		MinResources: &corev1.ResourceList{"pods": mustParse("3"), "count/pods": mustParse("3")}},
		Status: scheduling.PodGroupStatus{Phase: scheduling.PodGroupRunning, Running: 3}}
	group.Annotations = maps.Clone(j.Annotations)
	for _, o := range []client.Object{
		group,
		&corev1.Secret{ObjectMeta: own("taken-ssh"), Data: map[string][]byte{"id_rsa": []byte("key"), "id_rsa.pub": []byte("pub"),
			"authorized_keys": []byte("pub"), "config": []byte("StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n")}},
		&corev1.ConfigMap{ObjectMeta: own("taken-svc"), Data: map[string]string{"master.host": "taken-master-0.taken", "VC_MASTER_HOSTS": "taken-master-0.taken",
			"VC_MASTER_NUM": "1", "worker.host": "taken-worker-0.taken\ntaken-worker-1.taken", "VC_WORKER_HOSTS": "taken-worker-0.taken,taken-worker-1.taken", "VC_WORKER_NUM": "2"}},
		&corev1.Service{ObjectMeta: own("taken"), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: members,
			Ports: []corev1.ServicePort{{Name: "placeholder-volcano", Port: 1}}}},
		&networking.NetworkPolicy{ObjectMeta: own("taken"), Spec: networking.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: members}}},
		&corev1.PersistentVolumeClaim{ObjectMeta: own(claim), Spec: *spec.Volumes[0].VolumeClaim},
	} {
		create(t, o)
	}
	for _, task := range []string{"master 0", "worker 0", "worker 1"} {
		name, index, _ := strings.Cut(task, " ")
		pod := &corev1.Pod{ObjectMeta: own("taken-" + name + "-" + index), Spec: *spec.Tasks[0].Template.Spec.DeepCopy()}
		pod.Annotations = map[string]string{scheduling.KubeGroupNameAnnotationKey: group.Name, batch.TaskIndex: index, batch.TaskSpecKey: name, batch.JobNameKey: j.Name,
			batch.QueueNameKey: "default", batch.JobVersion: "1", batch.JobRetryCountKey: "1", batch.PodTemplateKey: string(j.UID) + "-" + name}
		pod.Labels = map[string]string{batch.TaskIndex: index, batch.TaskSpecKey: name, batch.QueueNameKey: "default"}
		maps.Copy(pod.Labels, members)
		pod.Spec.NodeName, pod.Spec.SchedulerName = "fake", "volcano"
		create(t, pod)
		if err := plane.SetPod(t.Context(), pod, corev1.PodRunning, 0); err != nil {
			t.Fatal(err)
		}
	}
	return j, held(t, ns)
}
