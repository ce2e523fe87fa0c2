package claims

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Annotations by which the scheduler, the volume controller and provisioners talk.
// The library that has them links a client in, and no decision may do that.
const (
	// SelectedNode says for which node the volume of a claim is to be made.
	SelectedNode = "volume.kubernetes.io/selected-node"
	// BoundByController says that a volume was given to a claim by a controller, and
	// may be taken back by one.
	BoundByController = "pv.kubernetes.io/bound-by-controller"
	bindCompleted     = "pv.kubernetes.io/bind-completed"
	// noProvisioner is a class of volumes that an administrator makes.
	noProvisioner = "kubernetes.io/no-provisioner"
)

// zoneLabels are labels of volumes from before volumes said which nodes reach them.
var zoneLabels = []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion}

// shelf is the volumes of a storage class that are free, the smallest first: by the
// host that alone reaches them, and the others.
type shelf struct {
	onHost map[string][]*volume
	others []*volume
}

type volume struct {
	*corev1.PersistentVolume
	size  resource.Quantity
	reach *nodeaffinity.NodeSelector // nil is everywhere
	bad   bool
}

// capacity is room for new volumes.
type capacity struct {
	*storagev1.CSIStorageCapacity
	name string
	on   labels.Selector
}

func (w *World) compileVolumes() {
	for _, c := range w.spec.VolumeClaims {
		w.claims[key(c.Namespace, c.Name)] = c
	}
	for _, c := range w.spec.StorageClasses {
		w.classes[c.Name] = c
	}
	for _, d := range w.spec.CSIDrivers {
		w.drivers[d.Name] = d
	}
	for _, n := range w.spec.CSINodes {
		for _, d := range n.Spec.Drivers {
			if d.Allocatable != nil && d.Allocatable.Count != nil {
				w.limits[site{n.Name, d.Name}] = int64(*d.Allocatable.Count)
			}
		}
	}
	for _, c := range w.spec.Capacities {
		on, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
		if err != nil || c.NodeTopology == nil {
			on = labels.Nothing() // as in Kubernetes: it is known, and can be reached from nowhere
		}
		w.capacities[c.StorageClassName] = append(w.capacities[c.StorageClassName], &capacity{c, key(c.Namespace, c.Name), on})
	}
	var free []*volume
	for _, v := range w.spec.Volumes {
		w.volumes[v.Name] = v
		switch ref := v.Spec.ClaimRef; {
		case ref != nil:
			w.prebound[key(ref.Namespace, ref.Name)] = v
		case v.Status.Phase == corev1.VolumeAvailable && v.DeletionTimestamp == nil:
			free = append(free, newVolume(v))
		}
	}
	slices.SortStableFunc(free, func(a, b *volume) int { return cmp.Or(a.size.Cmp(b.size), strings.Compare(a.Name, b.Name)) })
	for _, v := range free {
		class := classOfVolume(v.PersistentVolume)
		s := w.free[class]
		if s == nil {
			s = &shelf{onHost: map[string][]*volume{}}
			w.free[class] = s
		}
		hosts := v.hosts()
		for _, h := range hosts {
			s.onHost[h] = append(s.onHost[h], v)
		}
		if hosts == nil {
			s.others = append(s.others, v)
		}
	}
}

func newVolume(v *corev1.PersistentVolume) *volume {
	out := &volume{PersistentVolume: v, size: v.Spec.Capacity[corev1.ResourceStorage]}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		var err error
		out.reach, err = nodeaffinity.NewNodeSelector(a.Required)
		out.bad = err != nil
	}
	return out
}

// hosts lists the values of the host name's label that the volume demands; nil where
// it demands none.
func (v *volume) hosts() []string {
	a := v.Spec.NodeAffinity
	if a == nil || a.Required == nil || len(a.Required.NodeSelectorTerms) != 1 {
		return nil
	}
	for _, e := range a.Required.NodeSelectorTerms[0].MatchExpressions {
		if e.Key == corev1.LabelHostname && e.Operator == corev1.NodeSelectorOpIn {
			return e.Values
		}
	}
	return nil
}

