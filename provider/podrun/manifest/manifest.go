// Package manifest is the format of the files that the provider and the pod
// runner exchange through a gang's directory on the shared filesystem. It is
// pure data: both sides import it, neither imports the other.
//
// A gang directory <staging>/<user>/g/<key> holds
//
//	podrun                  link to the pod runner, <staging>/<user>/bin/podrun-<digest>
//	gang.json               Gang, written once before submission
//	pulls.json              Pull, where images are pulled before submission
//	pods/<rank>/pod.json    Pod, written once before submission
//	pods/<rank>/volumes/<name>/...  contents of ConfigMap, Secret and other projected volumes, as first staged
//	pods/<rank>/updates/<serial>/   newer contents: update.json (Update) and volumes/<name>/..., renamed into place
//	pods/<rank>/live/<name>/        what containers see of them: a kubelet's ..data link, swapped by the runner
//	pods/<rank>/ctl/ephemeral.json  Ephemeral, written when containers are added to the running pod
//	pods/<rank>/ctl/want.json       Want, written before it where images are pulled before they are needed
//	pods/<rank>/ctl/stop    Stop, written by the provider when the pod is deleted
//	pods/<rank>/addr.json   Address, renamed into place by the runner
//	pods/<rank>/listen.json Listening, renamed into place by the runner
//	pods/<rank>/status.json Status, renamed into place by the runner on every change
//	pods/<rank>/logs/<container>/<restart>.log  CRI log format
//	end.json                End, renamed into place when the launcher ends
//	batch.log               output of the batch script
//
// Files are 0600 and directories 0700, owned by the job's user.
package manifest

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Version is the format's version; a runner refuses a Gang of another one.
const Version = 1

// Gang is what `podrun launch` needs.
type Gang struct {
	Version int    `json:"version"`
	Key     string `json:"key"`
	Attempt string `json:"attempt"`
	// Launcher says how members are started: "slurm" (srun), "pbs" (pbs_tmrsh),
	// "torque" (pbsdsh) or "local".
	Launcher string `json:"launcher"`
	// Listen has runners take requests over the network (Listening), where the
	// batch system lets no program into a running job.
	Listen bool `json:"listen,omitempty"`
	// Followed says that other jobs start when this one ends well: it does not when a
	// member was told to end, however well it took that.
	Followed bool `json:"followed,omitempty"`
	// LimitSeconds is the job's run-time limit, 0 where it names none, and
	// GraceSeconds the longest grace of its members: the launcher tells them before
	// the limit where the batch system does not.
	LimitSeconds int64 `json:"limitSeconds,omitempty"`
	GraceSeconds int64 `json:"graceSeconds,omitempty"`
	// Components in the order of the job's components. Ranks run through: the
	// first component has ranks 0 to Tasks-1, and so on.
	Components []Component `json:"components"`
	// Licenses that the job holds while it runs, as submitted.
	Licenses map[string]int64 `json:"licenses,omitempty"`
	// Members by rank.
	Members []Member `json:"members"`
}

// Component is one group of equal tasks, as submitted.
type Component struct {
	Tasks     int              `json:"tasks"`
	CPUs      int64            `json:"cpus"`
	MemoryMiB int64            `json:"memoryMiB,omitempty"`
	GPUs      map[string]int64 `json:"gpus,omitempty"` // by type; Shard counts shares of them
}

// Shard is the type under which a component has shares of a GPU, as in backends.
const Shard = "/shard"

// Devices is how many GPUs a task has whole.
func (c Component) Devices() (n int64) {
	for kind, of := range c.GPUs {
		if kind != Shard {
			n += of
		}
	}
	return n
}

