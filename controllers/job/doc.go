// Package job reconciles Volcano Jobs: it reads a job with its pods and its
// PodGroup, asks the machine what follows, and carries that out. It decides
// nothing itself and keeps nothing in memory between two passes.
//
// Identity is the UID: only objects whose controller is the job's UID are the
// job's. An object of the same name that belongs to something else, for example
// a pod of an older job of this name that is still ending, is waited for and
// never adopted. Names are deterministic, so that a repeated create is harmless.
//
// The status is written by a merge patch with the resource version that the machine
// read, and not by server-side apply. The machine answers with the whole status, and
// the answer holds for what it read alone: a stale one must be refused, and apply
// with force would write it. The status of a Job that Volcano's controllers began has
// another owner of fields: apply without force would conflict with that for good, and
// with force it would leave the entries of maps that are no longer to be there, as of
// taskStatusCount and controlledResources, to the owner that is gone. There is one
// writer of the status at a time, by the leader's lease, so nothing is lost.
package job
