package v1alpha1

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BatchCluster is one Slurm or PBS cluster (or local batch system) whose
// partitions appear as virtual nodes.
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
//
// +kubebuilder:validation:XValidation:rule="(self.type == 'local') == has(self.local)",message="spec.local is for type local, which needs it"
type BatchClusterSpec struct {
	// Type of the batch system.
	// +kubebuilder:validation:Enum=slurm;pbs;torque;local
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

	// Images says where container images come from and where they are kept.
	// +optional
	Images Images `json:"images,omitempty"`

	// HostPaths are the path prefixes that hostPath volumes may use.
	// +optional
	HostPaths []string `json:"hostPaths,omitempty"`

	// VolumeClasses map PersistentVolumeClaims to directories of the cluster's
	// file systems. The first entry that matches wins; a claim without a match
	// is refused.
	// +optional
	VolumeClasses []VolumeClass `json:"volumeClasses,omitempty"`

	// Walltime bounds the run time of jobs.
	// +optional
	Walltime Walltime `json:"walltime,omitempty"`

	// Poll says how often the batch system is asked.
	// +optional
	Poll Poll `json:"poll,omitempty"`

	// Streams says how exec, attach and port-forward reach pods: "batch" by a
	// program that the batch system starts in the pod's job; "network" by a TCP
	// port of the compute host, which takes only who holds the pod's own secret
	// and must be reachable from where the batch system's commands run; "off" not
	// at all. Default: batch where the batch system can, else network. Pods that
	// run stay with what held when they were handed over.
	// +kubebuilder:validation:Enum=batch;network;off
	// +optional
	Streams string `json:"streams,omitempty"`

	// Reservations says whether a Reservation that names virtual nodes of this cluster
	// is made at the batch system as well: "batch" for that, "off" for keeping other
	// gangs of Kubernetes off alone. It takes Slurm's commands and an operator's
	// rights there. Default: off.
	// +kubebuilder:validation:Enum=batch;off
	// +optional
	Reservations string `json:"reservations,omitempty"`

	// Local describes the hosts of a batch system of type local.
	// +optional
	Local *Local `json:"local,omitempty"`
}

// The values of spec.reservations.
const (
	ReservationsBatch = "batch"
	ReservationsOff   = "off"
)

// The values of spec.streams.
const (
	StreamsBatch   = "batch"
	StreamsNetwork = "network"
	StreamsOff     = "off"
)

// Runtime is a way to run a container.
// +kubebuilder:validation:Enum=host;apptainer;charliecloud;podman;enroot
type Runtime string

// The runtimes.
const (
	// RuntimeHost runs a container's command as a bare process of the compute host.
	RuntimeHost Runtime = "host"
	// RuntimeApptainer, RuntimeCharliecloud, RuntimePodman and RuntimeEnroot run
	// the image with that program, as the job's user.
	RuntimeApptainer    Runtime = "apptainer"
	RuntimeCharliecloud Runtime = "charliecloud"
	RuntimePodman       Runtime = "podman"
	RuntimeEnroot       Runtime = "enroot"
)

// Images says where container images come from and where they are kept.
type Images struct {
	// Directory is the image store, visible on all compute hosts; a path element
	// "{user}" is replaced. Default: "images" in the user's staging directory.
	// +optional
	Directory string `json:"directory,omitempty"`
	// Pull says where images are fetched: "job" on the job's first host, "login" on
	// the host where the batch system's commands run, before the job is submitted.
	// +kubebuilder:validation:Enum=job;login
	// +kubebuilder:default=job
	// +optional
	Pull string `json:"pull,omitempty"`
	// Archives are the path prefixes that oci-archive:, docker-archive: and oci:
	// images may name.
	// +optional
	Archives []string `json:"archives,omitempty"`
	// Mirrors replace registries, for example docker.io by a site's own.
	// +optional
	Mirrors []ImageMirror `json:"mirrors,omitempty"`
	// CAFile, on the hosts that pull, holds further authorities of registries.
	// +optional
	CAFile string `json:"caFile,omitempty"`
	// Insecure registries, host:port, are spoken to without TLS.
	// +optional
	Insecure []string `json:"insecure,omitempty"`
	// Retention is how long an image is kept that no pod uses, at least 2h; 0s is
	// for ever. Default: 720h. An image in use is never removed.
	// +optional
	Retention *metav1.Duration `json:"retention,omitempty"`
	// MaxSize is what one user's images may take; beyond it those are removed that
	// no pod has used for longest. Default: no limit.
	// +optional
	MaxSize *resource.Quantity `json:"maxSize,omitempty"`
}

