// Package hypernode discovers HyperNodes: from labels of nodes, one label a tier,
// and from Slurm's own description of its network, topology.conf or what
// `scontrol show topology` prints. What it made carries the label
// volcano.sh/network-topology-source and follows what it was made from; HyperNodes
// of users are left alone.
//
// FromLabels and FromSlurm are pure, the Reconciler writes what they say.
package hypernode
