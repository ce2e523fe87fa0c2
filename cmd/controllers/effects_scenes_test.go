package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"strconv"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/certificate"
	"github.com/isthmus-hpc/isthmus/controllers/cronjob"
	"github.com/isthmus-hpc/isthmus/controllers/hypernode"
	"github.com/isthmus-hpc/isthmus/controllers/job"
	"github.com/isthmus-hpc/isthmus/controllers/jobflow"
	"github.com/isthmus-hpc/isthmus/controllers/podgroup"
	"github.com/isthmus-hpc/isthmus/controllers/queue"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// scene is one story that some controllers tell.
type scene struct {
	name string
	with []string // controllers
	// long is how many steps of 20 s it takes.
	long  int
	begin func(*miniature)
	// steps are what users do before a step, by its number from 1.
	steps map[int]func(*miniature)
	// script is of pods that run; they succeed without one.
	script func(*corev1.Pod) (corev1.PodPhase, int32)
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{SchedulerName: "volcano", Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}
}

func taskOf(name string, replicas int32) batch.TaskSpec {
	return batch.TaskSpec{Name: name, Replicas: replicas, Template: corev1.PodTemplateSpec{Spec: podSpec()}}
}

// jobOf is a Job a of two pods, changed.
func jobOf(change func(*batch.JobSpec)) func(*miniature) {
	return func(m *miniature) {
		j := &batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}, Spec: batch.JobSpec{Tasks: []batch.TaskSpec{taskOf("w", 2)}}}
		if change != nil {
			change(&j.Spec)
		}
		m.create(j)
	}
}

func on(event bus.Event, action bus.Action) []batch.LifecyclePolicy {
	return []batch.LifecyclePolicy{{Event: event, Action: action}}
}

func forever(*corev1.Pod) (corev1.PodPhase, int32) { return corev1.PodRunning, 0 }

// failsOnce has a pod fail the first time, while the others run on.
func failsOnce(name string) func(*corev1.Pod) (corev1.PodPhase, int32) {
	return func(p *corev1.Pod) (corev1.PodPhase, int32) {
		switch {
		case p.Annotations[batch.JobRetryCountKey] != "0":
			return corev1.PodSucceeded, 0
		case p.Name == name:
			return corev1.PodFailed, 3
		}
		return corev1.PodRunning, 0
	}
}

func order(name string, action bus.Action) func(*miniature) {
	return func(m *miniature) {
		var target client.Object = &batch.Job{}
		gvk, namespace := batch.SchemeGroupVersion.WithKind("Job"), "ns"
		of := "a"
		if action == bus.CloseQueueAction || action == bus.OpenQueueAction {
			target, gvk, namespace, of = &scheduling.Queue{}, scheduling.SchemeGroupVersion.WithKind("Queue"), "", "parent"
		}
		if err := m.api.Get(m.t.Context(), client.ObjectKey{Namespace: namespace, Name: of}, target); err != nil {
			m.t.Fatal(err)
		}
		m.create(&bus.Command{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Action: string(action), TargetObject: metav1.NewControllerRef(target, gvk)})
	}
}

func hasReplicas(n int32) func(*miniature) {
	return func(m *miniature) {
		edit(m, &batch.Job{}, "a", func(j *batch.Job) { j.Spec.Tasks[0].Replicas = n; j.Spec.MinAvailable = n })
	}
}

