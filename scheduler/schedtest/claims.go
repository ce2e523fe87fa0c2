package schedtest

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// LocalVolume is a free volume of a class that one host reaches, by its label
// kubernetes.io/hostname.
func LocalVolume(name, class, host, size string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: kresource.MustParse(size)}, StorageClassName: class,
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/data"}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
}

// VolumeClaim is a claim of the namespace default that is not bound.
func VolumeClaim(name, class, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: kresource.MustParse(size)}},
		},
	}
}

// StorageClass is a class whose volumes are chosen with the node of the first pod;
// without a provisioner there are none but those that exist.
func StorageClass(name, provisioner string) *storagev1.StorageClass {
	if provisioner == "" {
		provisioner = "kubernetes.io/no-provisioner"
	}
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

// Slice is the devices of a node, dev-0 and so on, each with the attribute model.
func Slice(node, driver, model string, devices int) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: node + "-" + driver, UID: types.UID(node + "-" + driver)},
		Spec:       resourcev1.ResourceSliceSpec{Driver: driver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1}},
	}
	for i := range devices {
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{
			Name:       fmt.Sprintf("dev-%d", i),
			Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"model": {StringValue: &model}},
		})
	}
	return s
}

// DeviceClass is a class of all devices of a driver.
func DeviceClass(name, driver string) *resourcev1.DeviceClass {
	return &resourcev1.DeviceClass{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec: resourcev1.DeviceClassSpec{Selectors: []resourcev1.DeviceSelector{
			{CEL: &resourcev1.CELDeviceSelector{Expression: fmt.Sprintf("device.driver == %q", driver)}},
		}},
	}
}

// ResourceClaim asks for a number of devices of a class, of a model where one is given.
func ResourceClaim(name, class, model string, count int64) *resourcev1.ResourceClaim {
	ask := &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count}
	if model != "" {
		ask.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{
			Expression: fmt.Sprintf(`device.attributes[device.driver].model == %q`, model),
		}}}
	}
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec:       resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "device", Exactly: ask}}}},
	}
}

// applyClaims has volumes bound and devices allocated, as a healthy cluster would.
func (w *World) applyClaims(b plan.Bind) {
	if b.Claims == nil {
		return
	}
	for _, v := range b.Claims.Volumes {
		for i, c := range w.Claims.VolumeClaims {
			if c.Name != v.Claim || c.Spec.VolumeName != "" {
				continue
			}
			c = c.DeepCopy()
			c.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
			c.Spec.VolumeName = v.Volume
			if v.Volume == "" {
				made := LocalVolume("made-"+v.Claim, *c.Spec.StorageClassName, b.Node, "1Ti")
				w.Claims.Volumes = append(w.Claims.Volumes, made)
				c.Spec.VolumeName = made.Name
			}
			w.Claims.VolumeClaims[i] = c
			for j, pv := range w.Claims.Volumes {
				if pv.Name == c.Spec.VolumeName {
					pv = pv.DeepCopy()
					pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: c.Namespace, Name: c.Name, UID: c.UID}
					pv.Status.Phase = corev1.VolumeBound
					w.Claims.Volumes[j] = pv
				}
			}
		}
	}
	for _, d := range b.Claims.Devices {
		for i, c := range w.Claims.ResourceClaims {
			if c.Name != d.Claim {
				continue
			}
			c = c.DeepCopy()
			if d.Allocation != nil {
				c.Status.Allocation = d.Allocation
			}
			c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: b.Name, UID: types.UID(b.UID)})
			w.Claims.ResourceClaims[i] = c
		}
	}
}

// Claiming is what a pod of the namespace default claims: v:NAME is a volume and
// d:NAME devices.
func Claiming(names ...string) *claims.Asks {
	out := &claims.Asks{Namespace: "default"}
	for _, n := range names {
		if n[:2] == "d:" {
			out.Devices = append(out.Devices, claims.Ask{Name: n[2:]})
		} else {
			out.Volumes = append(out.Volumes, claims.Ask{Name: n[2:]})
		}
	}
	return out
}
