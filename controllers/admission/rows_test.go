package admission_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// row is a rejection of the Volcano API's reference: what is refused, and with
// which words. The words name field, value and rule.
type row struct {
	row, object, wants string
	// first marks one row of each policy.
	first bool
}

const pod = "template: {spec: {containers: [{name: c, image: i}]}}"

func jobOf(spec string) string {
	return "apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nmetadata: {name: job}\nspec: {" + spec + "}\n"
}

// task is a Job of one task.
func task(fields string) string {
	return jobOf("tasks: [{name: a, replicas: 2, " + pod + ", " + fields + "}]")
}

// with is a Job of one task and more.
func with(fields string) string {
	return jobOf(fields + ", tasks: [{name: a, replicas: 2, " + pod + "}]")
}

func object(group, kind, spec string) string {
	return "apiVersion: " + group + "\nkind: " + kind + "\nmetadata: {name: thing}\nspec: {" + spec + "}\n"
}

const (
	scheduling = "scheduling.volcano.sh/v1beta1"
	flows      = "flow.volcano.sh/v1alpha1"
	batches    = "batch.volcano.sh/v1alpha1"
	topology   = "topology.volcano.sh/v1alpha1"
)

func command(kind, action string) string {
	return "apiVersion: bus.volcano.sh/v1alpha1\nkind: Command\nmetadata: {name: c}\naction: " + action +
		"\ntarget: {apiVersion: v1, kind: " + kind + ", name: x, uid: u}\n"
}