// admits reports whether the volume's own node affinity admits a node.
func (v *volume) admits(node *corev1.Node) bool {
	return !v.bad && (v.reach == nil || v.reach.Match(node))
}

// reaches reports whether a node reaches the volume.
func (v *volume) reaches(node *corev1.Node) bool {
	if !v.admits(node) {
		return false
	}
	for _, k := range zoneLabels {
		want, ok := v.Labels[k]
		if !ok {
			continue
		}
		have, ok := node.Labels[k]
		if !ok || !slices.Contains(strings.Split(want, "__"), have) {
			return false
		}
	}
	return true
}

// reached is reaches as far as it is looked at.
func (s *State) reached(v *volume, node *corev1.Node) bool {
	if s.over.Zones {
		return v.admits(node)
	}
	return v.reaches(node)
}

// Reaches reports whether a node reaches a volume, by its zone labels too unless
// anyZone.
func Reaches(v *corev1.PersistentVolume, node *corev1.Node, anyZone bool) bool {
	if anyZone {
		return newVolume(v).admits(node)
	}
	return newVolume(v).reaches(node)
}

// Bound reports whether a claim has its volume.
func Bound(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeName != "" && c.Annotations[bindCompleted] != ""
}

func classOf(c *corev1.PersistentVolumeClaim) string {
	if v, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return v
	}
	if c.Spec.StorageClassName != nil {
		return *c.Spec.StorageClassName
	}
	return ""
}

func classOfVolume(v *corev1.PersistentVolume) string {
	if c, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return c
	}
	return v.Spec.StorageClassName
}

// attachment tells what a claim's volume counts as among those that its driver can
// attach to a node; ok is false where nothing counts it.
func (w *World) attachment(node, k string, c choice) (at attachment, ok bool) {
	pvc := w.claims[k]
	if pvc == nil {
		return at, false
	}
	name := c.volume
	if Bound(pvc) {
		name = pvc.Spec.VolumeName
	}
	at.node = node
	if v := w.volumes[name]; v != nil {
		if v.Spec.CSI == nil {
			return at, false
		}
		at.driver, at.volume = v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle
		return at, true
	}
	class := w.classes[classOf(pvc)]
	if class == nil {
		return at, false
	}
	at.driver, at.volume = class.Provisioner, "claim "+k
	return at, true
}

// putVolumes chooses the volumes of a pod's claims and returns those that are not
// bound yet. The state is the caller's own.
func (s *State) putVolumes(node *corev1.Node, a *Asks) (out []VolumeChoice, why string) {
	var unbound, open []*corev1.PersistentVolumeClaim
	for _, ask := range a.Volumes {
		pvc, why := s.claimOf(a.Namespace, ask)
		if why != "" {
			return nil, why
		}
		waits, why := s.standing(node, pvc)
		if why != "" {
			return nil, why
		}
		if !Bound(pvc) {
			unbound = append(unbound, pvc)
		}
		if waits {
			open = append(open, pvc)
		}
	}
	// The small ones first, lest they take the large volumes.
	slices.SortStableFunc(open, func(a, b *corev1.PersistentVolumeClaim) int {
		x, y := sizeOf(a), sizeOf(b)
		return x.Cmp(y)
	})
	for _, pvc := range open {
		c, why := s.find(node, pvc)
		if why != "" {
			return nil, why
		}
		s.choose(key(pvc.Namespace, pvc.Name), c)
	}
	for _, pvc := range unbound {
		c, _ := s.decided(key(pvc.Namespace, pvc.Name))
		out = append(out, VolumeChoice{Namespace: pvc.Namespace, Claim: pvc.Name, UID: string(pvc.UID), Volume: c.volume, AnyZone: s.over.Zones})
	}
	s.use(node.Name, &Asks{Namespace: a.Namespace, Volumes: a.Volumes}, 1)
	if s.over.Limits {
		return out, ""
	}
	return out, s.overLimit(node.Name, a)
}

// decided is what was chosen for a claim that is not bound.
func (s *State) decided(k string) (choice, bool) {
	if c, ok := s.chosen.get(k); ok {
		return c, true
	}
	c, ok := s.base.world.promised[k]
	return c, ok
}

