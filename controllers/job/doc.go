// Package job reconciles Volcano Jobs: it reads a job with its pods and its
// PodGroup, asks the machine what follows, and carries that out. It decides
// nothing itself and keeps nothing in memory between two passes.
//
// Identity is the UID: only objects whose controller is the job's UID are the
// job's. An object of the same name that belongs to something else, for example
// a pod of an older job of this name that is still ending, is waited for and
// never adopted. Names are deterministic, so that a repeated create is harmless.
package job