// scenes go through every write that the controllers have.
func scenes(t *testing.T) []scene {
	t.Helper()
	key, err := sshd.NewKey(sshd.ED25519) // one for all runs: to make one takes longer than a run
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{"--ssh-private-key=" + string(key.PEM), "--ssh-public-key=" + key.Public()}
	jobs, flows, crons, groups := []string{job.Name}, []string{job.Name, jobflow.Name, jobflow.TemplatesName}, []string{job.Name, cronjob.Name}, []string{podgroup.Name}
	return append(dataScenes(), []scene{
		{name: "RestartJob, with objects of plugins, a claim and a time to live", with: jobs, long: 18, script: failsOnce("a-w-1"), begin: jobOf(func(s *batch.JobSpec) {
			s.Policies = on(bus.PodFailedEvent, bus.RestartJobAction)
			s.Plugins = map[string][]string{"svc": {}, "ssh": keys, "env": {}}
			s.Volumes = []batch.VolumeSpec{{MountPath: "/data", VolumeClaim: &corev1.PersistentVolumeClaimSpec{}}}
			s.TTLSecondsAfterFinished = ptr.To[int32](60)
		})},
		{name: "RestartTask", with: jobs, long: 13, script: failsOnce("a-w-1"), begin: jobOf(func(s *batch.JobSpec) {
			s.Tasks = append(s.Tasks, taskOf("x", 1))
			s.Tasks[0].Policies = on(bus.PodFailedEvent, bus.RestartTaskAction)
		}), steps: map[int]func(*miniature){9: succeed("a-x-0")}},
		{name: "RestartPod", with: jobs, long: 13, script: failsOnce("a-w-1"), begin: jobOf(func(s *batch.JobSpec) {
			s.Policies = on(bus.PodFailedEvent, bus.RestartPodAction)
		}), steps: map[int]func(*miniature){9: succeed("a-w-0")}},
		{name: "RestartPartition", with: jobs, long: 13, script: failsOnce("a-w-3"), begin: jobOf(func(s *batch.JobSpec) {
			s.Tasks[0].Replicas, s.Tasks[0].PartitionPolicy = 4, &batch.PartitionPolicySpec{TotalPartitions: 2, PartitionSize: 2}
			s.Policies = on(bus.PodFailedEvent, bus.RestartPartitionAction)
		}), steps: map[int]func(*miniature){9: succeed("a-w-0", "a-w-1")}},
		{name: "retries are used up", with: jobs, long: 14, begin: jobOf(func(s *batch.JobSpec) {
			s.MaxRetry, s.Policies = 2, on(bus.PodFailedEvent, bus.RestartJobAction)
		}), script: func(*corev1.Pod) (corev1.PodPhase, int32) { return corev1.PodFailed, 1 }},
		{name: "abort and resume", with: jobs, long: 16, begin: jobOf(nil), script: func(p *corev1.Pod) (corev1.PodPhase, int32) {
			if p.Annotations[batch.JobRetryCountKey] == "0" {
				return corev1.PodRunning, 0
			}
			return corev1.PodSucceeded, 0
		}, steps: map[int]func(*miniature){5: order("stop", bus.AbortJobAction), 9: order("go", bus.ResumeJobAction)}},
		{name: "two commands at once, and one for a job that is no more", with: jobs, long: 10, begin: jobOf(nil), script: forever, steps: map[int]func(*miniature){
			5: func(m *miniature) {
				order("one", bus.RestartJobAction)(m)
				order("two", bus.RestartJobAction)(m)
				m.create(&bus.Command{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "late"}, Action: string(bus.AbortJobAction),
					TargetObject: &metav1.OwnerReference{APIVersion: batch.SchemeGroupVersion.String(), Kind: "Job", Name: "gone", UID: "x"}})
			},
		}},
		{name: "TerminateJob", with: jobs, long: 9, script: failsOnce("a-w-1"), begin: jobOf(func(s *batch.JobSpec) { s.Policies = on(bus.PodFailedEvent, bus.TerminateJobAction) })},
		{name: "CompleteJob", with: jobs, long: 10, begin: jobOf(func(s *batch.JobSpec) {
			s.Tasks = append(s.Tasks, taskOf("x", 1))
			s.Tasks[1].Policies = on(bus.TaskCompletedEvent, bus.CompleteJobAction)
		}), script: func(p *corev1.Pod) (corev1.PodPhase, int32) {
			if p.Name == "a-x-0" {
				return corev1.PodSucceeded, 0
			}
			return corev1.PodRunning, 0
		}},
		{name: "dependsOn", with: jobs, long: 10, begin: jobOf(func(s *batch.JobSpec) {
			s.Tasks = append(s.Tasks, taskOf("x", 1))
			s.Tasks[1].DependsOn = &batch.DependsOn{Name: []string{"w"}}
		})},
		{name: "scaled up and down", with: jobs, long: 10, script: forever, begin: jobOf(func(s *batch.JobSpec) { s.Plugins = map[string][]string{"svc": {}} }),
			steps: map[int]func(*miniature){5: hasReplicas(4), 8: hasReplicas(1)}},
		{name: "an evicted pod is replaced", with: jobs, long: 9, script: forever, begin: jobOf(nil), steps: map[int]func(*miniature){5: func(m *miniature) {
			if err := m.api.Delete(m.t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a-w-0"}}); err != nil {
				m.t.Fatal(err)
			}
		}}},
		{name: "a PodGroup of Volcano is taken over", with: jobs, long: 7, begin: func(m *miniature) {
			jobOf(nil)(m)
			j := &batch.Job{}
			edit(m, j, "a", func(*batch.Job) {})
			m.create(&scheduling.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a-" + string(j.UID),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(j, batch.SchemeGroupVersion.WithKind("Job"))}},
				Spec: scheduling.PodGroupSpec{MinMember: 2, Queue: "default"}})
		}},
		{name: "JobFlow, whose Jobs go at the end", with: flows, long: 17, script: forever, begin: flowOf(t),
			steps: map[int]func(*miniature){8: succeed("f-first-w-0"), 12: succeed("f-second-w-0")}},
		{name: "JobFlow whose second Job is queued early", with: flows, long: 14, script: forever, begin: early,
			steps: map[int]func(*miniature){8: succeed("f-first-w-0"), 12: succeed("f-second-w-0")}},
		{name: "CronJob that replaces", with: crons, long: 10, script: forever, begin: cronOf(batch.ReplaceConcurrent)},
		{name: "CronJob with a history", with: crons, long: 16, begin: cronOf(batch.ForbidConcurrent)},
		{name: "PodGroups of pods and owners", with: groups, long: 7, script: forever, begin: plainPods, steps: map[int]func(*miniature){
			3: func(m *miniature) {
				edit(m, &appsv1.ReplicaSet{}, "rs", func(o *appsv1.ReplicaSet) { o.Annotations[scheduling.VolcanoGroupMinMemberAnnotationKey] = "1" })
			},
			5: func(m *miniature) {
				edit(m, &appsv1.ReplicaSet{}, "rs", func(o *appsv1.ReplicaSet) { o.Spec.Replicas = ptr.To[int32](0) })
				for _, name := range []string{"replica-0", "replica-1"} {
					if err := m.api.Delete(m.t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}); err != nil {
						m.t.Fatal(err)
					}
				}
			}}},
		{name: "queues close and open with their parent", with: []string{queue.Name}, long: 8, begin: queues, steps: map[int]func(*miniature){
			2: order("close", bus.CloseQueueAction), 5: order("open", bus.OpenQueueAction)}},
		{name: "HyperNodes", with: []string{hypernode.Name}, long: 4, begin: nodes, steps: map[int]func(*miniature){
			2: func(m *miniature) {
				edit(m, &corev1.Node{}, "n1", func(n *corev1.Node) { n.Labels["rack"] = "r9" })
			},
			3: func(m *miniature) {
				for _, name := range []string{"n1", "n2"} {
					edit(m, &corev1.Node{}, name, func(n *corev1.Node) { delete(n.Labels, "zone"); delete(n.Labels, "rack") })
				}
			}}},
		{name: "a certificate of a virtual node", with: []string{certificate.Name}, long: 2, begin: requestOf(t)},
	}...)
}

