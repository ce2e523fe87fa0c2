// Package podgroup gives PodGroups to pods of ours that come without one: one for
// a plain pod, and one for all pods of an owner such as a Deployment's ReplicaSet,
// a StatefulSet, a DaemonSet or a Job of Kubernetes' own kind. It is named
// podgroup-<UID of the owner, or else of the pod>, as Volcano names it, and says
// what the owner and its newest pod say: how many go together, the queue, the
// priority, and what else scheduling goes by.
//
// How many go together is what the annotation scheduling.volcano.sh/group-min-member
// says, on the pod or on its owner, else one. It is never more than the owner can
// have at a time, since such a gang would wait for ever.
//
// Next decides and is pure; the Reconciler carries out, one PodGroup at a time.
package podgroup
