package provider

import (
	"errors"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
)

// maxGang bounds what a size annotation may claim.
const maxGang = 100_000

// facts reads what the protocol needs to know from a pod. A malformed gang
// annotation makes the pod a gang of its own rather than part of somebody
// else's.
func facts(pod *corev1.Pod) lifecycle.Pod {
	p := lifecycle.Pod{
		UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name,
		Size:      1,
		Deleting:  pod.DeletionTimestamp != nil,
		Finished:  pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed,
		Failed:    pod.Status.Phase == corev1.PodFailed,
		Finalizer: slices.Contains(pod.Finalizers, wellknown.FinalizerBatchJob),
		Intent:    backends.Key(pod.Annotations[wellknown.SubmitIntent]),
		JobID:     backends.JobID(pod.Annotations[wellknown.BatchJobID]),
		User:      pod.Annotations[wellknown.BatchUser],
	}
	attempt := pod.Annotations[wellknown.GangAttempt]
	size, errSize := strconv.Atoi(pod.Annotations[wellknown.GangSize])
	rank, errRank := strconv.Atoi(pod.Annotations[wellknown.GangRank])
	if attempt != "" && errSize == nil && errRank == nil && size >= 1 && size <= maxGang && rank >= 0 && rank < size {
		// A gang never spans namespaces or nodes, whatever annotations say.
		p.Attempt = pod.Namespace + "/" + pod.Spec.NodeName + "/" + attempt
		p.Size, p.Rank = size, rank
	}
	return p
}

func isGone(err error) bool     { return errors.Is(err, ErrGone) }
func isConflict(err error) bool { return errors.Is(err, ErrConflict) }
