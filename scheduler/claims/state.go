package claims

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/structured"

	corev1 "k8s.io/api/core/v1"
)

// State is what is promised and used at one point. Nobody sees it change: it is for one
// goroutine, since a copy may put what is in it into another form.
type State struct {
	base *base

	taken    trail[string, string] // volumes that are chosen here, with the claim that gets them
	chosen   trail[string, choice] // by volume claim
	users    sum[string]           // pods more than in base, by claim
	attached sum[attachment]
	volumes  sum[site]   // volumes more than in base
	spent    sum[string] // bytes, by CSIStorageCapacity

	devices trail[string, *resourcev1.AllocationResult] // by resource claim; nil was given back
	held    trail[string, []structured.DeviceID]        // by node, in place of base
	stamps  sum[string]                                 // by node: changes with held

	over Overlooked // in the Put that makes this state
}

// base is what the pods that are there use. What is in it grows for nobody but the
// one who makes it; failed, stamp, endless and wasted serve all States over it.
type base struct {
	world    *World
	users    map[string]int64 // pods by claim
	attached map[attachment]int64
	volumes  map[site]int64
	held     map[string][]structured.DeviceID
	waiting  map[string]bool // UIDs of pods that wait for a place

	failed map[string]string // why an allocation failed, by all that it depends on
	stamp  int64

	endless map[string]bool // claims, by their shapes, of which a search came to no end
	wasted  int             // steps of such searches
}

// attachment is a volume on a node.
type attachment struct {
	site
	volume string
}

// User is a pod that is on a node, and waits for nothing.
type User struct {
	Node string
	Asks *Asks
}

// Start is the state before anything is placed: users are the pods that are there,
// and waiting the UIDs of those that wait for a place.
func (w *World) Start(users []User, waiting map[string]bool) *State {
	b := &base{
		world: w, users: map[string]int64{}, attached: map[attachment]int64{}, volumes: map[site]int64{},
		held: map[string][]structured.DeviceID{}, waiting: waiting, failed: map[string]string{}, endless: map[string]bool{},
	}
	for _, u := range users {
		for _, a := range u.Asks.Volumes {
			k := key(u.Asks.Namespace, a.Name)
			b.users["v/"+k]++
			if at, ok := w.attachment(u.Node, k, w.promised[k]); ok {
				if b.attached[at]++; b.attached[at] == 1 {
					b.volumes[at.site]++
				}
			}
		}
		for _, a := range u.Asks.Devices {
			b.users["d/"+key(u.Asks.Namespace, a.Name)]++
		}
	}
	for _, c := range w.spec.ResourceClaims {
		k := key(c.Namespace, c.Name)
		if a := w.allocated(k); a != nil {
			b.hold(a)
		}
	}
	return &State{base: b}
}

func (b *base) hold(a *resourcev1.AllocationResult) {
	for node, ids := range b.world.devicesOf(a) {
		b.held[node] = append(b.held[node], ids...)
	}
}

// usedBy counts the pods that use a claim: v/ or d/ before its key.
func (s *State) usedBy(k string) int64 { return s.base.users[k] + s.users.of(k) }

// clone is a copy that may be changed.
func (s *State) clone() *State {
	return &State{
		base: s.base, taken: s.taken.fork(), chosen: s.chosen.fork(), users: s.users.fork(), attached: s.attached.fork(),
		volumes: s.volumes.fork(), spent: s.spent.fork(), devices: s.devices.fork(), held: s.held.fork(), stamps: s.stamps.fork(),
	}
}

// Put puts a pod on a node and returns what its claims get; why says, with "" for no
// reason, what keeps the pod off the node. The reason is a clause about the node.
func (s *State) Put(node *corev1.Node, a *Asks) (next *State, got Got, why string) {
	return s.PutOverlooking(node, a, Overlooked{})
}

// Overlooked is what is not looked at: volumes as a whole, the zones that the labels of
// volumes name, how many volumes a driver attaches to a node, or devices as a whole.
// Nothing is chosen or allocated of what is overlooked as a whole.
type Overlooked struct{ Volumes, Zones, Limits, Devices bool }

// PutOverlooking is Put without what is overlooked.
func (s *State) PutOverlooking(node *corev1.Node, a *Asks, over Overlooked) (next *State, got Got, why string) {
	if a.Missing != "" {
		return nil, Got{}, a.Missing
	}
	next = s.clone()
	next.over = over
	if !over.Volumes {
		if got.Volumes, why = next.putVolumes(node, a); why != "" {
			return nil, Got{}, why
		}
	}
	if !over.Devices {
		if got.Devices, why = next.putDevices(node, a); why != "" {
			return nil, Got{}, why
		}
	}
	return next, got, ""
}

// As puts a pod on a node with what Put got for it before, in a state that may have
// gone on since; ok is false where some of it has been given to others.
func (s *State) As(node *corev1.Node, a *Asks, got Got) (next *State, ok bool) {
	next = s.clone()
	for _, v := range got.Volumes {
		k := key(v.Namespace, v.Claim)
		if by, used := next.taken.get(v.Volume); v.Volume != "" && used && by != k {
			return nil, false
		}
		next.choose(k, choice{volume: v.Volume, node: node.Name})
	}
	for _, d := range got.Devices {
		if d.Allocation == nil {
			continue
		}
		if !next.grant(key(d.Namespace, d.Claim), d.Allocation) {
			return nil, false
		}
	}
	next.use(node.Name, a, 1)
	return next, true
}

// Leave takes a pod off a node. Devices that nobody uses any more are free again:
// the claim of a template goes with its pod. Volumes stay with their claims.
func (s *State) Leave(node string, a *Asks) *State {
	next := s.clone()
	next.use(node, a, -1)
	for _, d := range a.Devices {
		k := key(a.Namespace, d.Name)
		if d.Owner != "" && next.usedBy("d/"+k) <= 0 {
			next.giveBack(k)
		}
	}
	return next
}

// use counts a pod's claims as used once more or less. The state is the caller's own.
func (s *State) use(node string, a *Asks, n int64) {
	for _, v := range a.Volumes {
		k := key(a.Namespace, v.Name)
		s.users.add("v/"+k, n)
		c, _ := s.decided(k)
		at, ok := s.base.world.attachment(node, k, c)
		if !ok {
			continue
		}
		before := s.base.attached[at] + s.attached.of(at)
		s.attached.add(at, n)
		switch {
		case before <= 0 && before+n > 0:
			s.volumes.add(at.site, 1)
		case before > 0 && before+n <= 0:
			s.volumes.add(at.site, -1)
		}
	}
	for _, d := range a.Devices {
		s.users.add("d/"+key(a.Namespace, d.Name), n)
	}
}
