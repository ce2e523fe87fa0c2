package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BatchCluster is one Slurm cluster (or local batch system) whose partitions
// appear as virtual nodes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=bcl
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Reachable",type=string,JSONPath=`.status.conditions[?(@.type=="Reachable")].status`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BatchCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BatchClusterSpec   `json:"spec"`
	Status BatchClusterStatus `json:"status,omitempty"`
}

// BatchClusterList is a list of BatchClusters.
//
// +kubebuilder:object:root=true
type BatchClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BatchCluster `json:"items"`
}

// BatchClusterSpec says how to reach a batch system and who may use it how.
type BatchClusterSpec struct {
	// Type of the batch system.
	// +kubebuilder:validation:Enum=slurm;local
	Type string `json:"type"`

	// Connection says how the batch system's commands are reached.
	// +optional
	Connection Connection `json:"connection,omitempty"`

	// Nodes lists the virtual nodes, one a partition. When empty, every
	// partition that the batch system shows becomes the node <cluster>-<partition>.
	// +optional
	// +listType=map
	// +listMapKey=name
	Nodes []VirtualNode `json:"nodes,omitempty"`

	// Accounts maps namespaces to the operating-system users that jobs run as.
	// The first entry whose selector matches wins. A pod in a namespace without
	// a match is refused.
	// +kubebuilder:validation:MinItems=1
	Accounts []Account `json:"accounts"`

	// Staging is the directory, visible on all compute hosts, through which
	// pods are handed over.
	Staging Staging `json:"staging"`

	// Runtimes that pods may use, in order of preference.
	// +kubebuilder:default={host}
	// +optional
	Runtimes []Runtime `json:"runtimes,omitempty"`

	// HostPaths are the path prefixes that hostPath volumes may use.
	// +optional
	HostPaths []string `json:"hostPaths,omitempty"`

	// Walltime bounds the run time of jobs.
	// +optional
	Walltime Walltime `json:"walltime,omitempty"`

	// Poll says how often the batch system is asked.
	// +optional
	Poll Poll `json:"poll,omitempty"`

	// Local describes the hosts of a batch system of type local.
	// +optional
	Local *Local `json:"local,omitempty"`
}

// Runtime is a way to run a container.
// +kubebuilder:validation:Enum=host
type Runtime string

// RuntimeHost runs a container's command as a bare process of the compute host.
const RuntimeHost Runtime = "host"

// Connection says how to reach the batch system.
type Connection struct {
	// Type "cli" runs the batch system's commands on the host of the daemon.
	// +kubebuilder:validation:Enum=cli
	// +kubebuilder:default=cli
	// +optional
	Type string `json:"type,omitempty"`

	// Env is added to the environment of the batch system's commands, for
	// example SLURM_CONF.
	// +optional
	Env map[string]string `json:"env,omitempty"`
}

// VirtualNode is one Kubernetes node that stands for one partition.
type VirtualNode struct {
	// Name of the Kubernetes node.
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Partition (or queue) that the node stands for.
	// +kubebuilder:validation:MinLength=1
	Partition string `json:"partition"`
	// Constraint is a feature expression of the batch system.
	// +optional
	Constraint string `json:"constraint,omitempty"`
	// QOS to submit with unless the account says otherwise.
	// +optional
	QOS string `json:"qos,omitempty"`
	// Reservation to submit into.
	// +optional
	Reservation string `json:"reservation,omitempty"`
	// Labels added to the node.
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// Taints added to the node.
	// +optional
	Taints []corev1.Taint `json:"taints,omitempty"`
	// MaxPodsPending bounds the pods that wait in the batch queue.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:default=1000
	// +optional
	MaxPodsPending int32 `json:"maxPodsPending,omitempty"`
	// GPUResources maps a GRES type to an extended resource. A type that is not
	// listed, and GPUs without a type, are nvidia.com/gpu.
	// +optional
	GPUResources map[string]string `json:"gpuResources,omitempty"`
	// IncludeHosts restricts the node to these hosts; empty is all.
	// +optional
	IncludeHosts []string `json:"includeHosts,omitempty"`
	// ExcludeHosts are never part of the node.
	// +optional
	ExcludeHosts []string `json:"excludeHosts,omitempty"`
}