// succeed ends pods that run.
func succeed(names ...string) func(*miniature) {
	return func(m *miniature) {
		for _, name := range names {
			edit(m, &corev1.Pod{}, name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		}
	}
}

func flowOf(t *testing.T) func(*miniature) {
	t.Helper()
	var listening net.ListenConfig
	l, err := listening.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	_, text, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return func(m *miniature) {
		for _, name := range []string{"first", "second"} {
			m.create(&flow.JobTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: batch.JobSpec{Tasks: []batch.TaskSpec{taskOf("w", 1)}}})
		}
		m.create(&flow.JobFlow{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "f"}, Spec: flow.JobFlowSpec{JobRetainPolicy: flow.Delete, Flows: []flow.Flow{
			{Name: "first"}, {Name: "second", DependsOn: &flow.DependsOn{Targets: []string{"first"}, Probe: &flow.Probe{TcpSocketList: []flow.TcpSocket{{TaskName: "w", Port: port}}}}}}}})
	}
}

func early(m *miniature) {
	m.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-0", Labels: map[string]string{wellknown.Cluster: "hpc"}}})
	for _, name := range []string{"first", "second"} {
		m.create(&flow.JobTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: batch.JobSpec{Tasks: []batch.TaskSpec{taskOf("w", 1)}}})
	}
	m.create(&flow.JobFlow{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "f", Annotations: map[string]string{wellknown.QueueEarly: "true"}},
		Spec: flow.JobFlowSpec{JobRetainPolicy: flow.Retain, Flows: []flow.Flow{
			{Name: "first"}, {Name: "second", DependsOn: &flow.DependsOn{Targets: []string{"first"}}}}}})
}