// overLimit says which driver cannot attach that many volumes to a node.
func (s *State) overLimit(node string, a *Asks) string {
	for _, ask := range a.Volumes {
		k := key(a.Namespace, ask.Name)
		c, _ := s.decided(k)
		at, ok := s.base.world.attachment(node, k, c)
		if limit, known := s.base.world.limits[at.site]; ok && known && s.base.volumes[at.site]+s.volumes.of(at.site) > limit {
			return fmt.Sprintf("driver %s can attach no more than %d volumes to it", at.driver, limit)
		}
	}
	return ""
}

func (s *State) choose(k string, c choice) {
	s.chosen.set(k, c)
	if c.volume != "" {
		s.taken.set(c.volume, k)
	}
}

func sizeOf(c *corev1.PersistentVolumeClaim) resource.Quantity {
	return c.Spec.Resources.Requests[corev1.ResourceStorage]
}

// claimOf finds a claim that can be used at all.
func (s *State) claimOf(namespace string, ask Ask) (*corev1.PersistentVolumeClaim, string) {
	pvc := s.base.world.claims[key(namespace, ask.Name)]
	switch {
	case pvc == nil:
		return nil, fmt.Sprintf("the volume claim %s does not exist", ask.Name)
	case ask.Owner != "" && !ownedBy(pvc, ask.Owner):
		return nil, fmt.Sprintf("the volume claim %s was not made for the pod", ask.Name)
	case pvc.DeletionTimestamp != nil:
		return nil, fmt.Sprintf("the volume claim %s is being deleted", ask.Name)
	case pvc.Status.Phase == corev1.ClaimLost:
		return nil, fmt.Sprintf("the volume claim %s has lost its volume", ask.Name)
	case slices.Contains(pvc.Spec.AccessModes, corev1.ReadWriteOncePod) && s.usedBy("v/"+key(namespace, ask.Name)) > 0:
		return nil, fmt.Sprintf("the volume claim %s is for one pod at a time, and another uses it", ask.Name)
	}
	return pvc, ""
}

func ownedBy(o metav1.Object, uid string) bool {
	ref := metav1.GetControllerOfNoCopy(o)
	return ref != nil && string(ref.UID) == uid
}

// standing looks at a claim's volume as far as it is decided; waits says that it is not.
func (s *State) standing(node *corev1.Node, pvc *corev1.PersistentVolumeClaim) (waits bool, why string) {
	w, k := s.base.world, key(pvc.Namespace, pvc.Name)
	name := pvc.Spec.VolumeName
	if !Bound(pvc) {
		if name != "" {
			return false, fmt.Sprintf("the volume claim %s is not bound to its volume %s yet", pvc.Name, name)
		}
		c, ok := s.decided(k)
		if !ok {
			return true, ""
		}
		if name = c.volume; name == "" {
			if c.node != node.Name {
				return false, fmt.Sprintf("the volume of claim %s is made for another node", pvc.Name)
			}
			return false, ""
		}
	}
	v := w.volumes[name]
	switch {
	case v == nil:
		return false, fmt.Sprintf("the volume %s of claim %s does not exist", name, pvc.Name)
	case !s.reached(newVolume(v), node):
		return false, fmt.Sprintf("the volume of claim %s cannot be reached from it", pvc.Name)
	}
	return false, ""
}

