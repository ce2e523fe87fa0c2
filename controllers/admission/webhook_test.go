package admission_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrladmission "sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	admissionv1 "k8s.io/api/admission/v1"
	volcano "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/admission"
	"github.com/isthmus-hpc/isthmus/controllers/admission/servingcert"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/env"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/hcclrank"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/mindspore"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/mpi"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/pytorch"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/ray"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/ssh"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/svc"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/tensorflow"
)

// address is where the webhook is served; serve starts it, and it ends with ctx.
var address string

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

func allPlugins() plugins.Set {
	return plugins.Set{env.Factory(), svc.Factory(), ssh.Factory(), pytorch.Factory(), tensorflow.Factory(), mpi.Factory(), ray.Factory(), hcclrank.Factory(), mindspore.Factory()}
}

// serve runs the webhook until stop.
func serve() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	keeper := &servingcert.Keeper{
		Client: plane.Client, Secret: client.ObjectKey{Namespace: namespace, Name: "isthmus-admission"},
		Validating: "isthmus-volcano", Log: logr.Discard(), Now: time.Now, Every: 200 * time.Millisecond,
	}
	server := &admission.Server{
		Address: address, Certificate: keeper.Certificate, Log: logr.Discard(),
		Validator: &admission.Validator{Live: plane.Client, Plugins: allPlugins()},
	}
	done := make(chan error, 2)
	go func() { done <- keeper.Start(ctx) }()
	go func() { done <- server.Start(ctx) }()
	return func() error {
		cancel()
		return fmt.Errorf("%w%w", <-done, <-done)
	}
}

func chain(tasks ...string) string {
	var out []string
	for _, t := range tasks {
		name, on, _ := strings.Cut(t, "<")
		out = append(out, fmt.Sprintf("{name: %s, replicas: 1, dependsOn: {name: [%s]}, %s}", name, on, pod))
	}
	return jobOf("tasks: [" + strings.Join(out, ", ") + "]")
}

