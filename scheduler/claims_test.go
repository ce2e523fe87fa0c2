package scheduler_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// claimWorld has two nodes of zones a and b, four processors each, with one local
// class, one that is provisioned, and two devices a node.
func claimWorld() *schedtest.World {
	w := schedtest.NewWorld()
	for _, n := range []string{"a", "b"} {
		node := schedtest.Real(n, resource.Quantity{Name: "cpu", Amount: 4000}, resource.Quantity{Name: "pods", Amount: 110})
		node.Labels = map[string]string{corev1.LabelHostname: n, corev1.LabelTopologyZone: n}
		w.SetNode(node)
	}
	w.Claims = &claims.Spec{
		StorageClasses: []*storagev1.StorageClass{schedtest.StorageClass("local", ""), schedtest.StorageClass("made", "csi.example.com")},
		DeviceClasses:  []*resourcev1.DeviceClass{schedtest.DeviceClass("gpu", "gpu.example.com")},
		ResourceSlices: []*resourcev1.ResourceSlice{schedtest.Slice("a", "gpu.example.com", "x", 2), schedtest.Slice("b", "gpu.example.com", "y", 2)},
	}
	return w
}

// claimGang adds a gang of one pod for each of the lists of claims.
func claimGang(w *schedtest.World, name string, pods ...[]string) *schedtest.Gang {
	g := w.AddGang(name, int64(len(pods)))
	for _, names := range pods {
		g.AddPods("w", 1, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1000}), Claims: schedtest.Claiming(names...)})
	}
	return g
}

// claimCycle runs a cycle on the snapshot as it is written and read, carries it out,
// and returns the bindings and why gangs wait.
func claimCycle(t *testing.T, w *schedtest.World) (binds []string, waits string) {
	t.Helper()
	var text bytes.Buffer
	if err := w.Snapshot().Write(&text); err != nil {
		t.Fatal(err)
	}
	s, err := snapshot.Read(bytes.NewReader(text.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	p := scheduler.Cycle(schedtest.Pipeline(), s, w.Now)
	if again := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now); again.String() != p.String() {
		t.Fatalf("the snapshot that was read decides\n%s\nand the one itself\n%s", p, again)
	}
	w.Apply(p)
	for _, l := range strings.Split(p.String(), "\n") {
		if l = strings.TrimSpace(l); strings.HasPrefix(l, "bind ") {
			binds = append(binds, strings.TrimPrefix(l, "bind "))
		}
	}
	for _, u := range p.Unschedulable {
		waits += u.Name + " " + string(u.Code) + ": " + u.Message + "\n"
	}
	return binds, waits
}

func expectBinds(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("bound\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func expectWait(t *testing.T, binds []string, waits string, want ...string) {
	t.Helper()
	if len(binds) > 0 {
		t.Errorf("bound %v", binds)
	}
	for _, w := range want {
		if !strings.Contains(waits, w) {
			t.Errorf("waits with %q, which does not say %q", waits, w)
		}
	}
}

// TestLocalVolumes: each member gets a volume of its own where it runs, of the size
// it asks for; a gang for which one is missing waits whole.
func TestLocalVolumes(t *testing.T) {
	w := claimWorld()
	w.Claims.Volumes = append(w.Claims.Volumes, schedtest.LocalVolume("a-small", "local", "a", "10Gi"), schedtest.LocalVolume("b-large", "local", "b", "100Gi"))
	for i, size := range []string{"5Gi", "50Gi", "5Gi"} {
		w.Claims.VolumeClaims = append(w.Claims.VolumeClaims, schedtest.VolumeClaim(fmt.Sprintf("c%d", i), "local", size))
	}
	claimGang(w, "g", []string{"v:c0"}, []string{"v:c1"}, []string{"v:c2"})
	binds, waits := claimCycle(t, w)
	expectWait(t, binds, waits, "2 of 3 members find a node", "2 nodes: no free volume of class local suits claim c2 there")

	w.Claims.Volumes = append(w.Claims.Volumes, schedtest.LocalVolume("b-small", "local", "b", "10Gi"))
	binds, _ = claimCycle(t, w)
	expectBinds(t, binds, "g-w-0 -> a rank=0 c0=a-small", "g-w-1 -> b rank=1 c1=b-large", "g-w-2 -> b rank=2 c2=b-small")

	// What is bound holds its users where it is, and nobody else gets it.
	claimGang(w, "more", []string{"v:c1"})
	w.Claims.VolumeClaims = append(w.Claims.VolumeClaims, schedtest.VolumeClaim("c3", "local", "1Gi"))
	claimGang(w, "late", []string{"v:c3"})
	binds, waits = claimCycle(t, w)
	expectBinds(t, binds, "more-w-0 -> b rank=0")
	expectWait(t, nil, waits, "late NodesDontMatch: nodes: 2 nodes: no free volume of class local suits claim c3 there")
}

// TestVolumesSuit: what a claim says about its volume is obeyed.
func TestVolumesSuit(t *testing.T) {
	w := claimWorld()
	net := schedtest.LocalVolume("net", "local", "", "10Gi")
	net.Spec.NodeAffinity, net.Labels = nil, map[string]string{"tier": "fast", corev1.LabelTopologyZone: "b__c"}
	w.Claims.Volumes = []*corev1.PersistentVolume{net}
	c := schedtest.VolumeClaim("c", "local", "1Gi")
	w.Claims.VolumeClaims = []*corev1.PersistentVolumeClaim{c}
	g := claimGang(w, "g", []string{"v:c"})
	for name, spoil := range map[string]func(*corev1.PersistentVolumeClaim){
		"selector": func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "slow"}}
		},
		"access mode": func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		},
		"volume mode": func(c *corev1.PersistentVolumeClaim) {
			block := corev1.PersistentVolumeBlock
			c.Spec.VolumeMode = &block
		},
	} {
		other := c.DeepCopy()
		spoil(other)
		w.Claims.VolumeClaims[0] = other
		if binds, waits := claimCycle(t, w); len(binds) > 0 {
			t.Errorf("with another %s %v is bound", name, binds)
		} else if !strings.Contains(waits, "suits claim c") {
			t.Errorf("with another %s it waits with %q", name, waits)
		}
	}
	w.Claims.VolumeClaims[0] = c
	c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "fast"}}
	binds, _ := claimCycle(t, w)
	expectBinds(t, binds, "g-w-0 -> b rank=0 c=net") // by the zone label
	if g.Pods[0].Node != "b" {
		t.Errorf("the pod is on %q", g.Pods[0].Node)
	}
}

