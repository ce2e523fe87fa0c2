// Package claims is about what pods claim beside amounts: volumes and devices. It
// wraps Kubernetes' own rules: those of volume binding, as kube-scheduler and the
// volume controller have them, and the structured allocator of dynamic resource
// allocation. It knows nothing of gangs. A State is what is promised at one point of
// a placement; putting a pod on a node gives another State or a reason, so that what
// was tried is given up by forgetting it.
//
// It reads objects and changes none of them: what has to be written for a choice to
// come true is told as Got.
package claims

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// Spec is all volumes and devices of a cluster, and what is asked of them, as data.
type Spec struct {
	Volumes        []*corev1.PersistentVolume      `json:"volumes,omitempty"`
	VolumeClaims   []*corev1.PersistentVolumeClaim `json:"volumeClaims,omitempty"`
	StorageClasses []*storagev1.StorageClass       `json:"storageClasses,omitempty"`
	CSINodes       []*storagev1.CSINode            `json:"csiNodes,omitempty"`
	CSIDrivers     []*storagev1.CSIDriver          `json:"csiDrivers,omitempty"`
	Capacities     []*storagev1.CSIStorageCapacity `json:"capacities,omitempty"`
	ResourceClaims []*resourcev1.ResourceClaim     `json:"resourceClaims,omitempty"`
	ResourceSlices []*resourcev1.ResourceSlice     `json:"resourceSlices,omitempty"`
	DeviceClasses  []*resourcev1.DeviceClass       `json:"deviceClasses,omitempty"`
	// Promised are choices that are being carried out and that the objects do not
	// show yet.
	Promised []Promise `json:"promised,omitempty"`
}

// Promise is a choice for a pod on a node.
type Promise struct {
	Node string `json:"node"`
	Got  Got    `json:"got"`
}

// Asks are the claims of a pod, all of one namespace.
type Asks struct {
	Namespace string `json:"namespace"`
	Volumes   []Ask  `json:"volumes,omitempty"`
	Devices   []Ask  `json:"devices,omitempty"`
	// Missing names a claim that is still to be made for the pod, by whoever makes
	// claims of templates; the pod waits for it.
	Missing string `json:"missing,omitempty"`
}

// Ask is one claim.
type Ask struct {
	Name string `json:"name"`
	// Owner is the UID of the pod that has to own the claim, "" where anybody may.
	Owner string `json:"owner,omitempty"`
}

// Got is how the claims of a pod are met, as far as something has to be written.
type Got struct {
	Volumes []VolumeChoice `json:"volumes,omitempty"`
	Devices []DeviceChoice `json:"devices,omitempty"`
}

// Empty reports whether there is nothing to write.
func (g Got) Empty() bool { return len(g.Volumes) == 0 && len(g.Devices) == 0 }

// VolumeChoice is the volume that a claim gets.
type VolumeChoice struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	UID       string `json:"uid"`
	// Volume is a PersistentVolume that exists; "" has one made for the node.
	Volume string `json:"volume,omitempty"`
	// AnyZone says that the zone labels of volumes were not looked at, and are not to
	// be.
	AnyZone bool `json:"anyZone,omitempty"`
}

// DeviceChoice is the devices that a claim gets.
type DeviceChoice struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	UID       string `json:"uid"`
	// Allocation is nil where the claim has its devices already: then only the pod
	// has to be entered as one that uses them.
	Allocation *resourcev1.AllocationResult `json:"allocation,omitempty"`
}