// rows are the rejections of the API server itself, by the definitions and the
// policies.
func rows() []row {
	return []row{
		{"2.7 no task", jobOf("queue: default"), `spec.tasks: Required value: a job needs at least one task: add one`, true},
		{"2.7 no task: empty list", jobOf("tasks: []"), `spec.tasks: Invalid value: 0: spec.tasks in body should have at least 1 items`, false},
		{"2.2 name", strings.Replace(task("policies: []"), "name: job", "name: "+strings.Repeat("j", 64), 1), `metadata.name: Invalid value: "jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjj": must have at most 63 characters, since the pods are labelled with it: choose a shorter name`, false},
		{"2.7 duplicate task names", jobOf("tasks: [{name: a, replicas: 1, " + pod + "}, {name: a, replicas: 1, " + pod + "}]"),
			`spec.tasks[1].name: Duplicate value: "a"`, false},
		{"2.2 default name of a task is taken", jobOf("tasks: [{name: default1, replicas: 1, " + pod + "}, {replicas: 1, " + pod + "}]"),
			`spec.tasks[1].name: Duplicate value: "default1"`, false},
		{"2.2 task name", jobOf("tasks: [{name: A_b, replicas: 1, " + pod + "}]"), `spec.tasks[0].name: Invalid value: "A_b": spec.tasks[0].name in body should match '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'`, false},
		{"2.7 bad pod template: no container", jobOf("tasks: [{name: a, replicas: 1}]"), `spec.tasks[0].template.spec.containers: Required value`, false},
		{"2.7 minAvailable > replicas: task", task("minAvailable: 3"), `spec.tasks[0].minAvailable: Invalid value: 3: must be at most replicas (2): lower it`, false},
		{"2.7 minAvailable > replicas: job", with("minAvailable: 3"), `spec.minAvailable: Invalid value: 3: must be at most the replicas of all tasks (2): lower it`, false},
		{"2.2 minAvailable >= 0", with("minAvailable: -1"), `spec.minAvailable: Invalid value: -1: spec.minAvailable in body should be greater than or equal to 0`, false},
		{"2.2 minSuccess", with("minSuccess: 3"), `spec.minSuccess: Invalid value: 3: must be at most`, false},
		{"2.2 minSuccess >= 1", with("minSuccess: 0"), `spec.minSuccess: Invalid value: 0: spec.minSuccess in body should be greater than or equal to 1`, false},
		{"2.2 schedulerName <= 63", with("schedulerName: " + strings.Repeat("s", 64)), `spec.schedulerName: Too long: may not be more than 63 bytes`, false},
		{"2.7 totalPartitions x partitionSize", task("partitionPolicy: {totalPartitions: 3, partitionSize: 1}"),
			`spec.tasks[0].partitionPolicy: Invalid value: 3 x 1: totalPartitions x partitionSize must be replicas (2): change one`, false},
		{"2.2 minPartitions", task("partitionPolicy: {totalPartitions: 2, partitionSize: 1, minPartitions: 3}"),
			`spec.tasks[0].partitionPolicy.minPartitions: Invalid value: 3: must be at most totalPartitions (2)`, false},
		{"2.7 both highestTier fields: job", with("networkTopology: {highestTierAllowed: 1, highestTierName: rack}"),
			`spec.networkTopology.highestTierName: Invalid value: "rack": must be unset when highestTierAllowed is set`, false},
		{"2.7 both highestTier fields: partitions", task("partitionPolicy: {totalPartitions: 2, partitionSize: 1, networkTopology: {highestTierAllowed: 1, highestTierName: rack}}"),
			`spec.tasks[0].partitionPolicy.networkTopology.highestTierName: Invalid value: "rack": must be unset when highestTierAllowed is set: keep one of them`, false},
		{"2.2 network topology mode", with("networkTopology: {mode: firm}"), `spec.networkTopology.mode: Unsupported value: "firm": supported values: "hard", "soft"`, false},
		{"2.3 event XOR exitCode", with("policies: [{event: PodFailed, exitCode: 3, action: AbortJob}]"), `spec.policies[0].exitCode: Invalid value: 3: must be unset when event`, false},
		{"2.3 neither event nor exitCode", with("policies: [{action: AbortJob}]"), `spec.policies[0].event: Required value`, false},
		{"2.3 exitCode 0", with("policies: [{exitCode: 0, action: AbortJob}]"), `spec.policies[0].exitCode: Invalid value: 0: must not be 0`, false},
		{"2.3 internal event", with("policies: [{event: OutOfSync, action: AbortJob}]"), `spec.policies[0].event: Unsupported value: "OutOfSync": supported values: "*"`, false},
		{"2.3 internal event: PodRunning", with("policies: [{events: [PodRunning], action: AbortJob}]"), `spec.policies[0].event: Unsupported value: "PodRunning": supported values: "*", "PodFailed", "PodEvicted", "PodPending", "Unknown", "TaskCompleted", "TaskFailed", "JobUpdated"`, false},
		{"2.3 internal action", task("policies: [{event: PodFailed, action: SyncJob}]"), `spec.tasks[0].policies[0].action: Unsupported value: "SyncJob": supported values: "AbortJob"`, false},
		{"2.3 no duplicates: event", with("policies: [{event: PodFailed, action: AbortJob}, {events: [PodEvicted, PodFailed], action: RestartJob}]"),
			`spec.policies[1]: Duplicate value: "PodEvicted, PodFailed"`, false},
		{"2.3 no duplicates: exitCode", with("policies: [{exitCode: 3, action: AbortJob}, {exitCode: 3, action: RestartJob}]"), `spec.policies[1]: Duplicate value: "3"`, false},
		{"2.3 * must be alone", with("policies: [{event: '*', action: AbortJob}, {event: PodFailed, action: RestartJob}]"),
			`spec.policies[0].event: Invalid value: "*": must be the only event`, false},
		{"2.3 PodPending needs timeout", with("policies: [{event: PodPending, action: AbortJob}]"), `spec.policies[0].timeout: Required value`, false},
		{"2.7 unknown plugin", with("plugins: {magic: []}"), `spec.plugins[magic]: Unsupported value: "magic": there is no such job plugin`, false},
		{"2.7 bad volumes: no claim", with("volumes: [{mountPath: /a}]"), `spec.volumes[0].volumeClaimName: Required value`, false},
		{"2.7 bad volumes: a claim that is there and one to be made", with("volumes: [{mountPath: /a, volumeClaimName: w, volumeClaim: {accessModes: [ReadWriteOnce]}}]"),
			`spec.volumes[0].volumeClaimName: Invalid value: "w": must be unset when volumeClaim is set: name a claim`, false},
		{"2.7 bad volumes: same path", with("volumes: [{mountPath: /a, volumeClaimName: w}, {mountPath: /a, volumeClaimName: z}]"),
			`spec.volumes[1].mountPath: Duplicate value: "/a"`, false},
		{"2.2 mountPath without :", with("volumes: [{mountPath: 'a:b', volumeClaimName: x}]"), `spec.volumes[0].mountPath: Invalid value: "a:b": spec.volumes[0].mountPath in body should match '^[^:]+$'`, false},
		{"2.7 queue root", with("queue: root"), `spec.queue: Invalid value: "root": must not be the queue root`, false},
		{"2.7 dependsOn unknown", task("dependsOn: {name: [b]}"), `spec.tasks[0].dependsOn.name: Invalid value: "b": must be other tasks of the job`, false},
		{"2.7 dependsOn not a DAG: itself", task("dependsOn: {name: [a]}"), `spec.tasks[0].dependsOn.name: Invalid value: "a": must be other tasks of the job: name one of them, or leave it out`, false},
		{"2.2 topologyPolicy", task("topologyPolicy: near"), `spec.tasks[0].topologyPolicy: Unsupported value: "near": supported values: "none", "best-effort", "restricted", "single-numa-node"`, false},
		{"2.7 NUMA policy without integer CPU: none", task("topologyPolicy: restricted"), `spec.tasks[0].template.spec.containers: Invalid value: each must request a whole number of CPUs`, false},
		{"2.7 NUMA policy without integer CPU: a part", jobOf("tasks: [{name: a, replicas: 1, topologyPolicy: best-effort, template: {spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 1500m}}}]}}}]"),
			`spec.tasks[0].template.spec.containers: Invalid value: each must request a whole number of CPUs for topologyPolicy best-effort: set resources.requests.cpu`, false},

		{"2.10 JobTemplate holds a Job's spec", object(flows, "JobTemplate", "tasks: [{name: a, replicas: 2, minAvailable: 3, "+pod+"}]"), `spec.tasks[0].minAvailable: Invalid value: 3: must be at most replicas (2): lower it, or raise replicas`, false},
		{"2.10 CronJob holds a Job's spec", object(batches, "CronJob", "schedule: '* * * * *', jobTemplate: {spec: {tasks: [{name: a, replicas: 2, minAvailable: 3, "+pod+"}]}}"),
			`spec.jobTemplate.spec.tasks[0].minAvailable: Invalid value: 3: must be at most replicas (2): lower it, or raise replicas`, false},
		{"2.10 CronJob schedule with a zone", object(batches, "CronJob", "schedule: 'TZ=UTC * * * * *', jobTemplate: {spec: {tasks: [{name: a, replicas: 2, "+pod+"}]}}"),
			`spec.schedule: Invalid value: "TZ=UTC * * * * *": must not hold a time zone: set spec.timeZone`, true},
		{"2.10 CronJob schedule", object(batches, "CronJob", "schedule: 'often', jobTemplate: {spec: {tasks: [{name: a, replicas: 2, "+pod+"}]}}"),
			`spec.schedule: Invalid value: "often": must be five fields`, false},
		{"2.10 CronJob name", strings.Replace(object(batches, "CronJob", "schedule: '* * * * *', jobTemplate: {spec: {tasks: [{name: a, replicas: 2, "+pod+"}]}}"), "thing", strings.Repeat("c", 53), 1),
			`metadata.name: Invalid value: "ccccccccccccccccccccccccccccccccccccccccccccccccccccc": must have at most 52 characters, since Jobs are named after it and their time: choose a shorter name`, false},
		{"2.10 CronJob whose Jobs' names are no names of Services", strings.Replace(object(batches, "CronJob", "schedule: '* * * * *', jobTemplate: {spec: {plugins: {svc: []}, tasks: [{name: a, replicas: 2, "+pod+"}]}}"), "thing", "no.label", 1),
			`spec.jobTemplate.spec.plugins[svc]: Invalid value: []: the Service is named after the job, and "no.label-00000000" is not a valid name for one: a DNS-1035 label must consist`, true},
		{"2.10 CronJob concurrencyPolicy", object(batches, "CronJob", "schedule: '* * * * *', concurrencyPolicy: Maybe, jobTemplate: {spec: {tasks: [{name: a, replicas: 2, "+pod+"}]}}"),
			`spec.concurrencyPolicy: Unsupported value: "Maybe": supported values: "Allow", "Forbid", "Replace"`, false},
		{"2.10 JobFlow twice the same", object(flows, "JobFlow", "flows: [{name: a}, {name: a}]"), `spec.flows[1].name: Duplicate value: "a"`, true},
		{"2.10 JobFlow unknown target", object(flows, "JobFlow", "flows: [{name: a, dependsOn: {targets: [b]}}]"), `spec.flows[0].dependsOn.targets: Invalid value: "b": must be other steps`, false},
		{"2.10 JobFlow retain policy", object(flows, "JobFlow", "jobRetainPolicy: perhaps, flows: [{name: a}]"), `spec.jobRetainPolicy: Unsupported value: "perhaps": supported values: "retain", "delete"`, false},
		{"2.10 HyperNode member without selector", object(topology, "HyperNode", "tier: 1, members: [{type: Node}]"), `spec.members[0].selector: Required value`, true},
		{"2.10 HyperNode selector of two kinds", object(topology, "HyperNode", "tier: 1, members: [{type: Node, selector: {exactMatch: {name: a}, regexMatch: {pattern: b}}}]"), `spec.members[0].selector: Invalid value: Only one of ExactMatch, RegexMatch, or LabelMatch can be specified`, false},
		{"2.10 HyperNode in itself", object(topology, "HyperNode", "tier: 1, members: [{type: HyperNode, selector: {exactMatch: {name: thing}}}]"), `spec.members[0].selector.exactMatch.name: Invalid value: "thing": must not be the HyperNode itself: name one of a lower tier`, false},
		{"2.10 HyperNode without tier", object(topology, "HyperNode", "members: [{type: Node, selector: {exactMatch: {name: a}}}]"), `spec.tier: Required value`, false},
		{"2.10 Command for what is no Job or Queue", command("Pod", "AbortJob"), `target.kind: Unsupported value: "Pod": supported values: "Job", "Queue"`, true},
		{"2.10 Command that a Job does not know", command("Job", "OpenQueue"), `action: Unsupported value: "OpenQueue": supported values for a Job`, false},
		{"2.10 Command that a Queue does not know", command("Queue", "AbortJob"), `action: Unsupported value: "AbortJob": supported values for a Queue`, false},

		{"2.8 deserved <= capability", object(scheduling, "Queue", "capability: {cpu: 4}, deserved: {cpu: '4500m'}"),
			`spec.deserved[cpu]: Invalid value: "4500m": must be at most spec.capability[cpu] (4): lower it`, true},
		{"2.8 guarantee <= deserved", object(scheduling, "Queue", "deserved: {memory: 1Gi}, guarantee: {resource: {memory: 2Gi}}"),
			`spec.guarantee.resource[memory]: Invalid value: "2Gi": must be at most spec.deserved[memory] (1Gi)`, false},
		{"2.8 guarantee <= capability", object(scheduling, "Queue", "capability: {cpu: 1}, guarantee: {resource: {cpu: 2}}"),
			`spec.guarantee.resource[cpu]: Invalid value: "2": must be at most spec.capability[cpu] (1)`, false},
		{"2.8 weight", object(scheduling, "Queue", "weight: 0"), `spec.weight: Invalid value: 0: spec.weight in body should be greater than or equal to 1`, false},
		{"2.8 weight", object(scheduling, "Queue", "weight: 65536"), `spec.weight: Invalid value: 65536: spec.weight in body should be less than or equal to 65535`, false},
		{"2.8 dequeueStrategy", object(scheduling, "Queue", "dequeueStrategy: lifo"), `spec.dequeueStrategy: Unsupported value: "lifo": supported values: "fifo", "traverse"`, false},
		{"2.8 its own parent", object(scheduling, "Queue", "parent: thing"), `spec.parent: Invalid value: "thing": must not be`, false},
		{"2.9 PodGroup with both highestTier fields", object(scheduling, "PodGroup", "networkTopology: {highestTierAllowed: 1, highestTierName: rack}"), `spec.networkTopology.highestTierName: Invalid value: "rack": must be unset when highestTierAllowed is set: keep one of them`, true},
		{"2.9 PodGroup, sub-group with both", object(scheduling, "PodGroup", "subGroupPolicy: [{name: a, networkTopology: {highestTierAllowed: 1, highestTierName: rack}}]"),
			`spec.subGroupPolicy[0].networkTopology.highestTierName: Invalid value: "rack": must be unset when highestTierAllowed is set: keep one of them`, false},
		{"2.9 minTaskMember", object(scheduling, "PodGroup", "minTaskMember: {a: -1}"), `spec.minTaskMember[a]: Invalid value: -1: must not be negative: raise it, or leave the task out`, false},
		{"2.9 sub-groups of one name", object(scheduling, "PodGroup", "subGroupPolicy: [{name: a}, {name: a}]"), `spec.subGroupPolicy[1].name: Duplicate value: "a"`, false},
		{"2.9 minMember >= 0", object(scheduling, "PodGroup", "minMember: -1"), `spec.minMember: Invalid value: -1: spec.minMember in body should be greater than or equal to 0`, false},
		{"2.9 queue root", object(scheduling, "PodGroup", "queue: root"), `spec.queue: Invalid value: "root": must not be the queue root, which all others are beneath: name one that is no parent, such as default`, false},
	}
}