// find chooses the volume of a claim that has none: one that exists, or a new one.
func (s *State) find(node *corev1.Node, pvc *corev1.PersistentVolumeClaim) (choice, string) {
	w, k := s.base.world, key(pvc.Namespace, pvc.Name)
	name := classOf(pvc)
	class := w.classes[name]
	switch {
	case name == "":
		return choice{}, fmt.Sprintf("the volume claim %s has no storage class and is not bound yet", pvc.Name)
	case class == nil:
		return choice{}, fmt.Sprintf("the storage class %s of volume claim %s does not exist", name, pvc.Name)
	case class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer:
		return choice{}, fmt.Sprintf("the volume claim %s is not bound yet", pvc.Name)
	}
	if at := pvc.Annotations[SelectedNode]; at != "" {
		if at != node.Name {
			return choice{}, fmt.Sprintf("the volume of claim %s is made for another node", pvc.Name)
		}
		return choice{node: node.Name}, s.room(node, pvc, class)
	}
	if v := w.prebound[k]; v != nil && isFor(v, pvc) {
		if !s.reached(newVolume(v), node) {
			return choice{}, fmt.Sprintf("the volume of claim %s cannot be reached from it", pvc.Name)
		}
		return choice{volume: v.Name}, ""
	}
	if v := s.smallest(node, pvc, w.free[name]); v != nil {
		return choice{volume: v.Name}, ""
	}
	if class.Provisioner == noProvisioner || class.Provisioner == "" {
		return choice{}, fmt.Sprintf("no free volume of class %s suits claim %s there", name, pvc.Name)
	}
	if !allowed(class, node) {
		return choice{}, fmt.Sprintf("class %s makes no volumes for it", name)
	}
	return choice{node: node.Name}, s.room(node, pvc, class)
}

// isFor reports whether a volume that names a claim means this one.
func isFor(v *corev1.PersistentVolume, pvc *corev1.PersistentVolumeClaim) bool {
	return v.DeletionTimestamp == nil && (v.Spec.ClaimRef.UID == "" || v.Spec.ClaimRef.UID == pvc.UID)
}

// allowed reports whether a class makes volumes for a node.
func allowed(class *storagev1.StorageClass, node *corev1.Node) bool {
	if len(class.AllowedTopologies) == 0 {
		return true
	}
	return slices.ContainsFunc(class.AllowedTopologies, func(t corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			return !slices.Contains(e.Values, node.Labels[e.Key])
		})
	})
}

// smallest finds the smallest free volume that suits a claim on a node.
func (s *State) smallest(node *corev1.Node, pvc *corev1.PersistentVolumeClaim, from *shelf) *volume {
	if from == nil {
		return nil
	}
	selector := labels.Everything()
	if pvc.Spec.Selector != nil {
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(pvc.Spec.Selector); err != nil {
			return nil
		}
	}
	var best *volume
	for _, list := range [][]*volume{from.onHost[node.Labels[corev1.LabelHostname]], from.others} {
		for _, v := range list {
			if best != nil && v.size.Cmp(best.size) >= 0 {
				break
			}
			if s.suits(v, pvc, selector) && s.reached(v, node) {
				best = v
				break
			}
		}
	}
	return best
}

func (s *State) suits(v *volume, pvc *corev1.PersistentVolumeClaim, selector labels.Selector) bool {
	if _, gone := s.taken.get(v.Name); gone || s.base.world.taken[v.Name] != "" {
		return false
	}
	return v.size.Cmp(sizeOf(pvc)) >= 0 && modeOf(v.Spec.VolumeMode) == modeOf(pvc.Spec.VolumeMode) &&
		deref(v.Spec.VolumeAttributesClassName) == deref(pvc.Spec.VolumeAttributesClassName) &&
		selector.Matches(labels.Set(v.Labels)) &&
		!slices.ContainsFunc(pvc.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
			return !slices.Contains(v.Spec.AccessModes, m)
		})
}

func modeOf(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// room looks whether a driver that tells how much storage it has left has enough for
// a new volume, and spends it. The state is the caller's own.
func (s *State) room(node *corev1.Node, pvc *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) string {
	d := s.base.world.drivers[class.Provisioner]
	if d == nil || d.Spec.StorageCapacity == nil || !*d.Spec.StorageCapacity {
		return ""
	}
	size := sizeOf(pvc)
	for _, c := range s.base.world.capacities[class.Name] {
		limit := c.MaximumVolumeSize
		if limit == nil {
			limit = c.Capacity
		}
		if limit == nil || limit.Cmp(size) < 0 || !c.on.Matches(labels.Set(node.Labels)) {
			continue
		}
		if c.Capacity != nil && c.Capacity.Value()-s.spent.of(c.name) < size.Value() {
			continue
		}
		s.spent.add(c.name, size.Value())
		return ""
	}
	return fmt.Sprintf("class %s has no room there for a volume of %s", class.Name, size.String())
}