// judged are the rejections that need more than the object.
func judged() []row {
	withPod := func(spec string) string { return "tasks: [{name: a, replicas: 1, template: {spec: {" + spec + "}}}]" }
	return []row{
		{row: "2.7 dependsOn not a DAG", object: chain("a<b", "b<c", "c<a"), wants: `dependsOn`},
		{row: "2.7 mpi without master", object: with("plugins: {mpi: [--master=boss]}"), wants: `spec.plugins[mpi]: Invalid value`},
		{row: "2.6 arguments of a plugin", object: with("plugins: {svc: [--nope]}"), wants: `spec.plugins[svc]: Invalid value: ["--nope"]: bad arguments: flag provided but not defined: -nope`},
		{row: "2.7 bad pod template: names of containers", object: jobOf(withPod("containers: [{name: C_, image: i}]")), wants: `spec.tasks[0].template.spec.containers[0].name: Invalid value: "C_"`},
		{row: "2.7 bad pod template: a mount without volume", object: jobOf(withPod("containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}]")),
			wants: `spec.tasks[0].template.spec.containers[0].volumeMounts[0].name: Not found: "v"`},
		{row: "2.7 queue absent", object: with("queue: nowhere"), wants: `spec.queue: Not found: "nowhere": create it, or name one that is there`},
		{row: "2.7 queue not Open", object: with("queue: shut"), wants: `spec.queue: Invalid value: "shut": must be an open queue, and it is Closed: open it`},
		{row: "2.7 queue not a leaf", object: with("queue: family"), wants: `spec.queue: Invalid value: "family": must be a queue without others beneath it: name one of those: child`},
		{row: "2.9 queue absent", object: object(scheduling, "PodGroup", "queue: nowhere"), wants: `spec.queue: Not found: "nowhere": create it, or name one that is there, such as busy, child`},
		{row: "2.9 queue not Open", object: object(scheduling, "PodGroup", "queue: shut"), wants: `spec.queue: Invalid value: "shut": must be an open queue, and it is Closed: open it`},
		{row: "2.9 queue not a leaf", object: object(scheduling, "PodGroup", "queue: family"), wants: `spec.queue: Invalid value: "family": must be a queue without others beneath it`},
		{row: "2.10 JobTemplate: arguments of a plugin", object: object(flows, "JobTemplate", "plugins: {svc: [--nope]}, "+withPod("containers: [{name: c, image: i}]")), wants: `spec.plugins[svc]`},
		{row: "2.10 CronJob: bad pod template", object: object(batches, "CronJob", "schedule: '* * * * *', jobTemplate: {spec: {"+withPod("containers: [{name: C_, image: i}]")+"}}"),
			wants: `spec.jobTemplate.spec.tasks[0].template.spec.containers[0].name: Invalid value: "C_"`},
		{row: "2.10 CronJob schedule", object: object(batches, "CronJob", "schedule: '99 * * * *', jobTemplate: {spec: {"+withPod("containers: [{name: c, image: i}]")+"}}"), wants: `spec.schedule: Invalid value: "99 * * * *"`},
		{row: "2.10 CronJob time zone", object: object(batches, "CronJob", "schedule: '* * * * *', timeZone: Moon/Sea, jobTemplate: {spec: {"+withPod("containers: [{name: c, image: i}]")+"}}"),
			wants: `spec.timeZone: Invalid value: "Moon/Sea": is no time zone`},
		{row: "2.10 JobFlow not a DAG", object: object(flows, "JobFlow", "flows: [{name: a, dependsOn: {targets: [b]}}, {name: b, dependsOn: {targets: [a]}}]"), wants: `the step depends on itself`},
		{row: "2.10 HyperNode regular expression", object: object(topology, "HyperNode", "tier: 1, members: [{type: Node, selector: {regexMatch: {pattern: '('}}}]"),
			wants: `spec.members[0].selector.regexMatch.pattern: Invalid value: "(": must be a regular expression`},
		{row: "2.10 HyperNode label selector", object: object(topology, "HyperNode", "tier: 1, members: [{type: Node, selector: {labelMatch: {matchExpressions: [{key: a, operator: Near}]}}}]"),
			wants: `spec.members[0].selector.labelMatch`},
		{row: "2.8 parent is there", object: object(scheduling, "Queue", "parent: nowhere"), wants: `spec.parent: Not found: "nowhere"`},
		{row: "2.8 a parent that holds pods", object: object(scheduling, "Queue", "parent: busy"), wants: `spec.parent: Invalid value: "busy": must not hold pods of its own, and it has 2 PodGroups`},
		{row: "2.8 sum of children <= parent: deserved", object: object(scheduling, "Queue", "parent: family, deserved: {cpu: 5}"),
			wants: `spec.deserved[cpu]: Invalid value: "11": queues beneath family (child, thing) must have at most 10 of it together`},
		{row: "2.8 sum of children <= parent: guarantee", object: object(scheduling, "Queue", "parent: family, guarantee: {resource: {cpu: 3}}"),
			wants: `spec.guarantee.resource[cpu]: Invalid value: "3": queues beneath family (child, thing) must have at most 2 of it together`},
		{row: "2.8 capability of a child <= parent", object: object(scheduling, "Queue", "parent: family, capability: {cpu: 21}"),
			wants: `spec.capability[cpu]: Invalid value: "21": queue thing beneath family must have at most its capability (20)`},
	}
}

// standing are the queues that the rows speak of.
func standing(ctx context.Context) error {
	for _, q := range []struct {
		name, spec string
		status     volcano.QueueStatus
	}{
		{"shut", "weight: 1", volcano.QueueStatus{State: volcano.QueueStateClosed}},
		{"busy", "weight: 1", volcano.QueueStatus{State: volcano.QueueStateOpen, Running: 1, Pending: 1}},
		{"family", "capability: {cpu: 20}, deserved: {cpu: 10}, guarantee: {resource: {cpu: 2}}", volcano.QueueStatus{State: volcano.QueueStateOpen}},
		{"child", "parent: family, deserved: {cpu: 6}", volcano.QueueStatus{State: volcano.QueueStateOpen}},
	} {
		o, err := parse(strings.Replace(object(scheduling, "Queue", q.spec), "thing", q.name, 1))
		if err != nil {
			return err
		}
		if err := plane.Client.Create(ctx, o); err != nil {
			return fmt.Errorf("create queue %s: %w", q.name, err)
		}
		var made volcano.Queue
		if err := plane.Client.Get(ctx, client.ObjectKey{Name: q.name}, &made); err != nil {
			return err
		}
		made.Status = q.status
		made.Status.Allocated = corev1.ResourceList{}
		if err := plane.Client.Status().Update(ctx, &made); err != nil {
			return fmt.Errorf("set status of queue %s: %w", q.name, err)
		}
	}
	return nil
}

