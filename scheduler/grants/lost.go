package grants

import "strings"

// lost says what goes without a right, by kind.
var lost = map[string]string{
	"nodes":                                 "nothing is placed",
	"pods":                                  "nothing is placed",
	"namespaces":                            "nothing is placed",
	"priorityclasses.scheduling.k8s.io":     "nothing is placed",
	"podgroups.scheduling.volcano.sh":       "no PodGroup is placed, or its state not written",
	"queues.scheduling.volcano.sh":          "nothing is placed, or the queues root and default are not made",
	"pods/binding":                          "nothing is placed",
	"pods/status":                           "pods do not say why they wait",
	"pods/eviction":                         "pods that no disruption budget covers are deleted, and covered ones are never sent away",
	"poddisruptionbudgets.policy":           "pods are chosen to go that their budgets keep, and stay",
	"resourcequotas":                        "the quotas of namespaces do not say why pods are missing",
	"persistentvolumes":                     "pods that claim volumes wait",
	"persistentvolumeclaims":                "pods that claim volumes wait",
	"storageclasses.storage.k8s.io":         "pods whose volumes have yet to be made wait",
	"csinodes.storage.k8s.io":               "how many volumes a node can have is not known",
	"csidrivers.storage.k8s.io":             "the room that drivers tell of is not known",
	"csistoragecapacities.storage.k8s.io":   "the room that drivers tell of is not known",
	"resourceclaims.resource.k8s.io":        "pods that claim devices wait",
	"resourceclaims/status.resource.k8s.io": "pods that claim devices wait",
	"resourceslices.resource.k8s.io":        "pods that claim devices wait",
	"deviceclasses.resource.k8s.io":         "pods that claim devices wait",
	"hypernodes.topology.volcano.sh":        "network topologies are not known: gangs that need one wait",
	"hypernodes/status.topology.volcano.sh": "the number of nodes of HyperNodes is not written",
	"numatopologies.nodeinfo.volcano.sh":    "the NUMA nodes of nodes are not known",
	"podgroups.scheduling.k8s.io":           "PodGroups of Kubernetes' own API are not placed",
	"podgroups/status.scheduling.k8s.io":    "PodGroups of Kubernetes' own API do not say why they wait",
	"jobs.batch.volcano.sh":                 "what Jobs do on an eviction is not known: their gangs are neither moved nor shrunk by elastic",
	"reservations.hpc.isthmus.sh":           "reservations do not count",
	"reservations/status.hpc.isthmus.sh":    "reservations do not say whether they hold",
	"datasets.hpc.isthmus.sh":               "where data is does not count",
	"schedulingprofiles.hpc.isthmus.sh":     "the configuration is for all queues",
	"nodes.metrics.k8s.io":                  "the measured loads of nodes do not count",
	"events":                                "nothing is told as an event",
	"configmaps":                            "what is learnt is lost at the end of the program",
}

// Lost says for people what goes without a right.
func (r Right) Lost() string {
	text := lost[r.Resource]
	if text == "" {
		text = "what needs it is not done"
	}
	if r.Verb == "patch" && fallbackOf(request{verb: r.Verb, resource: strings.SplitN(r.Resource, "/", 2)[0], name: "any"}) != nil {
		return "what is to be patched is read and updated instead, if that is granted; else: " + text
	}
	return text
}
