package main

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
)

// What Volcano's chart of releases 1.10 to 1.14 gives its scheduler, as far as all of
// them do: what one release alone grants is left out. It is the service account
// volcano-scheduler of namespace volcano-system.
var volcanoGrants = map[string]map[string][]string{ // by group and verbs in one word each
	"": {
		"get list watch patch delete":         {"pods"},
		"update":                              {"pods/status"},
		"create":                              {"pods/binding"},
		"create list watch update patch":      {"events"},
		"list watch update":                   {"persistentvolumeclaims", "persistentvolumes"},
		"get list watch":                      {"namespaces", "services", "replicationcontrollers"},
		"list watch":                          {"resourcequotas"},
		"get list watch update patch":         {"nodes"},
		"get list watch create delete update": {"configmaps"},
	},
	"apiextensions.k8s.io": {"create get list watch delete": {"customresourcedefinitions"}},
	"apps":                 {"get list watch": {"daemonsets", "replicasets", "statefulsets"}},
	"batch.volcano.sh": {
		"get list watch update delete": {"jobs"},
		"update patch":                 {"jobs/status"},
	},
	"coordination.k8s.io": {"get create update watch": {"leases"}},
	"nodeinfo.volcano.sh": {"get list watch delete": {"numatopologies"}},
	"policy":              {"list watch": {"poddisruptionbudgets"}},
	"scheduling.k8s.io":   {"get list watch": {"priorityclasses"}},
	"storage.k8s.io":      {"list watch": {"storageclasses", "csinodes", "csidrivers", "csistoragecapacities", "volumeattachments"}},
	"topology.volcano.sh": {"get list watch": {"hypernodes", "hypernodes/status"}},
	"scheduling.volcano.sh": {
		"get list watch create delete update": {"queues"},
		"update":                              {"queues/status"},
		"list watch update":                   {"podgroups"},
	},
	"resource.k8s.io": {
		"get list watch create update patch": {"resourceclaims"},
		"update":                             {"resourceclaims/status"},
		"get list watch create":              {"deviceclasses", "resourceslices"},
	},
}

// volcanoRole is the role without some kinds.
func volcanoRole(without ...string) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for group, byVerbs := range volcanoGrants {
		for verbs, resources := range byVerbs {
			left := slices.DeleteFunc(slices.Clone(resources), func(r string) bool { return slices.Contains(without, r) })
			if len(left) > 0 {
				out = append(out, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: left, Verbs: words(verbs)})
			}
		}
	}
	return out
}
