package snapshot

import (
	"cmp"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Quota is a ResourceQuota that counts all pods of its namespace. The amounts of names
// with "requests." or "limits." before them are in the units of what follows.
type Quota struct {
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	Hard      resource.List `json:"hard,omitempty"`
	Used      resource.List `json:"used,omitempty"`
}

// SetQuotas gives the snapshot its quotas before it is used.
func (s *Snapshot) SetQuotas(all []Quota) {
	s.Quotas = slices.Clone(all)
	slices.SortFunc(s.Quotas, func(a, b Quota) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
}

// QuotaBase is the resource that a name of a quota is about.
func QuotaBase(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "requests."), "limits.")
}