// ImageMirror replaces one registry by another.
type ImageMirror struct {
	// Registry as images name it, for example docker.io.
	Registry string `json:"registry"`
	// Endpoint that is asked instead, host[:port][/path].
	Endpoint string `json:"endpoint"`
}

// VolumeClass maps PersistentVolumeClaims to a directory.
type VolumeClass struct {
	// StorageClassName of the claims; empty matches any.
	// +optional
	StorageClassName string `json:"storageClassName,omitempty"`
	// Selector of the claims' labels; empty matches any.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// Path of the directory on the compute hosts: "{user}", "{namespace}" and
	// "{claim}" are replaced within path elements. It must exist, or be creatable
	// by the job's user.
	// +kubebuilder:validation:Pattern=`^/`
	Path string `json:"path"`
	// ReadOnly mounts it so.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`
}

// ForeignUse is what becomes of what other jobs hold of a virtual node's hosts.
type ForeignUse string

const (
	// ForeignUseSubtract offers what is free now.
	ForeignUseSubtract ForeignUse = "Subtract"
	// ForeignUseIgnore offers all, and lets the batch queue decide.
	ForeignUseIgnore ForeignUse = "Ignore"
)

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
	// Reservation to submit into. Where the batch system tells which hosts it has,
	// the node has those alone while it is in force.
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
	// ForeignUse says what becomes of hosts that other jobs hold. Subtract: the
	// node offers what is free now, and gangs that need more wait in Kubernetes.
	// Ignore: the node offers its hosts whole, less what our own jobs take, and
	// gangs that fit wait in the batch queue, where they gain age and share with
	// all others. A site that is always full needs Ignore.
	// +kubebuilder:validation:Enum=Subtract;Ignore
	// +kubebuilder:default=Subtract
	// +optional
	ForeignUse ForeignUse `json:"foreignUse,omitempty"`
	// GPUResources maps a GRES type to an extended resource. A type that is not
	// listed, and GPUs without a type, are nvidia.com/gpu.
	// +optional
	GPUResources map[string]string `json:"gpuResources,omitempty"`
	// IncludeHosts restricts the node, and the jobs of its pods, to these hosts;
	// empty is all. Slurm is told which hosts of the partition are left out; with
	// a batch system that cannot leave out hosts the pods wait and say so.
	// +optional
	IncludeHosts []string `json:"includeHosts,omitempty"`
	// ExcludeHosts are never part of the node, nor used by jobs of its pods.
	// +optional
	ExcludeHosts []string `json:"excludeHosts,omitempty"`
}

// Includes reports whether a host of the partition is part of the node.
func (n *VirtualNode) Includes(host string) bool {
	return !slices.Contains(n.ExcludeHosts, host) && (len(n.IncludeHosts) == 0 || slices.Contains(n.IncludeHosts, host))
}

