// Package wellknown spells every label, annotation, taint, finalizer, condition
// and resource name that two programs of Isthmus agree on. It is the only place
// that may: the scheduler and the provider meet in these names alone.
//
// It imports nothing of ours and holds no behaviour.
package wellknown

// Prefix is the domain of every key that Isthmus itself defines.
const Prefix = "isthmus.sh/"

// Annotations that a Binding carries. The API server copies them to the pod in
// the same write that sets spec.nodeName, so a pod is never bound without them.
const (
	// GangAttempt names one placement of one gang: equal on all members that
	// were placed together, new for every new placement. It is a UUID.
	GangAttempt = Prefix + "gang-attempt"
	// GangSize is the decimal number of members in the attempt.
	GangSize = Prefix + "gang-size"
	// GangRank is the member's decimal index within the attempt, 0 to size-1.
	GangRank = Prefix + "gang-rank"
	// GPUIDs is the comma-separated list of UUIDs of the GPUs or MIG instances
	// that the pod gets on a real node: whole ones first, then those it shares.
	GPUIDs = Prefix + "gpu-ids"
	// ExpectedRun is the decimal number of seconds that the gang is expected to run,
	// and ExpectedRunFrom who says so: "declared", "deadline" or "learnt". Both are
	// absent when nobody knows.
	ExpectedRun     = Prefix + "expected-run-seconds"
	ExpectedRunFrom = Prefix + "expected-run-from"
	// DatasetPaths is a JSON object with the paths, on a virtual node, of the
	// datasets that the gang reads, by name.
	DatasetPaths = Prefix + "dataset-paths"
	// ReservedBy is the Reservation that keeps the virtual node for the gang.
	ReservedBy = Prefix + "reserved-by"
)

// The values of ExpectedRunFrom.
const (
	RunDeclared = "declared" // by the gang's owner
	RunDeadline = "deadline" // it is ended then in any case
	RunLearnt   = "learnt"   // from the runs of its like
)

// ActualGPUIDs is the annotation on a pod by which the node side tells which GPUs
// the pod really has, in the form of GPUIDs. It counts for more than the plan.
const ActualGPUIDs = Prefix + "actual-gpu-ids"

// GPUBox is the annotation on a real node that describes its GPUs: a JSON
// document decoded by controllers/api/gpubox. The node side writes it.
const GPUBox = Prefix + "gpu-box"

// Annotations by which a user says on a pod which GPUs will do. Lists are
// separated by commas.
const (
	// GPULink is "required" when NVLinks have to join all GPUs of the pod. Linked
	// ones are preferred in any case.
	GPULink = Prefix + "gpu-link"
	// GPUModes are the modes of sharing that will do, as gpubox names them.
	GPUModes = Prefix + "gpu-modes"
	// UseGPUType and NoUseGPUType are parts of model names.
	UseGPUType   = "nvidia.com/use-gputype"
	NoUseGPUType = "nvidia.com/nouse-gputype"
	// UseGPUUUID and NoUseGPUUUID are UUIDs, under Volcano's names.
	UseGPUUUID   = "volcano.sh/vgpu-use-gpuuuid"
	NoUseGPUUUID = "volcano.sh/vgpu-nouse-gpuuuid"
)

// Annotations that the provider writes on a pod: the durable record of the held
// submit protocol. Each is written with a resourceVersion precondition.
const (
	// SubmitIntent is the backend key under which the gang will be submitted.
	// It is present before the batch system hears of the gang.
	SubmitIntent = Prefix + "submit-intent"
	// BatchJobID is the recorded id of the batch job. Only a recorded job is released.
	BatchJobID = Prefix + "batch-job-id"
	// BatchUser is the HPC account the job runs as (fact, for people and for logs).
	BatchUser = Prefix + "batch-user"
	// BatchNode is the compute host the pod runs on, once it does.
	BatchNode = Prefix + "batch-node"
)