// Account maps namespaces to an operating-system user.
type Account struct {
	// NamespaceSelector selects namespaces by their labels; an empty selector
	// selects all. Every namespace carries kubernetes.io/metadata.name.
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector"`
	// User that jobs run as. Never root.
	// +kubebuilder:validation:Pattern=`^[a-z_][a-z0-9_-]{0,31}$`
	// +kubebuilder:validation:XValidation:rule="self != 'root'",message="jobs never run as root"
	User string `json:"user"`
	// Account to charge (Slurm --account).
	// +optional
	Account string `json:"account,omitempty"`
	// QOS to submit with.
	// +optional
	QOS string `json:"qos,omitempty"`
	// Partitions the account may use; empty is all.
	// +optional
	Partitions []string `json:"partitions,omitempty"`
	// MaxWalltime bounds the run time of the account's jobs.
	// +optional
	MaxWalltime *metav1.Duration `json:"maxWalltime,omitempty"`
}

// Staging is the hand-over directory.
type Staging struct {
	// Directory is absolute. A path element "{user}" is replaced by the job's
	// user; without one, a folder per user is made below it. It must exist or
	// be creatable by the user.
	// +kubebuilder:validation:Pattern=`^/`
	Directory string `json:"directory"`
}

// Walltime bounds run time.
type Walltime struct {
	// Default for pods that name none; without it the partition's default holds.
	// +optional
	Default *metav1.Duration `json:"default,omitempty"`
	// Max for every job.
	// +optional
	Max *metav1.Duration `json:"max,omitempty"`
}

// Poll says how often the batch system is asked.
type Poll struct {
	// Tick while pods are live. Default 5s.
	// +optional
	Tick *metav1.Duration `json:"tick,omitempty"`
	// Idle interval without live pods. Default 30s.
	// +optional
	Idle *metav1.Duration `json:"idle,omitempty"`
}

// Local describes a batch system that runs jobs on the daemon's own host.
type Local struct {
	// Partitions of the local system.
	// +kubebuilder:validation:MinItems=1
	Partitions []LocalPartition `json:"partitions"`
}

// LocalPartition is a number of pretended equal hosts.
type LocalPartition struct {
	// Name of the partition.
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Hosts is their number.
	// +kubebuilder:validation:Minimum=1
	Hosts int32 `json:"hosts"`
	// CPUs of a host.
	// +kubebuilder:validation:Minimum=1
	CPUs int64 `json:"cpus"`
	// MemoryMiB of a host.
	// +kubebuilder:validation:Minimum=1
	MemoryMiB int64 `json:"memoryMiB"`
	// GPUs of a host.
	// +optional
	GPUs int64 `json:"gpus,omitempty"`
	// GPUType is their GRES type.
	// +optional
	GPUType string `json:"gpuType,omitempty"`
}

// Condition types of a BatchCluster.
const (
	// ConditionReachable is True while the batch system answers.
	ConditionReachable = "Reachable"
	// ConditionReady is True when the spec is valid, the batch system answers
	// and every virtual node is registered.
	ConditionReady = "Ready"
)

// BatchClusterStatus is what the daemon found.
type BatchClusterStatus struct {
	// ObservedGeneration is the spec generation the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Reachable, Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Version of the batch system.
	// +optional
	Version string `json:"version,omitempty"`
	// Nodes, one entry a virtual node.
	// +optional
	// +listType=map
	// +listMapKey=name
	Nodes []VirtualNodeStatus `json:"nodes,omitempty"`
}

// VirtualNodeStatus sums up one virtual node.
type VirtualNodeStatus struct {
	// Name of the Kubernetes node.
	Name string `json:"name"`
	// Partition it stands for.
	Partition string `json:"partition"`
	// Hosts that are usable.
	Hosts int32 `json:"hosts"`
	// UnusableHosts are down, drained or reserved.
	UnusableHosts int32 `json:"unusableHosts"`
	// Overlaps names virtual nodes that share hosts with this one.
	// +optional
	Overlaps []string `json:"overlaps,omitempty"`
	// PendingJobs are our jobs that wait in the batch queue.
	PendingJobs int32 `json:"pendingJobs"`
	// RunningJobs are our jobs that run.
	RunningJobs int32 `json:"runningJobs"`
}
