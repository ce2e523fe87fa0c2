package translate

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// claim maps a PersistentVolumeClaim to a directory of the cluster's file
// systems by spec.volumeClasses.
func (p *pod) claim(at string, src *corev1.PersistentVolumeClaimVolumeSource) (manifest.Volume, *contents, bool) {
	name := src.ClaimName
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		p.refuse(at+".claimName", name, "is not the name of a claim")
		return manifest.Volume{}, nil, false
	}
	pvc := p.Claims[name]
	switch {
	case pvc == nil:
		p.wait(ReasonMount, at+".claimName", fmt.Sprintf("persistentvolumeclaim %q not found", name))
		return manifest.Volume{}, nil, false
	case pvc.DeletionTimestamp != nil:
		p.wait(ReasonMount, at+".claimName", fmt.Sprintf("persistentvolumeclaim %q is being deleted", name))
		return manifest.Volume{}, nil, false
	case pvc.Spec.VolumeMode != nil && *pvc.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		p.refuse(at+".claimName", name, "is a block device, which cannot be attached to HPC nodes; use volumeMode Filesystem")
		return manifest.Volume{}, nil, false
	}
	class, i, err := p.volumeClass(pvc)
	switch {
	case err != nil:
		p.wait(ReasonMount, at+".claimName", err.Error())
		return manifest.Volume{}, nil, false
	case i < 0:
		p.refuse(at+".claimName", name, fmt.Sprintf("no entry of spec.volumeClasses of BatchCluster %s matches the claim (storage class %q); "+
			"the administrator adds one, or use a hostPath volume%s", p.in.Cluster.Name, storageClass(pvc), p.allowedPaths()))
		return manifest.Volume{}, nil, false
	}
	switch pvc.Status.Phase {
	case corev1.ClaimBound:
	case corev1.ClaimLost:
		p.refuse(at+".claimName", name, "has lost its volume; make a new claim")
		return manifest.Volume{}, nil, false
	default:
		p.wait(ReasonMount, at+".claimName", fmt.Sprintf("persistentvolumeclaim %q is not bound to a volume yet", name))
		return manifest.Volume{}, nil, false
	}
	dir := path.Clean(strings.NewReplacer("{user}", p.in.Account.User, "{namespace}", p.Pod.Namespace, "{claim}", name).Replace(class.Path))
	if !path.IsAbs(class.Path) || slices.Contains(strings.Split(class.Path, "/"), "..") || dir == "/" {
		p.wait(ReasonMount, at+".claimName", fmt.Sprintf("spec.volumeClasses[%d].path of BatchCluster %s is %q: it must be absolute and without \"..\"", i, p.in.Cluster.Name, class.Path))
		return manifest.Volume{}, nil, false
	}
	return manifest.Volume{
		Kind: "hostPath", Path: dir, Type: string(corev1.HostPathDirectoryOrCreate), Beneath: []string{fixed(class.Path)},
		ReadOnly: class.ReadOnly || src.ReadOnly || !writable(pvc.Spec.AccessModes),
	}, nil, true
}

// fixed is the part of a class's path that is the same for all claims: what the
// administrator vouches for.
func fixed(p string) string {
	if before, _, ok := strings.Cut(p, "{"); ok {
		return path.Dir(before + "x")
	}
	return path.Clean(p)
}

// volumeClass gives the first class that matches and its index, -1 for none.
func (p *pod) volumeClass(pvc *corev1.PersistentVolumeClaim) (class struct {
	Path     string
	ReadOnly bool
}, index int, err error) {
	for i, c := range p.in.Cluster.Spec.VolumeClasses {
		if c.StorageClassName != "" && c.StorageClassName != storageClass(pvc) {
			continue
		}
		selector := labels.Everything()
		if c.Selector != nil {
			if selector, err = metav1.LabelSelectorAsSelector(c.Selector); err != nil {
				return class, -1, fmt.Errorf("spec.volumeClasses[%d].selector of BatchCluster %s: %w", i, p.in.Cluster.Name, err)
			}
		}
		if selector.Matches(labels.Set(pvc.Labels)) {
			class.Path, class.ReadOnly = c.Path, c.ReadOnly
			return class, i, nil
		}
	}
	return class, -1, nil
}

func storageClass(pvc *corev1.PersistentVolumeClaim) string {
	if pvc.Spec.StorageClassName != nil {
		return *pvc.Spec.StorageClassName
	}
	return pvc.Annotations[corev1.BetaStorageClassAnnotation]
}

func writable(modes []corev1.PersistentVolumeAccessMode) bool {
	return len(modes) == 0 || slices.ContainsFunc(modes, func(m corev1.PersistentVolumeAccessMode) bool { return m != corev1.ReadOnlyMany })
}
