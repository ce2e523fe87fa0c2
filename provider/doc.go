// Package provider is the virtual kubelet of one BatchCluster: it keeps the
// virtual nodes registered, carries pods through the held-submit protocol of
// provider/lifecycle, and reports what the batch system and the pod runner say.
//
// The parts, each a file or two:
//
//	bridge.go    one pass: pods -> gangs -> decisions, level-triggered
//	drive.go     the steps of one gang and its pods' status
//	perform.go   every external effect, through one effect.Gate
//	observe.go   one list query and one collection a user and tick
//	sweep.go     what nobody owns any more: jobs and directories, with a brake
//	podapi.go    the Kubernetes side as a small interface, with preconditions
//	nodes.go     node objects, leases and conditions
//	daemon.go    wiring and the loop in time
//
// virtual-kubelet's node controller and HTTP handlers are used; its pod
// controller is not, since its identity is a name, it deletes pods whose jobs
// still run, and it overwrites conditions of others.
package provider