func TestWebhookRefuses(t *testing.T) {
	for i, r := range judged() {
		t.Run(fmt.Sprintf("%d %s", i, r.row), func(t *testing.T) {
			err := dryRun(t.Context(), "default", r)
			if err == nil || !strings.Contains(err.Error(), r.wants) {
				t.Fatalf("got %v, should say %s", err, r.wants)
			}
			if !apierrors.IsInvalid(err) {
				t.Errorf("it is refused with reason %s", apierrors.ReasonForError(err))
			}
		})
	}
}

// What is good passes, and what no longer counts is not looked at.
func TestWebhookLetsIn(t *testing.T) {
	for name, text := range map[string]string{
		"a job of every kind": jobOf("queue: child, plugins: {mpi: [], svc: [--disable-network-policy]}, minSuccess: 1, policies: [{events: [PodFailed, PodEvicted], action: RestartJob}, {exitCode: 3, action: AbortJob}], " +
			"volumes: [{mountPath: /a, volumeClaimName: x}, {mountPath: /b, volumeClaim: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}], " +
			"tasks: [{name: master, replicas: 1, " + pod + "}, {name: worker, replicas: 4, minAvailable: 2, dependsOn: {name: [master], iteration: any}, partitionPolicy: {totalPartitions: 2, partitionSize: 2, minPartitions: 1}, " + pod + "}]"),
		"a queue beneath a parent": object(scheduling, "Queue", "parent: family, deserved: {cpu: 4}, guarantee: {resource: {cpu: 2}}, capability: {cpu: 20}"),
		"a flow":                   object(flows, "JobFlow", "jobRetainPolicy: delete, flows: [{name: a}, {name: b, dependsOn: {targets: [a]}}]"),
		"a template":               object(flows, "JobTemplate", "queue: later, tasks: [{name: a, replicas: 1, "+pod+"}]"),
		"a cron":                   object(batches, "CronJob", "schedule: '@daily', timeZone: Europe/Berlin, jobTemplate: {spec: {tasks: [{name: a, replicas: 1, "+pod+"}]}}"),
		"a HyperNode":              object(topology, "HyperNode", "tier: 1, members: [{type: Node, selector: {regexMatch: {pattern: 'n[0-9]+'}}}]"),
		"a PodGroup of a Job":      ownedGroup("job-u1", batches, "Job", "job", "u1"),
		"a PodGroup of a pod":      ownedGroup("podgroup-u2", "v1", "Pod", "p", "u2"),
		"a PodGroup in a queue":    object(scheduling, "PodGroup", "queue: child"),
		"a PodGroup":               object(scheduling, "PodGroup", "minMember: 3, minTaskMember: {a: 2}, networkTopology: {highestTierName: rack}"),
		"a command":                command("Job", "AbortJob"),
	} {
		if err := dryRun(t.Context(), "default", row{object: text}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// ownedGroup is a PodGroup in a closed queue that has a controller.
func ownedGroup(name, version, kind, owner, uid string) string {
	return strings.Replace(object(scheduling, "PodGroup", "queue: shut"), "{name: thing}", "{name: "+name+", ownerReferences: [{apiVersion: "+version+
		", kind: "+kind+", name: "+owner+", uid: "+uid+", controller: true}]}", 1)
}

// 2.9: a PodGroup of somebody else's controller is judged, and one that stays in its
// queue may change when that is closed, but not be moved there.
func TestWebhookJudgesPodGroups(t *testing.T) {
	foreign := row{object: ownedGroup("mine", "kubeflow.org/v1", "PyTorchJob", "job", "u3"), wants: `spec.queue: Invalid value: "shut"`}
	if err := dryRun(t.Context(), "default", foreign); err == nil || !strings.Contains(err.Error(), foreign.wants) {
		t.Errorf("a PodGroup of another controller: %v", err)
	}
	pg := &volcano.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "stays"}, Spec: volcano.PodGroupSpec{Queue: "child"}}
	if err := plane.Client.Create(t.Context(), pg); err != nil {
		t.Fatal(err)
	}
	for patch, want := range map[string]string{
		`{"spec":{"queue":"shut"}}`:         `spec.queue: Invalid value: "shut": must be an open queue`,
		`{"spec":{"minMember":2}}`:          "",
		`{"status":{"phase":"Inqueue"}}`:    "",
		`{"spec":{"queue":"busy"}}`:         "",
		`{"metadata":{"labels":{"a":"b"}}}`: "",
	} {
		err := plane.Client.Patch(t.Context(), pg.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(patch)), client.DryRunAll)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, should say %q", patch, err, want)
		}
	}
}