// TestVolumesAreMade: a class that makes volumes makes them where it may, as long as
// its driver has room; a claim that is asked for stays with its node.
func TestVolumesAreMade(t *testing.T) {
	w := claimWorld()
	yes := true
	w.Claims.StorageClasses[1].AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyZone, Values: []string{"b", "c"}}}}}
	w.Claims.CSIDrivers = []*storagev1.CSIDriver{{ObjectMeta: metav1.ObjectMeta{Name: "csi.example.com"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &yes}}}
	room := kresource.MustParse("15Gi")
	w.Claims.Capacities = []*storagev1.CSIStorageCapacity{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "room"}, StorageClassName: "made", Capacity: &room,
		NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelTopologyZone: "b"}},
	}}
	for _, c := range []string{"c0", "c1"} {
		w.Claims.VolumeClaims = append(w.Claims.VolumeClaims, schedtest.VolumeClaim(c, "made", "10Gi"))
	}
	claimGang(w, "g", []string{"v:c0"}, []string{"v:c1"})
	binds, waits := claimCycle(t, w)
	expectWait(t, binds, waits, "1 node: class made makes no volumes for it", "1 node: class made has no room there for a volume of 10Gi")
	room.Add(room)
	binds, _ = claimCycle(t, w)
	expectBinds(t, binds, "g-w-0 -> b rank=0 c0=new", "g-w-1 -> b rank=1 c1=new")

	w = claimWorld()
	c := schedtest.VolumeClaim("c", "made", "1Gi")
	c.Annotations = map[string]string{claims.SelectedNode: "b"}
	w.Claims.VolumeClaims = []*corev1.PersistentVolumeClaim{c}
	claimGang(w, "g", []string{"v:c"}, []string{"v:c"})
	binds, _ = claimCycle(t, w)
	expectBinds(t, binds, "g-w-0 -> b rank=0 c=new", "g-w-1 -> b rank=1 c=new")
}