// Annotations a user may set on a pod (or a Job's pod template).
const (
	// Runtime chooses among the runtimes that the BatchCluster allows.
	Runtime = Prefix + "runtime"
	// Walltime asks for a run-time limit, a Go or Slurm duration; never above
	// what the account mapping allows.
	Walltime = Prefix + "walltime"
	// RunningEstimate is how long the gang is expected to run, a Go duration; on a
	// PodGroup, or on a pod without one. With a margin it becomes the time limit of
	// its batch job, where the BatchCluster's spec.walltime.estimates lets it.
	RunningEstimate = Prefix + "running-estimate"
	// EstimateKey says whose past runs tell how long the gang runs when nobody says:
	// those of the same key and namespace; on a PodGroup or on pods.
	EstimateKey = Prefix + "estimate-key"
	// Datasets names the Datasets of the namespace that the gang reads, with commas;
	// on a Job, a PodGroup or on pods.
	Datasets = Prefix + "datasets"
	// QOS chooses among the QOSs that the account mapping allows.
	QOS = Prefix + "qos"
	// Account chooses among the accounts that the account mapping allows to charge.
	Account = Prefix + "account"
	// Licenses are what the pod needs of the batch system's licences, as in
	// "fluent:2,db@server", for names that no resource can have; see LicensePrefix.
	Licenses = Prefix + "licenses"
	// Switches is how many network switches the gang's hosts may be at and how long
	// to wait for such hosts, as in "1@10m", on every pod that names it alike.
	Switches = Prefix + "switches"
)

// Annotations of steps that are queued early at the batch system, see
// provider/decisions/0004-dependencies-stay-above.md.
const (
	// QueueEarly, "true" or "false", is set by a user on a JobFlow: its steps may wait
	// at the batch system for those before them. The JobFlow's controller puts it on
	// the pods of such a flow: then their batch job ends well only if none of them was
	// told to end.
	QueueEarly = Prefix + "queue-early"
	// After is on the pods of a step that was made early, and on its Job: the
	// GangAttempts, separated by commas, of the same namespace that have to succeed
	// before they start.
	After = Prefix + "after"
	// AfterJobs is on a Job that was made early: a line for each Job that it comes
	// after, with what tells one try of it from another.
	AfterJobs = Prefix + "after-jobs"
)

// ReasonPredecessor is the reason of a pod that failed without having started,
// because what it comes After did not succeed.
const ReasonPredecessor = "PredecessorNotCompleted"

// Nomination is the scheduler's annotation on a PodGroup, or on a pod without
// one: the room it made by evicting others and keeps until the pods are bound.
// It is written before the first eviction, so that a new scheduler knows of it.
const Nomination = Prefix + "nomination"

// Staging is the scheduler's annotation on a PodGroup that waits for data: a JSON object
// with the BatchCluster that each Dataset of its namespace is to be copied to, by the
// Dataset's name. It is there for as long as the gang waits for that.
const Staging = Prefix + "staging"

// Labels and annotations of a virtual node.
const (
	// VirtualNode is the label that marks a node as virtual; value "true".
	VirtualNode = Prefix + "virtual-node"
	// Cluster is the label with the BatchCluster's name.
	Cluster = Prefix + "cluster"
	// Partition is the label with the partition or queue the node stands for.
	Partition = Prefix + "partition"
	// GPUModel is the label with the GPU type of the node when it has just one.
	GPUModel = Prefix + "gpu-model"
	// HostShapes is the annotation with the node's hosts grouped by shape: a JSON
	// document decoded by controllers/api/hostshape. The scheduler packs gangs
	// against it, so that 8 GPUs of one host means one host.
	HostShapes = Prefix + "host-shapes"
	// QueueWait is the annotation with the decimal number of seconds that a job
	// submitted now is expected to wait at the batch system.
	QueueWait = Prefix + "queue-wait-seconds"
	// Applied is the annotation with the taints and labels that the virtual kubelet
	// gave the node, a JSON object.
	Applied = Prefix + "applied"
	// ServedNamespaces is the annotation with the label selectors of the namespaces
	// that are mapped to an account of the batch system: a JSON list of selectors as
	// text. Gangs of other namespaces do not go there. Without it all may.
	ServedNamespaces = Prefix + "served-namespaces"
	// MaxWalltime is the annotation and the label with the partition's time limit
	// in seconds, which node affinity can compare (Gt, Lt).
	MaxWalltime = Prefix + "max-walltime-seconds"
	// FeaturePrefix starts the labels, value "true", of the features that all
	// hosts of the node have at the batch system.
	FeaturePrefix = "feature." + Prefix
)

// TaintVirtualNode keeps ordinary pods off virtual nodes; its value is the
// BatchCluster's name and its effect NoSchedule. The gang scheduler and the
// Job controller tolerate it on behalf of gangs that may run there.
const TaintVirtualNode = Prefix + "virtual-node"

// TaintUnreachable (NoSchedule) is on a virtual node while its batch system
// does not answer. It never evicts.
const TaintUnreachable = Prefix + "batch-system-unreachable"

// FinalizerBatchJob stays on a pod from intent until there is terminal evidence
// that its batch job has ended, so that a name is never reused under a live job.
const FinalizerBatchJob = Prefix + "batch-job"

