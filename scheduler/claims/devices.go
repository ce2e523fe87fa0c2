package claims

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
)

// features are those of the allocator that are on in Kubernetes by default, without
// those that hand one device to several claims or wait for a device after it is
// chosen: the former draws names at random, and a device that can be shared is given
// to one claim here.
var features = structured.Features{AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true}

// expressions remembers selectors that were compiled, by their text.
var expressions = cel.NewCache(maxExpressions, cel.Features{})

const (
	maxExpressions = 256
	// maxUsers is how many pods may be entered in a claim.
	maxUsers = int64(resourcev1.ResourceClaimReservedForMaxSize)
)

// deviceClasses are the classes by name, as the allocator wants to be told of them.
type deviceClasses map[string]*resourcev1.DeviceClass

// List is all of them.
func (d deviceClasses) List() ([]*resourcev1.DeviceClass, error) {
	out := make([]*resourcev1.DeviceClass, 0, len(d))
	for _, c := range d {
		out = append(out, c)
	}
	byName(out, func(c *resourcev1.DeviceClass) string { return c.Name })
	return out, nil
}

// Get is one of them.
func (d deviceClasses) Get(name string) (*resourcev1.DeviceClass, error) {
	if c := d[name]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("the device class %s does not exist", name)
}

func (w *World) compileDevices() {
	for _, c := range w.spec.DeviceClasses {
		w.kinds[c.Name] = c
	}
	for _, s := range w.spec.ResourceSlices {
		node := deref(s.Spec.NodeName)
		w.slices[node] = append(w.slices[node], s)
		p := pool{s.Spec.Driver, s.Spec.Pool.Name}
		if before, ok := w.home[p]; ok && before != node {
			node = ""
		}
		w.home[p] = node
	}
	for _, c := range w.spec.ResourceClaims {
		k := key(c.Namespace, c.Name)
		w.resources[k] = c
		text, err := json.Marshal(c.Spec)
		if err != nil { // an object of the API always encodes
			text = []byte(k)
		}
		w.shapes[k] = string(text)
	}
}

// allocated is what a claim has been given, by the object or on the way there.
func (w *World) allocated(k string) *resourcev1.AllocationResult {
	if a := w.granted[k]; a != nil {
		return a
	}
	if c := w.resources[k]; c != nil {
		return c.Status.Allocation
	}
	return nil
}

// devicesOf lists the devices of an allocation that nobody else may have, by the node
// whose they are.
func (w *World) devicesOf(a *resourcev1.AllocationResult) map[string][]structured.DeviceID {
	out := map[string][]structured.DeviceID{}
	for _, r := range a.Devices.Results {
		if r.AdminAccess != nil && *r.AdminAccess {
			continue
		}
		node := w.home[pool{r.Driver, r.Pool}]
		out[node] = append(out[node], structured.MakeDeviceID(r.Driver, r.Pool, r.Device))
	}
	return out
}

// allocation is what a claim has at this point.
func (s *State) allocation(k string) *resourcev1.AllocationResult {
	if a, ok := s.devices.get(k); ok {
		return a
	}
	return s.base.world.allocated(k)
}

func (s *State) heldOn(node string) []structured.DeviceID {
	if ids, ok := s.held.get(node); ok {
		return ids
	}
	return s.base.held[node]
}

// grant gives devices to a claim; it is false where one of them is given already.
// The state is the caller's own.
func (s *State) grant(k string, a *resourcev1.AllocationResult) bool {
	s.giveBack(k)
	for node, ids := range s.base.world.devicesOf(a) {
		have := s.heldOn(node)
		for _, id := range ids {
			if slices.Contains(have, id) {
				return false
			}
		}
		s.setHeld(node, slices.Concat(have, ids))
	}
	s.devices.set(k, a)
	return true
}

// giveBack takes from a claim what it has. The state is the caller's own.
func (s *State) giveBack(k string) {
	a := s.allocation(k)
	if a == nil {
		return
	}
	for node, ids := range s.base.world.devicesOf(a) {
		s.setHeld(node, slices.DeleteFunc(slices.Clone(s.heldOn(node)), func(id structured.DeviceID) bool { return slices.Contains(ids, id) }))
	}
	s.devices.set(k, nil)
}

func (s *State) setHeld(node string, ids []structured.DeviceID) {
	s.held.set(node, ids)
	s.base.stamp++
	s.stamps.set(node, s.base.stamp)
}

