package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	kcache "k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
)

// claimed is what pods claim beside amounts, as the API says.
type claimed struct {
	volumes        shelf[*corev1.PersistentVolume]
	volumeClaims   shelf[*corev1.PersistentVolumeClaim]
	classes        shelf[*storagev1.StorageClass]
	csiNodes       shelf[*storagev1.CSINode]
	csiDrivers     shelf[*storagev1.CSIDriver]
	capacities     shelf[*storagev1.CSIStorageCapacity]
	resourceClaims shelf[*resourcev1.ResourceClaim]
	slices         shelf[*resourcev1.ResourceSlice]
	deviceClasses  shelf[*resourcev1.DeviceClass]

	idle idleness // of resourceClaims

	claimants int           // pods that claim anything
	world     *claims.World // nil when out of date
}

// shelf is objects of one kind, by namespace/name; of kinds without namespaces by /name.
type shelf[T metav1.Object] map[string]T

func placeOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func newClaimed() claimed {
	return claimed{
		volumes: shelf[*corev1.PersistentVolume]{}, volumeClaims: shelf[*corev1.PersistentVolumeClaim]{}, classes: shelf[*storagev1.StorageClass]{},
		csiNodes: shelf[*storagev1.CSINode]{}, csiDrivers: shelf[*storagev1.CSIDriver]{}, capacities: shelf[*storagev1.CSIStorageCapacity]{},
		resourceClaims: shelf[*resourcev1.ResourceClaim]{}, slices: shelf[*resourcev1.ResourceSlice]{}, deviceClasses: shelf[*resourcev1.DeviceClass]{},
		idle: newIdleness(),
	}
}

// put takes an object in, unless the one that is there is newer.
func put[T metav1.Object](c *Cache, s shelf[T], o T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := placeOf(o)
	if old, ok := s[k]; ok && old.GetUID() == o.GetUID() {
		before, now := old.GetResourceVersion(), o.GetResourceVersion()
		if before != "" && before == now || older(now, before) {
			return
		}
	}
	c.claimed.idle.changed(s[k], o)
	s[k] = o
	c.claimsChanged()
}

// drop forgets an object.
func drop[T metav1.Object](c *Cache, s shelf[T], o T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := placeOf(o)
	if old, ok := s[k]; ok && old.GetUID() == o.GetUID() {
		var none T
		c.claimed.idle.changed(old, none)
		delete(s, k)
		c.claimsChanged()
	}
}

// claimsChanged has the next snapshot look at all claims again. Where no pod has any,
// no placement depends on them.
func (c *Cache) claimsChanged() {
	c.claimed.world = nil
	if c.claimed.claimants > 0 {
		c.signal()
	}
}

// claimKinds are the kinds of volumes and devices to watch.
func (c *Cache) claimKinds(sync context.Context, ask *asker, core informers.SharedInformerFactory) []kind {
	s := &c.claimed
	out := []kind{
		kindOf(c, "persistentvolumes", core.Core().V1().PersistentVolumes().Informer(), s.volumes),
		kindOf(c, "persistentvolumeclaims", core.Core().V1().PersistentVolumeClaims().Informer(), s.volumeClaims),
		kindOf(c, "storageclasses.storage.k8s.io", core.Storage().V1().StorageClasses().Informer(), s.classes),
		kindOf(c, "csinodes.storage.k8s.io", core.Storage().V1().CSINodes().Informer(), s.csiNodes),
		kindOf(c, "csidrivers.storage.k8s.io", core.Storage().V1().CSIDrivers().Informer(), s.csiDrivers),
		kindOf(c, "csistoragecapacities.storage.k8s.io", core.Storage().V1().CSIStorageCapacities().Informer(), s.capacities),
	}
	if ask.serves(sync, resourcev1.SchemeGroupVersion.String(), "resourceclaims") {
		out = append(out,
			kindOf(c, "resourceclaims.resource.k8s.io", core.Resource().V1().ResourceClaims().Informer(), s.resourceClaims),
			kindOf(c, "resourceslices.resource.k8s.io", core.Resource().V1().ResourceSlices().Informer(), s.slices),
			kindOf(c, "deviceclasses.resource.k8s.io", core.Resource().V1().DeviceClasses().Informer(), s.deviceClasses))
	}
	return out
}