// dryRun asks whether an object is let in.
func dryRun(ctx context.Context, namespace string, r row) error {
	o, err := parse(r.object)
	if err != nil {
		return err
	}
	if k := o.GetKind(); k != "Queue" && k != "HyperNode" {
		o.SetNamespace(namespace)
	}
	return plane.Client.Create(ctx, o, client.DryRunAll)
}

// worded has a field, a value where there is one, and the rule.
var worded = regexp.MustCompile(`^(spec|metadata|target|action)[^ ]*: (Required value|Too long: .+|Duplicate value: .+|Invalid value: .*(must|should|Only one).+|Unsupported value: .+: .+)`)

// Each bad object is refused with its words.
func TestBadObjectsAreRefused(t *testing.T) {
	for i, r := range append(rows(), annotationRows()...) {
		t.Run(fmt.Sprintf("%d %s", i, r.row), func(t *testing.T) {
			err := dryRun(t.Context(), "default", r)
			if err == nil || !strings.Contains(err.Error(), r.wants) {
				t.Fatalf("got %v, should say %s", err, r.wants)
			}
			if !worded.MatchString(r.wants) {
				t.Errorf("the row does not name field, value and rule: %s", r.wants)
			}
			if !apierrors.IsInvalid(err) {
				t.Errorf("it is refused with reason %s", apierrors.ReasonForError(err))
			}
		})
	}
}