// 2.8: a queue goes after those beneath it, and never beneath itself.
func TestWebhookKeepsFamilies(t *testing.T) {
	queue := func(name string) *volcano.Queue { return &volcano.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	err := plane.Client.Delete(t.Context(), queue("family"), client.DryRunAll)
	if err == nil || !strings.Contains(err.Error(), "metadata.name: Forbidden: queue family has queues beneath it (child): delete those first") {
		t.Errorf("deletion: %v", err)
	}
	if err := plane.Client.Delete(t.Context(), queue("child"), client.DryRunAll); err != nil {
		t.Errorf("deletion of what has none beneath it: %v", err)
	}
	for patch, want := range map[string]string{
		`{"spec":{"parent":"child"}}`:       `spec.parent: Invalid value: "child": must not be beneath the queue itself`,
		`{"spec":{"deserved":{"cpu":"5"}}}`: `spec.deserved[cpu]: Invalid value: "6": queues beneath family (child) must have at most 5 of it together`,
		`{"spec":{"weight":3}}`:             "",
	} {
		err := plane.Client.Patch(t.Context(), queue("family"), client.RawPatch("application/merge-patch+json", []byte(patch)), client.DryRunAll)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, should say %q", patch, err, want)
		}
	}
}

// A webhook that is down keeps nobody from work: pods, Jobs, even bad ones, which
// the controllers refuse later. Policies are not down with it.
func TestWebhookDown(t *testing.T) {
	if err := stopWebhook(); err != nil {
		t.Logf("it ended with %v", err)
	}
	restarted := false
	t.Cleanup(func() {
		if !restarted {
			stopWebhook = serve()
		}
	})
	ns := plane.Namespace(t)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if err := plane.Client.Create(t.Context(), p); err != nil {
		t.Errorf("a pod: %v", err)
	}
	bad := row{object: chain("a<b", "b<a")}
	if err := dryRun(t.Context(), ns, bad); err != nil {
		t.Errorf("a Job that only the webhook refuses: %v", err)
	}
	if err := dryRun(t.Context(), ns, row{object: with("queue: root")}); err == nil {
		t.Error("a Job that a policy refuses is let in")
	}
	stopWebhook, restarted = serve(), true
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		if err := dryRun(ctx, ns, bad); err == nil {
			return "the webhook does not judge again"
		}
		return ""
	})
}

// The webhook's defaults are those of the policy.
func TestWebhookDefaults(t *testing.T) {
	for _, r := range filled() {
		o, err := parse(r.object)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		res := admission.Default(t.Context(), ctrladmission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: raw}}})
		patch, err := json.Marshal(res.Patches)
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Patches) > 0 {
			decoded, err := jsonpatch.DecodePatch(patch)
			if err != nil {
				t.Fatal(err)
			}
			if raw, err = decoded.Apply(raw); err != nil {
				t.Fatalf("%s: %s: %v", r.row, patch, err)
			}
		}
		if err := o.UnmarshalJSON(raw); err != nil {
			t.Fatal(err)
		}
		// The definition itself fills this in before anybody is asked.
		want := strings.ReplaceAll(r.wants, `"minPartitions":0,`, "")
		if got := told(t, o, strings.Contains(r.wants, "dnsPolicy")); !res.Allowed || !strings.Contains(got, want) {
			t.Errorf("%s: got  %s\nwant %s", r.row, got, want)
		}
	}
}