// Member is what every member knows of another.
type Member struct {
	Rank      int    `json:"rank"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// Hostnames resolve to the member's address on every member: the pod's
	// hostname, hostname.subdomain, hostname.subdomain.namespace and its
	// .svc and .svc.cluster.local forms.
	Hostnames []string `json:"hostnames,omitempty"`
}

// Pod is what the runner needs to run one pod. Everything that needs the
// Kubernetes API is resolved; what only the compute node knows is left.
type Pod struct {
	Version int `json:"version"`
	Rank    int `json:"rank"`
	// Pod is the API object, with env of containers removed (see Env) and
	// without status.
	Pod corev1.Pod `json:"pod"`
	// Runtime is the runtime to use: "host", or one that runs images.
	Runtime string `json:"runtime"`
	// Images says where the images of such a runtime come from.
	Images *Images `json:"images,omitempty"`
	// Env maps a container's name to its environment, in order; a later entry
	// of the same name wins.
	Env map[string][]EnvVar `json:"env,omitempty"`
	// Volumes by name.
	Volumes map[string]Volume `json:"volumes,omitempty"`
	// GraceSeconds is the pod's termination grace period.
	GraceSeconds int64 `json:"graceSeconds"`
	// Contents are those that were staged with it.
	Contents Contents `json:"contents,omitzero"`
}

// Contents identifies what the volumes of kind "files" hold.
type Contents struct {
	// Digest of names, modes and data; tokens count by their names only.
	Digest string `json:"digest,omitempty"`
	// RenewAt is when a token in them wants to be renewed; zero without tokens.
	RenewAt metav1.Time `json:"renewAt,omitzero"`
}

// EphemeralFile is where an Ephemeral lies in the pod's directory.
const EphemeralFile = "ctl/ephemeral.json"

// Ephemeral are the containers that were added to a pod while it runs: all of
// them, in the order of the API. The runner starts each once.
type Ephemeral struct {
	Version    int                  `json:"version"`
	Containers []EphemeralContainer `json:"containers"`
}

// EphemeralContainer is one of them.
type EphemeralContainer struct {
	Container corev1.Container `json:"container"` // with its env removed
	// Target is the container whose processes it should see. Processes of the
	// runtime "host" see all of their user's.
	Target string   `json:"target,omitempty"`
	Env    []EnvVar `json:"env,omitempty"`
	// Refused says why it cannot run; then it is reported as ended.
	Refused string `json:"refused,omitempty"`
}

// Update replaces the contents of a pod's volumes of kind "files" while the pod
// lives. It holds all of them; a volume that it does not name stays as it is.
type Update struct {
	Version  int               `json:"version"`
	Contents Contents          `json:"contents"`
	Volumes  map[string]Volume `json:"volumes"`
}

// Names in a pod's directory by which an Update is handed over: the directory of
// all, which are numbered from 1, and the file in each that holds it.
const (
	UpdatesDir = "updates"
	UpdateFile = "update.json"
)

// PullSecrets is the file in a pod's directory with its pull secrets: a JSON list
// of .dockerconfigjson documents, each in base64. The runner removes it once all
// images are there.
const PullSecrets = "pull.json"

// Images says where images come from and where they are kept.
type Images struct {
	// Directory is the image store; "" is "images" in the user's staging root.
	Directory string        `json:"directory,omitempty"`
	Mirrors   []ImageMirror `json:"mirrors,omitempty"`
	CAFile    string        `json:"caFile,omitempty"`
	Insecure  []string      `json:"insecure,omitempty"`
	Archives  []string      `json:"archives,omitempty"`
}

// ImageMirror replaces a registry by another.
type ImageMirror struct {
	Registry string `json:"registry"`
	Endpoint string `json:"endpoint"`
}

// EnvVar is one environment variable. Value is bytes, since a Secret need not
// be UTF-8.
type EnvVar struct {
	Name  string `json:"name"`
	Value []byte `json:"value,omitempty"`
	// Expand asks for Kubernetes' $(NAME) expansion against earlier entries.
	Expand bool `json:"expand,omitempty"`
	// File, when set, says which key of an env file in a volume gives the value;
	// it is read when the container starts.
	File *EnvFile `json:"file,omitempty"`
	// Field, when set, is a downward API field path that is known only on the
	// node (status.podIP, status.podIPs, status.hostIP, status.hostIPs); Value is ignored.
	Field string `json:"field,omitempty"`
}

// EnvFile is one variable of a file in a volume.
type EnvFile struct {
	Volume   string `json:"volume"`
	Path     string `json:"path"`
	Key      string `json:"key"`
	Optional bool   `json:"optional,omitempty"`
}

// Volume is one volume of the pod.
type Volume struct {
	// Kind is "files" (contents in pods/<rank>/volumes/<name>), "emptyDir",
	// "memory" (emptyDir with medium Memory) or "hostPath".
	Kind string `json:"kind"`
	// Path is the host path of kind hostPath.
	Path string `json:"path,omitempty"`
	// Beneath are the directories of which one must hold what Path leads to, with
	// all links followed. Empty allows any.
	Beneath []string `json:"beneath,omitempty"`
	// Type is the hostPath's type, such as "DirectoryOrCreate".
	Type string `json:"type,omitempty"`
	// ReadOnly keeps containers from writing, whatever their mounts say.
	ReadOnly bool `json:"readOnly,omitempty"`
	// SizeBytes is the emptyDir's limit, 0 for none.
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// Modes maps a file of kind "files" to its permission bits; the default is 0644.
	Modes map[string]uint32 `json:"modes,omitempty"`
	// NodeFields maps a file of kind "files" to a downward API field path that
	// only the node knows; the runner writes the file.
	NodeFields map[string]string `json:"nodeFields,omitempty"`
}

// Address says where a member runs, for the others.
type Address struct {
	Rank    int    `json:"rank"`
	Host    string `json:"host"`
	IP      string `json:"ip"`
	Restart int    `json:"restart"` // the batch job's restart count: an older file is stale
}

// ListeningFile is where a Listening lies in the pod's directory.
const ListeningFile = "listen.json"

// Listening says where a runner takes requests over the network, and from whom:
// those who hold the secret. It is for programs of the pod's user only, and never
// leaves the gang's directory.
type Listening struct {
	Version int    `json:"version"`
	Restart int    `json:"restart"` // the batch job's restart count
	Address string `json:"address,omitempty"`
	Secret  []byte `json:"secret,omitempty"`
	// Problem is why it does not listen.
	Problem string `json:"problem,omitempty"`
}

// Phase is where a pod is in its life on the node.
type Phase string

// The phases.
const (
	PhaseStarting  Phase = "Starting" // addresses, volumes, init containers
	PhaseRunning   Phase = "Running"
	PhaseSucceeded Phase = "Succeeded"
	PhaseFailed    Phase = "Failed"
)

// Terminal reports whether no container of the pod will run again.
func (p Phase) Terminal() bool { return p == PhaseSucceeded || p == PhaseFailed }

// Status is what the runner reports of one pod. Seq grows with every write of
// one runner; Restart with every requeue of the batch job.
type Status struct {
	Version    int         `json:"version"`
	Restart    int         `json:"restart"`
	Seq        int64       `json:"seq"`
	UID        string      `json:"uid"`
	Rank       int         `json:"rank"`
	Host       string      `json:"host"`
	HostIP     string      `json:"hostIP"`
	Phase      Phase       `json:"phase"`
	Reason     string      `json:"reason,omitempty"`
	Message    string      `json:"message,omitempty"`
	StartedAt  metav1.Time `json:"startedAt"`
	FinishedAt metav1.Time `json:"finishedAt,omitzero"`
	// StoppedAt is when the batch system asked the pod to end.
	StoppedAt      metav1.Time `json:"stoppedAt,omitzero"`
	InitContainers []Container `json:"initContainers,omitempty"`
	Containers     []Container `json:"containers,omitempty"`
	// Ephemeral are the containers that were added to the running pod.
	Ephemeral []Container `json:"ephemeral,omitempty"`
	// Contents are those that the containers see now.
	Contents Contents `json:"contents,omitzero"`
	// Events are the last things to tell the user once, oldest first.
	Events []Event `json:"events,omitempty"`
}

// MaxEvents bounds Status.Events.
const MaxEvents = 16

// Event is something that a kubelet would tell as an event of the pod.
type Event struct {
	// Number grows by one with each event of the pod, through all its runs.
	Number  int64  `json:"number"`
	Type    string `json:"type"` // "Normal" or "Warning"
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Container is the state of one container. The states are Kubernetes' own
// types, so that the provider copies rather than translates.
type Container struct {
	Name         string                `json:"name"`
	ContainerID  string                `json:"containerID,omitempty"` // "<runtime>://<pod uid>/<name>/<restart>"
	ImageID      string                `json:"imageID,omitempty"`     // "<name>@<digest>", of image runtimes
	State        corev1.ContainerState `json:"state"`
	LastState    corev1.ContainerState `json:"lastState,omitzero"`
	RestartCount int32                 `json:"restartCount"`
	Ready        bool                  `json:"ready"`
	Started      bool                  `json:"started"`
	// Usage is what the present run has used; nil before the first measurement.
	Usage *Usage `json:"usage,omitempty"`
}

// Usage is a measurement of a container's processes.
type Usage struct {
	Time            metav1.MicroTime `json:"time"`
	CPUNanos        uint64           `json:"cpuNanos"`  // since the start of the run, never less than before
	NanoCores       uint64           `json:"nanoCores"` // mean since the measurement before
	RSSBytes        uint64           `json:"rssBytes"`
	WorkingSetBytes uint64           `json:"workingSetBytes"`
}

// Stop asks the runner to end the pod as a kubelet would: preStop, SIGTERM, SIGKILL
// when the grace is over. Without a grace there is only the last.
type Stop struct {
	GraceSeconds int64 `json:"graceSeconds"`
	// Reason is for the status of a pod that fails by it.
	Reason string `json:"reason,omitempty"`
}

// ReasonDeleted is the reason of the stop of a pod that was deleted.
const ReasonDeleted = "Deleted"

// StopOrder asks for the end of members of one gang. `podrun agent stop` reads
// one a line of JSON, and gives one Answer for each.
type StopOrder struct {
	Key   string       `json:"key"`
	Stops map[int]Stop `json:"stops"` // by rank
}

// End is written once all members ended.
type End struct {
	Restart    int         `json:"restart"`
	ExitCode   int         `json:"exitCode"`
	Message    string      `json:"message,omitempty"`
	FinishedAt metav1.Time `json:"finishedAt"`
	// OutOfMemory: members ended without a last word, and the batch system said that it
	// killed them all for the memory that they used.
	OutOfMemory bool `json:"outOfMemory,omitempty"`
}

// StageHeader stands before each gang's tar in the input of `podrun agent
// stage`, as one line of JSON, and alone in that of `podrun agent remove` and
// `podrun agent pull`.
type StageHeader struct {
	Key   string `json:"key"`
	Bytes int64  `json:"bytes"` // of the tar that follows; 0 where none does
}

// Answer is what became of one gang, one line of JSON in the order of the
// input.
type Answer struct {
	Key   string `json:"key"`
	Code  int    `json:"code"` // exit code of the verb, were it for this gang alone
	Error string `json:"error,omitempty"`
}

// Collected is the answer of `podrun agent collect`: everything the provider
// reads in a tick, in one pass.
type Collected struct {
	Gangs map[string]CollectedGang `json:"gangs"`
	// Identity is who ran the verb.
	Identity Identity `json:"identity,omitzero"`
}

// Identity is a user of the cluster in numbers.
type Identity struct {
	UID    int64   `json:"uid,omitempty"`
	GID    int64   `json:"gid,omitempty"`
	Groups []int64 `json:"groups,omitempty"`
}

// CollectedGang is what one gang directory says.
type CollectedGang struct {
	Pods map[int]Status `json:"pods,omitempty"`
	End  *End           `json:"end,omitempty"`
	// Ranks maps a member's pod UID to its rank, from gang.json: after a restart
	// the provider knows the directory's ranks from nowhere else.
	Ranks map[string]int `json:"ranks,omitempty"`
	// Components are those of gang.json: what a rank holds on its host.
	Components []Component `json:"components,omitempty"`
	// Licenses are those of gang.json.
	Licenses map[string]int64 `json:"licenses,omitempty"`
	// BatchLogTail is the end of batch.log, at most 2 KiB, given once End is
	// set or no pod has a status: it explains a launcher that failed.
	BatchLogTail string `json:"batchLogTail,omitempty"`
}

// Requests gives what the task of each rank holds, from components in order.
func Requests(components []Component) []Component {
	var out []Component
	for _, c := range components {
		for range c.Tasks {
			one := c
			one.Tasks = 1
			out = append(out, one)
		}
	}
	return out
}
