package inventory

import (
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// license adds the batch system's licences to what the node offers: all of them, since
// its partitions share them, less what others hold. They are no part of the shapes, as
// no host has them. One whose name cannot be that of a resource is not offered, and
// pods ask for it by annotation.
func (v *View) license(inv backends.Inventory, uses map[string]Use) {
	v.Licenses, v.LicensesUnread = inv.Licenses, inv.LicensesUnread
	if v.Problem != "" {
		return
	}
	for _, l := range inv.Licenses {
		name := wellknown.LicensePrefix + l.Name
		if len(validation.IsQualifiedName(name)) > 0 {
			continue
		}
		// What the node's own jobs hold is counted by the scheduler; the batch system
		// may know of fewer of ours than we do by now.
		foreign := l.Used - min(l.Used, uses[v.VirtualNode.Name].Licenses[l.Name])
		v.Capacity[corev1.ResourceName(name)] = *resource.NewQuantity(l.Total, resource.DecimalSI)
		v.Allocatable[corev1.ResourceName(name)] = *resource.NewQuantity(max(0, l.Total-foreign), resource.DecimalSI)
	}
}

// LicenseNames are the names that jobs of the node may ask for.
func (v *View) LicenseNames() []string {
	var out []string
	for _, l := range v.Licenses {
		out = append(out, l.Name)
	}
	return out
}