// TestVolumesInTheWay: reasons of claims that cannot be met anywhere.
func TestVolumesInTheWay(t *testing.T) {
	for name, c := range map[string]struct {
		claim *corev1.PersistentVolumeClaim
		spoil func(*schedtest.World)
		want  string
	}{
		"none":     {want: "the volume claim c does not exist"},
		"no class": {claim: schedtest.VolumeClaim("c", "", "1Gi"), want: "the volume claim c has no storage class and is not bound yet"},
		"unknown":  {claim: schedtest.VolumeClaim("c", "gold", "1Gi"), want: "the storage class gold of volume claim c does not exist"},
		"immediate": {claim: schedtest.VolumeClaim("c", "made", "1Gi"), want: "the volume claim c is not bound yet", spoil: func(w *schedtest.World) {
			now := storagev1.VolumeBindingImmediate
			w.Claims.StorageClasses[1].VolumeBindingMode = &now
		}},
		"deleted": {claim: schedtest.VolumeClaim("c", "made", "1Gi"), want: "the volume claim c is being deleted", spoil: func(w *schedtest.World) {
			w.Claims.VolumeClaims[0].DeletionTimestamp = &metav1.Time{Time: w.Now}
		}},
		"lost": {claim: schedtest.VolumeClaim("c", "made", "1Gi"), want: "the volume claim c has lost its volume", spoil: func(w *schedtest.World) {
			w.Claims.VolumeClaims[0].Status.Phase = corev1.ClaimLost
		}},
		"one pod": {claim: schedtest.VolumeClaim("c", "made", "1Gi"), want: "the volume claim c is for one pod at a time, and another uses it", spoil: func(w *schedtest.World) {
			w.Claims.VolumeClaims[0].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
			claimGang(w, "before", []string{"v:c"})
			w.Gangs[0], w.Gangs[1] = w.Gangs[1], w.Gangs[0]
			w.Gangs[0].CreatedAt = 0
		}},
		"limit": {claim: schedtest.VolumeClaim("c", "made", "1Gi"), want: "2 nodes: driver csi.example.com can attach no more than 0 volumes to it", spoil: func(w *schedtest.World) {
			for _, n := range w.Nodes {
				w.Claims.CSINodes = append(w.Claims.CSINodes, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: n.Name}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
					{Name: "csi.example.com", Allocatable: &storagev1.VolumeNodeResources{Count: new(int32)}},
				}}})
			}
		}},
	} {
		w := claimWorld()
		if c.claim != nil {
			w.Claims.VolumeClaims = append(w.Claims.VolumeClaims, c.claim)
		}
		claimGang(w, "g", []string{"v:c"})
		if c.spoil != nil {
			c.spoil(w)
		}
		_, waits := claimCycle(t, w)
		if !strings.Contains(waits, "g No") || !strings.Contains(waits, c.want) {
			t.Errorf("%s: waits with %q, want %q", name, waits, c.want)
		}
	}
}

// TestDevices: a gang of which each member claims a device gets all or none; a shared
// claim holds all of its pods on one node.
func TestDevices(t *testing.T) {
	w := claimWorld()
	var five [][]string
	for i := range 5 {
		name := fmt.Sprintf("d%d", i)
		w.Claims.ResourceClaims = append(w.Claims.ResourceClaims, schedtest.ResourceClaim(name, "gpu", "", 1))
		five = append(five, []string{"d:" + name})
	}
	claimGang(w, "five", five...)
	binds, waits := claimCycle(t, w)
	expectWait(t, binds, waits, "five NoCapacity", "4 of 5 members find a node", "its free devices do not meet resource claim d4")

	claimGang(w, "four", five[:4]...)
	binds, waits = claimCycle(t, w)
	expectBinds(t, binds, "four-w-0 -> a rank=0 d0=[a/dev-0]", "four-w-1 -> a rank=1 d1=[a/dev-1]", "four-w-2 -> b rank=2 d2=[b/dev-0]", "four-w-3 -> b rank=3 d3=[b/dev-1]")
	if !strings.Contains(waits, "five ") {
		t.Errorf("waits: %q", waits)
	}

	w = claimWorld()
	w.Claims.ResourceClaims = []*resourcev1.ResourceClaim{schedtest.ResourceClaim("both", "gpu", "y", 2)}
	claimGang(w, "shared", []string{"d:both"}, []string{"d:both"})
	binds, _ = claimCycle(t, w)
	expectBinds(t, binds, "shared-w-0 -> b rank=0 both=[b/dev-0,b/dev-1]", "shared-w-1 -> b rank=1 both=[b/dev-0,b/dev-1]")
	claimGang(w, "third", []string{"d:both"})
	binds, _ = claimCycle(t, w)
	expectBinds(t, binds, "third-w-0 -> b rank=0 both=[]") // only entered as a user
}