// Account maps namespaces to an operating-system user.
type Account struct {
	// NamespaceSelector selects namespaces by their labels; an empty selector
	// selects all. Every namespace carries kubernetes.io/metadata.name.
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector"`
	// User that jobs run as. Never root, and a name, not a number.
	// +kubebuilder:validation:Pattern=`^([A-Za-z_]|[0-9]+[A-Za-z_.@-])[A-Za-z0-9_.@-]{0,63}$`
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
	// AllowedQOS are the QOSs that a pod may choose among with the annotation isthmus.sh/qos.
	// +optional
	AllowedQOS []string `json:"allowedQOS,omitempty"`
	// AllowedAccounts are those that a pod may charge instead, with the annotation isthmus.sh/account.
	// +optional
	AllowedAccounts []string `json:"allowedAccounts,omitempty"`
	// MaxWalltime bounds the run time of the account's jobs.
	// +optional
	MaxWalltime *metav1.Duration `json:"maxWalltime,omitempty"`
	// AllowEnv names environment variables that containers may set although they
	// are refused by default, such as LD_LIBRARY_PATH; a trailing "*" is a prefix.
	// +optional
	AllowEnv []string `json:"allowEnv,omitempty"`
	// ServiceAccountTokens lets pods of these namespaces carry tokens of their
	// service accounts to the compute hosts, bound to the pod and for an hour at
	// most. Default false.
	// +optional
	ServiceAccountTokens bool `json:"serviceAccountTokens,omitempty"`
}

// Staging is the hand-over directory.
type Staging struct {
	// Directory is absolute. A path element "{user}" is replaced by the job's
	// user; without one, a folder per user is made below it. It must exist or
	// be creatable by the user.
	// +kubebuilder:validation:Pattern=`^/`
	Directory string `json:"directory"`
	// Podrun is the path of the pod runner on the login and compute hosts when
	// the site installed it; empty lets the daemon hand its own over.
	// +kubebuilder:validation:Pattern=`^/`
	// +optional
	Podrun string `json:"podrun,omitempty"`
	// Retention keeps the directory of an ended gang for that long after its pods
	// are gone. Default 0.
	// +optional
	Retention *metav1.Duration `json:"retention,omitempty"`
}

// Walltime bounds run time.
type Walltime struct {
	// Default for pods that name none; without it the partition's default holds.
	// +optional
	Default *metav1.Duration `json:"default,omitempty"`
	// Max for every job.
	// +optional
	Max *metav1.Duration `json:"max,omitempty"`
	// Estimates says whether the run time that is expected of a gang limits its job.
	// +optional
	Estimates Estimates `json:"estimates,omitempty"`
	// Grace bounds the termination grace of pods: how long a deleted pod may keep
	// its hosts, and how early before a time limit it is told to end.
	// +optional
	Grace *metav1.Duration `json:"grace,omitempty"`
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
	// ConditionCredentialsValid is False when the batch system or a login node
	// refused our credentials, or they have expired.
	ConditionCredentialsValid = "CredentialsValid"
	// ConditionReady is True when the spec is valid, the batch system answers
	// and every virtual node is registered.
	ConditionReady = "Ready"
)

// BatchClusterStatus is what the daemon found.
type BatchClusterStatus struct {
	// ObservedGeneration is the spec generation the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Reachable, CredentialsValid, Ready.
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
	// PendingPods are the pods of the jobs that wait.
	// +optional
	PendingPods int32 `json:"pendingPods,omitempty"`
	// Shapes are the usable hosts grouped by what they have.
	// +optional
	Shapes []HostShape `json:"shapes,omitempty"`
	// Free are the usable hosts grouped by what foreign jobs leave of them.
	// +optional
	Free []HostShape `json:"free,omitempty"`
	// Foreign is what jobs that are not ours hold on the node's hosts.
	// +optional
	Foreign corev1.ResourceList `json:"foreign,omitempty"`
	// EstimatedStart is when the batch system expects to start the first of our
	// jobs that wait; none when it says nothing.
	// +optional
	EstimatedStart *metav1.Time `json:"estimatedStart,omitempty"`
	// Missing names what the connection to this batch system cannot do.
	// +optional
	Missing []string `json:"missing,omitempty"`
}

// HostShape is a number of hosts that have, or have left, the same.
type HostShape struct {
	// Count of such hosts.
	Count int32 `json:"count"`
	// Resources of each, under their Kubernetes names.
	Resources corev1.ResourceList `json:"resources"`
}
