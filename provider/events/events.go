// Package events holds what the bridge tells users by events of pods and nodes:
// the words for each reason, and a sink that writes each event once, whatever
// restarts and however many daemons look.
package events

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
)

// Component is the source of all our events.
const Component = "isthmus-vnode"

// Reasons are all that an event of ours may have, each with what it means. The
// guide for users lists them in these words.
var Reasons = map[string]string{
	"AccountChanged":                  "the namespace is mapped to another user than the pod runs as; nothing is added to the pod any more",
	"BackOff":                         "a container that ended is started again after a pause",
	"BatchJobSubmitted":               "the batch job is recorded: its number, user and partition",
	"BatchQueueFull":                  "the node has as many pods in the batch queue as it may; the pod follows when some have started",
	"CreateContainerConfigError":      "a ConfigMap or Secret that the environment needs is missing; the pod waits for it",
	"EvidenceUnreadable":              "the files of a pod whose job has ended cannot be read; it stays as it is until they can",
	"Failed":                          "an image could not be pulled",
	"FailedMount":                     "an object that a volume needs is missing, or its newer contents could not be handed over",
	"FailedPostStartHook":             "the postStart hook of a container failed, and the container is killed",
	"FailedPreStopHook":               "the preStop hook of a container failed, and the container is terminated all the same",
	"ForeignJob":                      "the job that the pod names is not its own: nothing is done to it",
	"HostsNotSupported":               "includeHosts and excludeHosts of the node need what the batch system cannot do",
	"ImageUser":                       "the image names a user that its programs do not run as: the account of the job is who runs",
	"InvalidConfiguration":            "the new configuration of the BatchCluster is not valid; the last good one goes on",
	"InvalidEnvironmentVariableNames": "keys of a ConfigMap or Secret are no names of variables, and are left out",
	"InvalidImageName":                "the name of an image is none",
	"InvalidSpec":                     "the pod can never run here as it is: the field that is in the way",
	"Killing":                         "a container is killed, and why",
	"MemberElsewhere":                 "the gang's batch job stays held, for it holds a pod that another batch job runs",
	"NamespaceUnknown":                "the namespace is not known yet",
	"NoAccount":                       "no account of the BatchCluster matches the namespace",
	"Note":                            "something is harmless and different from a kubelet",
	"PartitionNotFound":               "the node stands for no partition any more",
	"PartitionNotKnown":               "the hosts of the partition are not known yet",
	"PartitionNotUsable":              "the partition takes no jobs now, or leaves no host",
	"Retrying":                        "what the pod waits for failed several times, in the words of the batch system or the API server; it is tried again each minute",
	"StagingUnread":                   "the job stays held until the directory that tells which pods it runs has been read",
	"SubmitRejected":                  "the batch system refused the job, in its own words",
	"Unhealthy":                       "a probe of a container failed",
}

// Sink writes events under names that follow from what they say and of whom. So
// one that is told again, after a restart of the daemon or by another one, is the
// same object, whose time is brought up to date.
type Sink struct{ record.EventSink }

// Create implements record.EventSink.
func (s Sink) Create(e *corev1.Event) (*corev1.Event, error) {
	e = e.DeepCopy()
	e.Name = Name(e)
	out, err := s.EventSink.Create(e)
	if !apierrors.IsAlreadyExists(err) {
		return out, err // as it is: the recorder tells refusals by it
	}
	patch, err := json.Marshal(map[string]any{"lastTimestamp": metav1.NewTime(e.LastTimestamp.UTC().Truncate(time.Second))})
	if err != nil {
		return nil, fmt.Errorf("encode an event's time: %w", err)
	}
	return s.Patch(e, patch)
}

// Name is the name of the object for an event: equal for events of one object
// with one type, reason and message.
func Name(e *corev1.Event) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{
		string(e.InvolvedObject.UID), e.InvolvedObject.Kind, e.InvolvedObject.FieldPath, e.Type, e.Reason, e.Message,
	}, "\x00")))
	name := e.InvolvedObject.Name
	return strings.TrimRight(name[:min(len(name), 200)], "-.") + "." + hex.EncodeToString(sum[:8])
}