// kind is a kind of objects that is watched.
type kind struct {
	resource string // and its group after a dot, as the Cache's Denied wants it
	informer kcache.SharedIndexInformer
	set, del func(any)
}

func kindOf[T metav1.Object](c *Cache, resource string, informer kcache.SharedIndexInformer, s shelf[T]) kind {
	return kind{resource, informer, on(func(o T) { put(c, s, o) }), on(func(o T) { drop(c, s, o) })}
}

// SetVolume takes in a volume, as does each of the following its kind. What they get
// is shared, and must not be changed afterwards.
func (c *Cache) SetVolume(v *corev1.PersistentVolume) { put(c, c.claimed.volumes, v) }

// SetVolumeClaim takes in a volume claim.
func (c *Cache) SetVolumeClaim(v *corev1.PersistentVolumeClaim) { put(c, c.claimed.volumeClaims, v) }

// SetResourceClaim takes in a resource claim.
func (c *Cache) SetResourceClaim(r *resourcev1.ResourceClaim) { put(c, c.claimed.resourceClaims, r) }

// Volume is a volume as the API server last told, nil for none; nobody may change it.
func (c *Cache) Volume(name string) *corev1.PersistentVolume {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claimed.volumes["/"+name]
}

// VolumeClaim is a volume claim, likewise.
func (c *Cache) VolumeClaim(namespace, name string) *corev1.PersistentVolumeClaim {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claimed.volumeClaims[namespace+"/"+name]
}

// ResourceClaim is a resource claim, likewise.
func (c *Cache) ResourceClaim(namespace, name string) *resourcev1.ResourceClaim {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claimed.resourceClaims[namespace+"/"+name]
}

// NodeLabels are the labels of a node, nil where there is none.
func (c *Cache) NodeLabels(name string) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.nodes[name]; e != nil && e.spec != nil {
		return maps.Clone(e.spec.Labels)
	}
	return nil
}

// world is everything that is claimed, nil where no pod claims anything.
func (c *Cache) world() *claims.World {
	s := &c.claimed
	if s.claimants == 0 {
		return nil
	}
	if s.world == nil {
		spec := claims.Spec{
			Volumes: values(s.volumes), VolumeClaims: values(s.volumeClaims), StorageClasses: values(s.classes), CSINodes: values(s.csiNodes),
			CSIDrivers: values(s.csiDrivers), Capacities: values(s.capacities), ResourceClaims: values(s.resourceClaims),
			ResourceSlices: values(s.slices), DeviceClasses: values(s.deviceClasses),
		}
		for _, a := range c.assumed {
			if a.Claims != nil {
				spec.Promised = append(spec.Promised, claims.Promise{Node: a.Node, Got: *a.Claims})
			}
		}
		s.world = claims.New(spec)
	}
	return s.world
}

func values[T metav1.Object](s shelf[T]) []T { return slices.Collect(maps.Values(s)) }

// claimant counts a pod that claims something, or no longer does.
func (c *Cache) claimant(e *podEntry, n int) {
	if e != nil && e.spec.Claims != nil {
		c.claimed.claimants += n
	}
}

// asksOf is what a pod claims, nil for nothing.
func asksOf(p *corev1.Pod) *claims.Asks {
	out := claims.Asks{Namespace: p.Namespace}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			out.Volumes = append(out.Volumes, claims.Ask{Name: v.PersistentVolumeClaim.ClaimName})
		case v.Ephemeral != nil:
			out.Volumes = append(out.Volumes, claims.Ask{Name: p.Name + "-" + v.Name, Owner: string(p.UID)})
		}
	}
	for i := range p.Spec.ResourceClaims {
		ref := &p.Spec.ResourceClaims[i]
		name, check, err := resourceclaim.Name(p, ref)
		switch {
		case errors.Is(err, resourceclaim.ErrClaimNotFound):
			out.Missing = fmt.Sprintf("the resource claim %s of the pod is not made yet", ref.Name)
		case err != nil:
			out.Missing = fmt.Sprintf("the resource claim %s of the pod names neither a claim nor a template", ref.Name)
		case name == nil: // it needs none
		case check:
			out.Devices = append(out.Devices, claims.Ask{Name: *name, Owner: string(p.UID)})
		default:
			out.Devices = append(out.Devices, claims.Ask{Name: *name})
		}
	}
	if len(out.Volumes)+len(out.Devices) == 0 && out.Missing == "" {
		return nil
	}
	some := out
	return &some
}