// TestDevicesInTheWay: reasons of resource claims that cannot be met.
func TestDevicesInTheWay(t *testing.T) {
	for name, c := range map[string]struct {
		claim *resourcev1.ResourceClaim
		want  []string
	}{
		"none":     {want: []string{"the resource claim d does not exist"}},
		"selector": {claim: schedtest.ResourceClaim("d", "gpu", "none", 1), want: []string{"2 nodes: its free devices do not meet resource claim d"}},
		"count":    {claim: schedtest.ResourceClaim("d", "gpu", "", 3), want: []string{"2 nodes: its free devices do not meet resource claim d"}},
		"class":    {claim: schedtest.ResourceClaim("d", "tpu", "", 1), want: []string{"its devices cannot be allocated", "the device class tpu does not exist"}},
	} {
		w := claimWorld()
		if c.claim != nil {
			w.Claims.ResourceClaims = []*resourcev1.ResourceClaim{c.claim}
		}
		claimGang(w, "g", []string{"d:d"})
		if binds, waits := claimCycle(t, w); len(binds) > 0 || !strings.Contains(waits, c.want[0]) || !strings.Contains(waits, c.want[len(c.want)-1]) {
			t.Errorf("%s: %v; waits with %q, want %q", name, binds, waits, c.want)
		}
	}
	w := claimWorld()
	g := claimGang(w, "g", []string{"d:d"})
	g.Pods[0].Needs.Claims = &claims.Asks{Namespace: "default", Missing: "the resource claim gpu of the pod is not made yet"}
	binds, waits := claimCycle(t, w)
	expectWait(t, binds, waits, "the resource claim gpu of the pod is not made yet")
}

// TestDevicesLeftBehind: what a gang got that could not be bound after all is taken
// over where it is of no use, and a head's devices are kept for it.
func TestDevicesLeftBehind(t *testing.T) {
	w := claimWorld()
	d := schedtest.ResourceClaim("d", "gpu", "", 1)
	w.Claims.ResourceClaims = []*resourcev1.ResourceClaim{d}
	g := claimGang(w, "g", []string{"d:d"})
	w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
	if g.Pods[0].Node != "a" {
		t.Fatalf("the pod is on %q", g.Pods[0].Node)
	}
	g.Pods[0].Node, g.Pods[0].Attempt = "", "" // the binding never happened
	w.Nodes[0].Unschedulable = true
	binds, _ := claimCycle(t, w)
	expectBinds(t, binds, "g-w-0 -> b rank=0 d=[b/dev-0]")
}

// TestVirtualNodesHaveNoClaims: volumes are the batch system's matter, and devices
// are asked for by amount there.
func TestVirtualNodesHaveNoClaims(t *testing.T) {
	w, err := schedtest.Run(strings.TrimSpace(`
virtual c shape=2*cpu=8
plain p cpu=1
cycle
----
`) + "\n")
	if err != nil || !strings.Contains(w, "bind p -> c") {
		t.Fatal(w, err)
	}
	world := claimWorld()
	world.Nodes = world.Nodes[:0]
	if _, err := world.Do("virtual c shape=2*cpu=8"); err != nil {
		t.Fatal(err)
	}
	world.Claims.ResourceClaims = []*resourcev1.ResourceClaim{schedtest.ResourceClaim("d", "gpu", "", 1)}
	claimGang(world, "volumes", []string{"v:nobody-knows"})
	claimGang(world, "devices", []string{"d:d"})
	binds, waits := claimCycle(t, world)
	expectBinds(t, binds, "volumes-w-0 -> c rank=0")
	expectWait(t, nil, waits, "devices NodesDontMatch: c: resource claims are not served there")
}

// TestNamespacesByLabel: a term that selects namespaces by their labels means the
// pods of those that have them now.
func TestNamespacesByLabel(t *testing.T) {
	w := claimWorld()
	there := w.AddGang("there", 1)
	there.AddPods("w", 1, snapshot.ClassSpec{Namespace: "red", Labels: map[string]string{"app": "x"}, NodeSelector: map[string]string{corev1.LabelHostname: "b"}})
	claimCycle(t, w)
	near := w.AddGang("near", 1)
	near.AddPods("w", 1, snapshot.ClassSpec{Peers: &snapshot.Peers{Near: []snapshot.PeerTerm{{
		Key: corev1.LabelHostname, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}},
		Spaces: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "red"}},
	}}}})
	cycle := func(namespaces map[string]map[string]string) plan.Plan {
		t.Helper()
		d := w.Document()
		d.Namespaces = namespaces
		s, err := d.Build()
		if err != nil {
			t.Fatal(err)
		}
		return scheduler.Cycle(schedtest.Pipeline(), s, w.Now)
	}
	if p := cycle(map[string]map[string]string{"red": {"team": "blue"}}); len(p.Placements) != 0 || !strings.Contains(p.String(), "no pod is there that the affinity demands") {
		t.Errorf("with another team:\n%s", p)
	}
	p := cycle(map[string]map[string]string{"red": {"team": "red"}})
	if len(p.Placements) != 1 || p.Placements[0].Binds[0].Node != "b" {
		t.Errorf("with the team:\n%s", p)
	}
}