func cronOf(policy batch.ConcurrencyPolicy) func(*miniature) {
	return func(m *miniature) {
		m.create(&batch.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Spec: batch.CronJobSpec{Schedule: "* * * * *", ConcurrencyPolicy: policy,
			SuccessfulJobsHistoryLimit: ptr.To[int32](1), JobTemplate: batch.JobTemplateSpec{Spec: batch.JobSpec{Tasks: []batch.TaskSpec{taskOf("w", 1)}}}}})
	}
}

func plainPods(m *miniature) {
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rs", Annotations: map[string]string{scheduling.VolcanoGroupMinMemberAnnotationKey: "2"}},
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2)}}
	m.create(rs)
	for _, name := range []string{"replica-0", "replica-1"} {
		m.create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}}, Spec: podSpec()})
	}
	m.create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "plain"}, Spec: podSpec()})
}

func queues(m *miniature) {
	for _, q := range [][2]string{{"parent", "root"}, {"child", "parent"}} {
		m.create(&scheduling.Queue{ObjectMeta: metav1.ObjectMeta{Name: q[0]}, Spec: scheduling.QueueSpec{Weight: 1, Parent: q[1]},
			Status: scheduling.QueueStatus{State: scheduling.QueueStateOpen}})
	}
	m.create(&scheduling.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g"}, Spec: scheduling.PodGroupSpec{MinMember: 1, Queue: "child"}})
}

func nodes(m *miniature) {
	for _, n := range [][3]string{{"n1", "r1", "z"}, {"n2", "r2", "z"}, {"n3", "r3", "y"}} {
		m.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n[0], Labels: map[string]string{"rack": n[1], "zone": n[2]}}})
	}
}

// vnodeUser is the virtual kubelet of the miniature.
const vnodeUser = "system:serviceaccount:isthmus-system:isthmus-vnode"

func requestOf(t *testing.T) func(*miniature) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:v", Organization: []string{"system:nodes"}}, IPAddresses: []net.IP{net.ParseIP("10.1.2.3")}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return func(m *miniature) {
		m.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "v", Labels: map[string]string{wellknown.VirtualNode: "true"}}, Spec: corev1.NodeSpec{ProviderID: "isthmus://hpc/v"},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.1.2.3"}}}})
		m.create(&certificates.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificates.CertificateSigningRequestSpec{
			SignerName: certificates.KubeletServingSignerName, Username: vnodeUser, Usages: []certificates.KeyUsage{certificates.UsageServerAuth},
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}})
	}
}