// Node and pod condition types.
const (
	// NodeBatchSystemReachable is False while the batch system does not answer.
	NodeBatchSystemReachable = "BatchSystemReachable"
	// NodePartitionUsable is False when the partition does not exist, is not up
	// or has no usable host.
	NodePartitionUsable = "PartitionUsable"
	// NodeServingCertificate is False while the kubelet API has no serving
	// certificate for the node: logs and exec do not work until it has.
	NodeServingCertificate = "ServingCertificate"
	// NodeLimited is True when the batch system, or the connection to it, lacks
	// something that pods or the BatchCluster may ask for. It keeps no pod away.
	NodeLimited = "Limited"
	// PodBatchJob tells what the pod's batch job waits for or what went wrong
	// with its submission. Status is True once the job runs.
	PodBatchJob = Prefix + "BatchJob"
)

// ProviderIDScheme starts spec.providerID of virtual nodes: no cloud controller
// knows it, so none deletes the node.
const ProviderIDScheme = "isthmus://"

// Scheduler names that the gang scheduler answers to.
const (
	SchedulerVolcano = "volcano"
	SchedulerIsthmus = "isthmus"
)

// Keys of the Volcano API that Isthmus reads or writes and that volcano.sh/apis
// does not export in one place.
const (
	// PodGroupName is the annotation on a pod with its PodGroup's name.
	PodGroupName = "scheduling.k8s.io/group-name"
	// TaskPriority is the annotation on a pod with its decimal priority within its
	// gang; it counts for more than the pod's own.
	TaskPriority = "volcano.sh/task-priority"
	// TaskTopologyAffinity and TaskTopologyAntiAffinity are annotations on a PodGroup
	// with sets of its tasks whose pods attract or repel each other, as in "ps,worker;
	// chief"; TaskTopologyOrder has the order in which tasks are placed.
	TaskTopologyAffinity     = "volcano.sh/task-topology-affinity"
	TaskTopologyAntiAffinity = "volcano.sh/task-topology-anti-affinity"
	TaskTopologyOrder        = "volcano.sh/task-topology-task-order"
	// QueueAllocationGate is the annotation, value "true", of a pod that is to be out of
	// sight of autoscalers until its queue has room for it, and the scheduling gate that
	// it gets for this.
	QueueAllocationGate = "scheduling.volcano.sh/queue-allocation-gate"
	// TopologyDecision is the annotation on a bound pod with the processors that it was
	// given by NUMA node, as in {"numa":{"0":{"cpu":"4"}}}.
	TopologyDecision = "volcano.sh/topology-decision"
	// PlainWaitingTime is the annotation with the longest time a gang should wait,
	// a Go duration, under the name without a domain that Volcano takes as well.
	PlainWaitingTime = "sla-waiting-time"
)

// LicensePrefix starts the names of the extended resources of a virtual node that
// are licences of the batch system: all its nodes share them, and no host has them.
const LicensePrefix = "licenses." + Prefix

// Streams is the annotation on a virtual node that says whether kubectl exec,
// attach, port-forward and cp reach its pods: "Served" or "NotServed".
const Streams = Prefix + "streams"

// ResourceMetricsPath is the annotation on a node by which metrics-server finds
// its resource metrics elsewhere than at /metrics/resource.
const ResourceMetricsPath = "metrics.k8s.io/resource-metrics-path"

// GPU resource names.
const (
	ResourceNvidiaGPU = "nvidia.com/gpu"
	ResourceAMDGPU    = "amd.com/gpu"
	// Equal shares of a GPU that a batch system hands out by number (Slurm's GRES shard):
	// a pod has all of its own on one GPU.
	ResourceGPUShard = Prefix + "gpu-shard"
	// A share of a GPU: memory in MiB and percent of its cores.
	ResourceGPUMemory = Prefix + "gpu-memory"
	ResourceGPUCores  = Prefix + "gpu-cores"
	// The same under Volcano's names: so many GPUs, and of each of them memory in
	// MiB or percent and percent of the cores.
	ResourceVGPUNumber           = "volcano.sh/vgpu-number"
	ResourceVGPUMemory           = "volcano.sh/vgpu-memory"
	ResourceVGPUMemoryPercentage = "volcano.sh/vgpu-memory-percentage"
	ResourceVGPUCores            = "volcano.sh/vgpu-cores"
	// Volcano's older names: memory of one GPU in MiB, and whole GPUs.
	ResourceVolcanoGPUMemory = "volcano.sh/gpu-memory"
	ResourceVolcanoGPUNumber = "volcano.sh/gpu-number"
)
