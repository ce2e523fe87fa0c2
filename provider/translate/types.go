// Package translate turns the pods of one gang into one batch job, the pod
// runner's manifests and the contents of their volumes. What the batch system
// or the runtime cannot give is refused by field, with what to do instead;
// nothing is dropped in silence. The package is pure: the caller resolves
// ConfigMaps and Secrets before, and stages the result after.
package translate

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Input is everything that the translation depends on. It is never changed.
type Input struct {
	// Cluster gives the limits; only its name and spec are read.
	Cluster *hpcv1alpha1.BatchCluster
	// Node is the virtual node that all members are bound to.
	Node hpcv1alpha1.VirtualNode
	// Account is the outcome of the account mapping of the members' namespace.
	Account account.Account
	// Members of the gang, in any order, with distinct ranks and UIDs.
	Members []Member

	Key          backends.Key
	Owner        string
	Attempt      string
	Launcher     string // "slurm", "pbs", "torque" or "local"
	WorkDir      string // the gang directory
	Listen       bool   // runners take requests over the network
	Capabilities backends.Capabilities

	// GPUTypes are the GRES types that the node's hosts have, when they are
	// known; they decide whether a request can name a type.
	GPUTypes []string
	// Partition is the node's partition, when it is known: its time limits hold.
	Partition backends.Partition
	// Shards is how many shares a GPU of the partition has at most, 0 where its hosts hand
	// out none.
	Shards int64
	// Licenses are the names of the batch system's licences, where the partition is known.
	Licenses []string
	// LicensesUnread: the batch system has not told its licences of late, so that there
	// may be others.
	LicensesUnread bool
	// UID and GID are the account's numeric ids on the cluster when they are known
	// (not 0), and Groups its further groups: a pod that asks for just these has
	// what it asks for.
	UID, GID int64
	Groups   []int64
	// APIServer is host:port under which compute hosts reach the API server, for
	// pods that carry tokens; empty when nobody said.
	APIServer string
}

// Member is one pod of the gang with the objects it refers to, by name. An
// object that does not exist is absent from the map.
type Member struct {
	Rank       int
	Pod        *corev1.Pod
	ConfigMaps map[string]*corev1.ConfigMap
	Secrets    map[string]*corev1.Secret
	// Claims are the PersistentVolumeClaims of the pod's volumes.
	Claims map[string]*corev1.PersistentVolumeClaim
	// Tokens of the pod's service account, as Tokens asks for them. They count only
	// where the account allows them.
	Tokens map[TokenRequest]string
	// Traceparent is what the containers are told of the trace that the pod is part
	// of, in the form of W3C Trace Context; empty tells nothing.
	Traceparent string
	// RenewAt is when the first of Tokens wants to be renewed.
	RenewAt metav1.Time
}

// TokenRequest is a token that the pod's volumes ask for. The lifetime is
// within MinTokenSeconds and MaxTokenSeconds, whatever the pod says.
type TokenRequest struct {
	Audience string // empty is the API server's own
	Seconds  int64
}

// Bounds of a token's life in seconds: the API server gives none shorter, and a
// compute host gets none longer.
const (
	MinTokenSeconds = 600
	MaxTokenSeconds = 3600
)

// Output is a gang ready to be staged and submitted. Equal inputs give equal
// outputs.
type Output struct {
	Spec backends.JobSpec
	Gang manifest.Gang
	// Pods by task rank.
	Pods []manifest.Pod
	// Files holds the volumes of kind "files": task rank, volume, relative path.
	Files map[int]map[string]map[string]File
	// PullSecrets holds .dockerconfigjson documents by task rank.
	PullSecrets map[int][][]byte
	// Ranks maps a pod's UID to its task rank, which is its rank in the gang
	// directory. It differs from the gang rank when unequal members were
	// grouped into components.
	Ranks map[string]int
	// Notes tell users what is different from a kubelet but harmless, sorted
	// and without repetition.
	Notes []string
	// Events are what a kubelet would tell of the pods as well.
	Events []Event
}

// Event is a warning about one pod.
type Event struct {
	UID             string
	Reason, Message string
}

// Refresh is what the volumes of a member hold by now.
type Refresh struct {
	Update manifest.Update
	// Files of the volumes of kind "files": volume, relative path.
	Files map[string]map[string]File
}

// File is one file of a volume.
type File struct {
	Data []byte
	Mode uint32 // permission bits
	// Token says that Data is a token: it changes with every renewal.
	Token bool
}

// Reasons of a Refusal.
const (
	// ReasonInvalidSpec: the pod can never run here as it is.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonConfig: an object that the environment needs is missing; it may come.
	ReasonConfig = "CreateContainerConfigError"
	// ReasonImageName: the name of an image is none.
	ReasonImageName = "InvalidImageName"
	// ReasonMount: an object that a volume needs is missing; it may come.
	ReasonMount = "FailedMount"
)

// Refusal says why a gang cannot be submitted. It is the error of Gang.
type Refusal struct {
	// Pod is "namespace/name" of the first pod concerned, and UID its identity;
	// both are empty when the cause is not in a pod.
	Pod string
	UID string
	// Field is the path in the pod, such as "spec.containers[0].env[3].name".
	Field string
	// Value is what was found there, shortened, when it is no secret.
	Value string
	// Message says what is wrong and what to do instead.
	Message string
	// Permanent: trying again is useless unless the pod or the configuration
	// changes. Otherwise the cause may pass by itself.
	Permanent bool
	Reason    string
	// Also holds the other causes that were found.
	Also []*Refusal
}

// maxTold bounds how many causes one error text names.
const maxTold = 5

// Error tells the cause and the first of the others.
func (r *Refusal) Error() string {
	var b strings.Builder
	b.WriteString(r.one(""))
	for i, other := range r.Also {
		if i == maxTold-1 {
			fmt.Fprintf(&b, "; and %d more", len(r.Also)-i)
			break
		}
		b.WriteString("; ")
		b.WriteString(other.one(r.Pod))
	}
	return b.String()
}

// one tells a single cause; the pod is left out when it was just named.
func (r *Refusal) one(named string) string {
	text := r.Message
	if r.Value != "" {
		text = fmt.Sprintf("%q: %s", r.Value, text)
	}
	if r.Field != "" {
		text = r.Field + ": " + text
	}
	if r.Pod != "" && r.Pod != named {
		text = "pod " + r.Pod + ": " + text
	}
	return text
}

// Ref names a ConfigMap, Secret or PersistentVolumeClaim in the pod's namespace.
type Ref struct {
	Name string
	// Optional: the pod may start without it.
	Optional bool
}