// World is a compiled Spec. It is never changed.
type World struct {
	spec       Spec
	volumes    map[string]*corev1.PersistentVolume
	claims     map[string]*corev1.PersistentVolumeClaim // by namespace/name, as all below that have one
	classes    map[string]*storagev1.StorageClass
	limits     map[site]int64
	drivers    map[string]*storagev1.CSIDriver
	capacities map[string][]*capacity // by storage class
	free       map[string]*shelf      // by storage class
	prebound   map[string]*corev1.PersistentVolume

	resources map[string]*resourcev1.ResourceClaim
	shapes    map[string]string // of resource claims: equal for equal needs
	slices    map[string][]*resourcev1.ResourceSlice
	home      map[pool]string // the node that a pool is of, "" for one of several
	kinds     deviceClasses

	promised map[string]choice // by volume claim
	granted  map[string]*resourcev1.AllocationResult
	taken    map[string]string // volumes that are promised, with the claim that gets them
}

// choice is where the volume of a claim is, or is going to be.
type choice struct {
	volume string
	node   string // where it is provisioned, if there is none yet
}

// site is a node and a driver on it.
type site struct{ node, driver string }

type pool struct{ driver, name string }

func key(namespace, name string) string { return namespace + "/" + name }

// New compiles a spec and owns it from then on; the objects are shared and must not
// be changed by anybody.
func New(spec Spec) *World {
	w := &World{
		spec: spec, volumes: map[string]*corev1.PersistentVolume{}, claims: map[string]*corev1.PersistentVolumeClaim{},
		classes: map[string]*storagev1.StorageClass{}, limits: map[site]int64{}, drivers: map[string]*storagev1.CSIDriver{},
		capacities: map[string][]*capacity{}, free: map[string]*shelf{}, prebound: map[string]*corev1.PersistentVolume{},
		resources: map[string]*resourcev1.ResourceClaim{}, shapes: map[string]string{}, slices: map[string][]*resourcev1.ResourceSlice{},
		home: map[pool]string{}, kinds: deviceClasses{}, promised: map[string]choice{}, granted: map[string]*resourcev1.AllocationResult{}, taken: map[string]string{},
	}
	w.spec.sort()
	for _, p := range spec.Promised {
		for _, v := range p.Got.Volumes {
			k := key(v.Namespace, v.Claim)
			w.promised[k] = choice{volume: v.Volume, node: p.Node}
			if v.Volume != "" {
				w.taken[v.Volume] = k
			}
		}
		for _, d := range p.Got.Devices {
			if d.Allocation != nil {
				w.granted[key(d.Namespace, d.Claim)] = d.Allocation
			}
		}
	}
	w.compileVolumes()
	w.compileDevices()
	return w
}

// Spec is what the world was made of, in a canonical order; it must not be changed.
func (w *World) Spec() Spec { return w.spec }

func (s *Spec) sort() {
	byName(s.Volumes, func(o *corev1.PersistentVolume) string { return o.Name })
	byName(s.VolumeClaims, func(o *corev1.PersistentVolumeClaim) string { return key(o.Namespace, o.Name) })
	byName(s.StorageClasses, func(o *storagev1.StorageClass) string { return o.Name })
	byName(s.CSINodes, func(o *storagev1.CSINode) string { return o.Name })
	byName(s.CSIDrivers, func(o *storagev1.CSIDriver) string { return o.Name })
	byName(s.Capacities, func(o *storagev1.CSIStorageCapacity) string { return key(o.Namespace, o.Name) })
	byName(s.ResourceClaims, func(o *resourcev1.ResourceClaim) string { return key(o.Namespace, o.Name) })
	byName(s.ResourceSlices, func(o *resourcev1.ResourceSlice) string { return o.Name })
	byName(s.DeviceClasses, func(o *resourcev1.DeviceClass) string { return o.Name })
	slices.SortStableFunc(s.Promised, func(a, b Promise) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Got.first(), b.Got.first()))
	})
}

func (g Got) first() string {
	for _, v := range g.Volumes {
		return key(v.Namespace, v.Claim)
	}
	for _, d := range g.Devices {
		return key(d.Namespace, d.Claim)
	}
	return ""
}

func byName[T any](list []*T, name func(*T) string) {
	slices.SortFunc(list, func(a, b *T) int { return strings.Compare(name(a), name(b)) })
}