// putDevices chooses the devices of a pod's claims. The state is the caller's own.
func (s *State) putDevices(node *corev1.Node, a *Asks) (out []DeviceChoice, why string) {
	var open []*resourcev1.ResourceClaim
	for _, ask := range a.Devices {
		k := key(a.Namespace, ask.Name)
		c := s.base.world.resources[k]
		switch {
		case c == nil:
			return nil, fmt.Sprintf("the resource claim %s does not exist", ask.Name)
		case ask.Owner != "" && !ownedBy(c, ask.Owner):
			return nil, fmt.Sprintf("the resource claim %s was not made for the pod", ask.Name)
		case c.DeletionTimestamp != nil:
			return nil, fmt.Sprintf("the resource claim %s is being deleted", ask.Name)
		case s.usedBy("d/"+k) >= maxUsers:
			return nil, fmt.Sprintf("the resource claim %s is used by %d pods, which is the most", ask.Name, maxUsers)
		}
		has := s.allocation(k)
		switch {
		case has == nil:
			open = append(open, c)
		case covers(has, node):
			chosen, _ := s.devices.get(k)
			out = append(out, DeviceChoice{Namespace: c.Namespace, Claim: c.Name, UID: string(c.UID), Allocation: chosen})
		case s.idle(k, c):
			s.giveBack(k)
			open = append(open, c)
		default:
			return nil, fmt.Sprintf("the resource claim %s has its devices elsewhere", ask.Name)
		}
	}
	if len(open) > 0 {
		got, why := s.allocate(node, open)
		if why != "" {
			return nil, why
		}
		out = append(out, got...)
	}
	s.use(node.Name, &Asks{Namespace: a.Namespace, Devices: a.Devices}, 1)
	return out, ""
}

// covers reports whether devices can be used from a node.
func covers(a *resourcev1.AllocationResult, node *corev1.Node) bool {
	if a.NodeSelector == nil {
		return true
	}
	sel, err := nodeaffinity.NewNodeSelector(a.NodeSelector)
	return err == nil && sel.Match(node)
}

// idle reports whether a claim has devices that no pod uses yet, so that others may
// take their place: what is left of a gang that found no place after all.
func (s *State) idle(k string, c *resourcev1.ResourceClaim) bool {
	_, chosen := s.devices.get(k)
	if chosen || s.base.world.granted[k] != nil || s.usedBy("d/"+k) > 0 {
		return false
	}
	return !slices.ContainsFunc(c.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool {
		return !s.base.waiting[string(r.UID)]
	})
}

// allocate asks the allocator for devices of a node, and remembers a refusal for as
// long as the same devices are free.
func (s *State) allocate(node *corev1.Node, open []*resourcev1.ResourceClaim) ([]DeviceChoice, string) {
	w := s.base.world
	ofNode, shared := w.slices[node.Name], w.slices[""]
	if len(ofNode)+len(shared) == 0 {
		return nil, "it has no devices for resource claims"
	}
	var names []string
	memo := fmt.Sprintf("%s %d %d", node.Name, s.stamps.of(node.Name), s.stamps.of(""))
	shapes := ""
	for _, c := range open {
		names = append(names, c.Name)
		shapes += " " + w.shapes[key(c.Namespace, c.Name)]
	}
	memo += shapes
	if why := s.base.failed[memo]; why != "" {
		return nil, why
	}
	most := s.base.patience(shapes)
	if most == 0 {
		return nil, tooMany
	}
	results, err := s.ask(node, open, slices.Concat(ofNode, shared), most)
	why := ""
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		s.base.waste(shapes, most)
		why = tooMany
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		why = strings.TrimSpace(err.Error())
	case err != nil:
		why = "its devices cannot be allocated: " + err.Error()
	case len(results) != len(open):
		why = "its free devices do not meet resource claim " + strings.Join(names, ", ")
		if len(open) == 1 && ownedByAny(open[0]) {
			why = "its free devices do not meet a resource claim" // equal for all pods of a template
		}
	}
	if why != "" {
		s.base.failed[memo] = why
		return nil, why
	}
	out := make([]DeviceChoice, 0, len(open))
	for i, c := range open {
		if !s.grant(key(c.Namespace, c.Name), &results[i]) {
			return nil, "its devices are given to others already"
		}
		out = append(out, DeviceChoice{Namespace: c.Namespace, Claim: c.Name, UID: string(c.UID), Allocation: &results[i]})
	}
	return out, ""
}

func ownedByAny(c *resourcev1.ResourceClaim) bool { return len(c.OwnerReferences) > 0 }

func (s *State) ask(node *corev1.Node, open []*resourcev1.ResourceClaim, from []*resourcev1.ResourceSlice, most int) ([]resourcev1.AllocationResult, error) {
	state := structured.AllocatedState{
		AllocatedDevices: sets.New(s.heldOn(node.Name)...), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity: structured.NewConsumedCapacityCollection(),
	}
	state.AllocatedDevices.Insert(s.heldOn("")...)
	ctx := &steps{Context: context.Background(), left: most}
	a, err := structured.NewAllocator(ctx, features, state, s.base.world.kinds, from, expressions)
	if err != nil {
		return nil, fmt.Errorf("make allocator: %w", err)
	}
	return a.Allocate(ctx, node, open)
}
