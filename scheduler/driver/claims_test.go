package driver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/scheduler/binder"
	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// startClaimControllers runs Kubernetes' own controllers that bind volumes and make
// resource claims of templates.
var startClaimControllers = sync.OnceValue(func() error {
	return plane.StartControllers("persistentvolume-binder-controller", "resourceclaim-controller")
})

// claimNodes makes ready real nodes of a test and returns their names.
func claimNodes(t *testing.T, names ...string) []string {
	t.Helper()
	if err := startClaimControllers(); err != nil {
		t.Fatal(err)
	}
	ns := plane.Namespace(t)
	for i := range names {
		names[i] = ns + "-" + names[i]
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: names[i], Labels: map[string]string{corev1.LabelHostname: names[i], "test": ns}}}
		create(t, n)
		n.Status = corev1.NodeStatus{
			Allocatable: corev1.ResourceList{"cpu": kresource.MustParse("8"), "pods": kresource.MustParse("110")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		}
		n.Status.Capacity = n.Status.Allocatable
		if err := plane.Client.Status().Update(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		n.Spec.Taints = nil // nobody else takes back the taint of a new node
		if err := plane.Client.Update(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	return append([]string{ns}, names...)
}

// claimGang makes pods that change makes different and, once their templates' claims
// are made, their gang, which is let in: so what is told of it first is about places.
func claimGang(t *testing.T, ns, name string, pods int, change func(i int, p *corev1.Pod)) {
	t.Helper()
	for i := range pods {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("%s-%d", name, i), Annotations: map[string]string{
				wellknown.PodGroupName: name, "volcano.sh/task-spec": "w", "volcano.sh/task-index": fmt.Sprint(i),
			}},
			Spec: corev1.PodSpec{
				SchedulerName: wellknown.SchedulerVolcano, NodeSelector: map[string]string{"test": ns},
				Containers: []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": kresource.MustParse("1")}}}},
			},
		}
		change(i, p)
		create(t, p)
	}
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		all, err := podsOf(ctx, ns, name)
		if err != nil {
			return err.Error()
		}
		for _, p := range all {
			if len(p.Status.ResourceClaimStatuses) != len(p.Spec.ResourceClaims) {
				return "no claims are made for pod " + p.Name
			}
		}
		return ""
	})
	create(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       volcanov1.PodGroupSpec{MinMember: int32(pods), Queue: "default"},
		Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
	})
}

// loosen takes finalizers away, so that a test's objects go though no controller
// sees to them.
func loosen(t *testing.T, o client.Object) {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.Background()
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return
		}
		patch := client.MergeFrom(o.DeepCopyObject().(client.Object)) //nolint:forcetypeassert // a copy is of the same type
		o.SetFinalizers(nil)
		_ = plane.Client.Patch(ctx, o, patch)
	})
}

// claimVolume has the pods of a gang mount claims NAME-0, NAME-1 and so on, which it makes.
func claimVolume(t *testing.T, ns, name, class string, i int, p *corev1.Pod) {
	t.Helper()
	c := schedtest.VolumeClaim(fmt.Sprintf("%s-%d", name, i), class, "1Gi")
	c.Namespace, c.UID = ns, ""
	create(t, c)
	loosen(t, c)
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}}}
}

func createClass(t *testing.T, name, provisioner string) {
	t.Helper()
	c := schedtest.StorageClass(name, provisioner)
	c.UID = ""
	create(t, c)
}

func createVolume(t *testing.T, name, class, host string, change func(*corev1.PersistentVolume)) {
	t.Helper()
	v := schedtest.LocalVolume(name, class, host, "2Gi")
	v.UID, v.Status = "", corev1.PersistentVolumeStatus{}
	if change != nil {
		change(v)
	}
	create(t, v)
	loosen(t, v)
}

// eventuallySays waits until a PodGroup's condition holds all of some words.
func eventuallySays(t *testing.T, ns, group string, words ...string) {
	t.Helper()
	eventuallyGroup(t, ns, group, func(s volcanov1.PodGroupStatus) bool {
		return slices.ContainsFunc(s.Conditions, func(c volcanov1.PodGroupCondition) bool {
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(c.Message, w) })
		})
	})
}

// TestLocalVolumesOfGang: a gang of three that claims local volumes waits while there
// are two, and is bound once the third is there and all of them are bound to their
// claims by Kubernetes' own controller, each where its pod goes.
func TestLocalVolumesOfGang(t *testing.T) {
	names := claimNodes(t, "a", "b")
	ns, a, b := names[0], names[1], names[2]
	createClass(t, ns, "")
	createVolume(t, ns+"-a", ns, a, nil)
	createVolume(t, ns+"-b0", ns, b, nil)
	w := &wire{}
	startScheduler(t, w)
	claimGang(t, ns, "g", 3, func(i int, p *corev1.Pod) { claimVolume(t, ns, "c", ns, i, p) })
	eventuallySays(t, ns, "g", "2 of 3 members find a node", "2 nodes: no free volume of class "+ns+" suits claim c-2 there")
	createVolume(t, ns+"-b1", ns, b, nil)
	pods := eventuallyBound(t, ns, "g", 3)
	oneAttempt(t, pods)
	used := map[string]bool{}
	for i, p := range pods {
		var c corev1.PersistentVolumeClaim
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: fmt.Sprintf("c-%d", i)}, &c); err != nil {
			t.Fatal(err)
		}
		var v corev1.PersistentVolume
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Name: c.Spec.VolumeName}, &v); err != nil {
			t.Fatalf("claim %s: %v", c.Name, err)
		}
		host := v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0]
		if !claims.Bound(&c) || host != p.Spec.NodeName || used[v.Name] {
			t.Errorf("pod %s on %s has claim %s with volume %s of %s, bound %t, used by another %t", p.Name, p.Spec.NodeName, c.Name, v.Name, host, claims.Bound(&c), used[v.Name])
		}
		used[v.Name] = true
	}
	last := 0
	writes := w.writes()
	for i, line := range writes {
		if strings.Contains(line, "/persistentvolumes/"+ns) {
			last = i
		}
	}
	if first := slices.IndexFunc(writes, func(s string) bool { return strings.HasSuffix(s, "/binding") }); first < last {
		t.Errorf("a pod was bound before all volumes were: %v", writes)
	}
}

// TestZonesOfVolumesAreNotLookedAt: where a configuration says that zone labels of
// volumes do not count, they don't count either once the volume is bound to its claim.
func TestZonesOfVolumesAreNotLookedAt(t *testing.T) {
	names := claimNodes(t, "a")
	ns, a := names[0], names[1]
	createClass(t, ns, "")
	for i := range 2 {
		createVolume(t, fmt.Sprintf("%s-%d", ns, i), ns, a, func(v *corev1.PersistentVolume) {
			v.Labels = map[string]string{corev1.LabelTopologyZone: "elsewhere"}
		})
	}
	c, warnings, err := config.Parse([]byte(`
actions: "enqueue, allocate"
tiers: [{plugins: [{name: gang}, {name: proportion}, {name: predicates, arguments: {predicate.VolumeZoneEnable: false}}]}]
`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	var given *refusals
	startWith(t, &wire{}, c.Pipeline(), "", func(c *binder.Config) {
		given = &refusals{Observer: c.Observe}
		c.Observe = given
	})
	claimGang(t, ns, "g", 2, func(i int, p *corev1.Pod) { claimVolume(t, ns, "c", ns, i, p) })
	oneAttempt(t, eventuallyBound(t, ns, "g", 2))
	// A second placement finds its claims bound, and would succeed in any case.
	if n := given.refused.Load(); n > 0 {
		t.Errorf("%d placements of pods were given up on the way", n)
	}
}

// refusals counts the bindings that were given up.
type refusals struct {
	binder.Observer
	refused atomic.Int64
}

func (r *refusals) Bound(result string, took time.Duration) {
	if result == "refused" {
		r.refused.Add(1)
	}
	r.Observer.Bound(result, took)
}

// TestVolumesThatAreNotMade: a gang whose volumes nobody makes is given up whole after
// a while and says why; its claims stay with their node, and it is bound once they
// are made.
func TestVolumesThatAreNotMade(t *testing.T) {
	names := claimNodes(t, "a", "b")
	ns := names[0]
	createClass(t, ns, ns+".example.com")
	w := &wire{within: time.Second} // as a configuration says, not as the program does
	startScheduler(t, w)
	claimGang(t, ns, "g", 2, func(i int, p *corev1.Pod) { claimVolume(t, ns, "c", ns, i, p) })
	eventuallySays(t, ns, "g", "its claims could not be met: after 1s the volume of claim c-", "is not made yet")
	for _, line := range w.writes() {
		if strings.HasSuffix(line, "/binding") {
			t.Errorf("a pod was bound: %s", line)
		}
	}
	// What a provisioner does.
	for i := range 2 {
		var c corev1.PersistentVolumeClaim
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: fmt.Sprintf("c-%d", i)}, &c); err != nil {
			t.Fatal(err)
		}
		at := c.Annotations[claims.SelectedNode]
		if !slices.Contains(names[1:], at) {
			t.Fatalf("claim %s asks for a volume on %q", c.Name, at)
		}
		createVolume(t, fmt.Sprintf("%s-made-%d", ns, i), ns, at, func(v *corev1.PersistentVolume) {
			v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": ns + ".example.com"}
			v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: ns, Name: c.Name, UID: c.UID}
		})
	}
	for i, p := range eventuallyBound(t, ns, "g", 2) {
		var c corev1.PersistentVolumeClaim
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: fmt.Sprintf("c-%d", i)}, &c); err != nil {
			t.Fatal(err)
		}
		if c.Annotations[claims.SelectedNode] != p.Spec.NodeName {
			t.Errorf("pod %s is on %s and its volume on %s", p.Name, p.Spec.NodeName, c.Annotations[claims.SelectedNode])
		}
	}
}

// TestProvisionerRefuses: a provisioner that takes the choice of a node back has the
// whole gang placed anew.
func TestProvisionerRefuses(t *testing.T) {
	names := claimNodes(t, "a")
	ns := names[0]
	createClass(t, ns, ns+".example.com")
	startScheduler(t, &wire{}, func(c *binder.Config) { c.HoldFor = time.Hour })
	claimGang(t, ns, "g", 1, func(i int, p *corev1.Pod) { claimVolume(t, ns, "c", ns, i, p) })
	var c corev1.PersistentVolumeClaim
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: "c-0"}, &c); err != nil {
			return err.Error()
		}
		if c.Annotations[claims.SelectedNode] == "" {
			return fmt.Sprintf("no node is chosen: %v", c.Annotations)
		}
		patch := client.MergeFrom(c.DeepCopy())
		delete(c.Annotations, claims.SelectedNode)
		if err := plane.Client.Patch(ctx, &c, patch); err != nil {
			return err.Error()
		}
		return ""
	})
	eventuallySays(t, ns, "g", "its claims could not be met: the volume of claim c-0 could not be made for "+names[1])
}

// deviceWorld makes nodes with two devices each, their class and a template.
func deviceWorld(t *testing.T, nodes ...string) (ns string) {
	t.Helper()
	names := claimNodes(t, nodes...)
	ns = names[0]
	driver := ns + ".example.com"
	class := schedtest.DeviceClass(ns, driver)
	class.UID = ""
	create(t, class)
	for _, n := range names[1:] {
		s := schedtest.Slice(n, driver, "x", 2)
		s.UID = ""
		create(t, s)
	}
	create(t, &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "one"},
		Spec:       resourcev1.ResourceClaimTemplateSpec{Spec: schedtest.ResourceClaim("", ns, "x", 1).Spec},
	})
	return ns
}

// claimOne has a pod claim one device by the template.
func claimOne(_ int, p *corev1.Pod) {
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "device", ResourceClaimTemplateName: ptr.To("one")}}
}

// devicesOf returns the devices that the claims of a namespace have, by the pod that
// is entered as their user, and checks that none is given twice.
func devicesOf(t *testing.T, ns string) map[string]string {
	t.Helper()
	var list resourcev1.ResourceClaimList
	if err := plane.Client.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	out, owner := map[string]string{}, map[string]string{}
	for _, c := range list.Items {
		if c.Status.Allocation == nil {
			if len(c.Status.ReservedFor) > 0 {
				t.Errorf("claim %s has no devices and the users %v", c.Name, c.Status.ReservedFor)
			}
			continue
		}
		if len(c.Status.ReservedFor) != 1 || !slices.Contains(c.Finalizers, resourcev1.Finalizer) {
			t.Errorf("claim %s has the users %v and the finalizers %v", c.Name, c.Status.ReservedFor, c.Finalizers)
			continue
		}
		for _, r := range c.Status.Allocation.Devices.Results {
			id := r.Pool + "/" + r.Device
			if owner[id] != "" {
				t.Errorf("device %s is given to %s and %s", id, owner[id], c.Name)
			}
			owner[id], out[c.Status.ReservedFor[0].Name] = c.Name, id
		}
	}
	return out
}

// TestDevicesOfGang: a gang of five of which each claims a device by a template is not
// placed where there are four; one of four gets all of them, and is bound then.
func TestDevicesOfGang(t *testing.T) {
	ns := deviceWorld(t, "a", "b")
	startScheduler(t, &wire{})
	claimGang(t, ns, "five", 5, claimOne)
	eventuallySays(t, ns, "five", "4 of 5 members find a node", "its free devices do not meet a resource claim")
	if got := devicesOf(t, ns); len(got) > 0 {
		t.Errorf("given: %v", got)
	}
	claimGang(t, ns, "four", 4, claimOne)
	pods := eventuallyBound(t, ns, "four", 4)
	oneAttempt(t, pods)
	got := devicesOf(t, ns)
	for _, p := range pods {
		if !strings.HasPrefix(got[p.Name], p.Spec.NodeName+"/") {
			t.Errorf("pod %s on %s has device %q", p.Name, p.Spec.NodeName, got[p.Name])
		}
	}
	if len(got) != 4 {
		t.Errorf("given: %v", got)
	}
}

// TestDevicesGoBack: where one claim of a gang cannot be written, no pod is bound and
// the devices of the others go back.
func TestDevicesGoBack(t *testing.T) {
	ns := deviceWorld(t, "a", "b")
	var refused atomic.Bool
	w := &wire{fault: func(r *http.Request, _ http.RoundTripper) (*http.Response, error, bool) {
		if !strings.Contains(r.URL.Path, "/resourceclaims/g-3-") || !strings.HasSuffix(r.URL.Path, "/status") {
			return nil, nil, false
		}
		refused.Store(true)
		body := `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"refused by the test","reason":"Forbidden","code":403}`
		return &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewBufferString(body)), Request: r}, nil, true
	}}
	stop := startScheduler(t, w, func(c *binder.Config) { c.HoldFor = time.Hour })
	claimGang(t, ns, "g", 4, claimOne)
	eventuallySays(t, ns, "g", "its claims could not be met: resource claim g-3-device-", "refused by the test")
	controllertest.Eventually(t, within, func(context.Context) string {
		if got := devicesOf(t, ns); len(got) > 0 {
			return fmt.Sprintf("still given: %v", got)
		}
		return ""
	})
	if !refused.Load() {
		t.Error("nothing was refused")
	}
	eventuallyBound(t, ns, "g", 0)
	stop()
	startScheduler(t, &wire{})
	eventuallyBound(t, ns, "g", 4)
	if got := devicesOf(t, ns); len(got) != 4 {
		t.Errorf("given: %v", got)
	}
}

// TestSchedulerEndsBetweenClaimsAndBinding: devices that were given by a scheduler
// that ended before it bound a pod are used by the next one, and of a node that is
// out by then they are given back.
func TestSchedulerEndsBetweenClaimsAndBinding(t *testing.T) {
	ns := deviceWorld(t, "a", "b")
	w := &wire{fault: func(r *http.Request, _ http.RoundTripper) (*http.Response, error, bool) {
		return nil, errCut, isBinding(r)
	}}
	stop := startScheduler(t, w)
	claimGang(t, ns, "g", 2, claimOne)
	var first map[string]string
	controllertest.Eventually(t, within, func(context.Context) string {
		if first = devicesOf(t, ns); len(first) != 2 || !slices.ContainsFunc(w.writes(), func(s string) bool { return strings.HasSuffix(s, "/binding") }) {
			return fmt.Sprintf("given: %v", first)
		}
		return ""
	})
	stop()
	node, _, _ := strings.Cut(first["g-0"], "/")
	var n corev1.Node
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Name: node}, &n); err != nil {
		t.Fatal(err)
	}
	n.Spec.Unschedulable = true
	if err := plane.Client.Update(t.Context(), &n); err != nil {
		t.Fatal(err)
	}
	startScheduler(t, &wire{})
	pods := eventuallyBound(t, ns, "g", 2)
	got := devicesOf(t, ns)
	for _, p := range pods {
		if p.Spec.NodeName == node || !strings.HasPrefix(got[p.Name], p.Spec.NodeName+"/") {
			t.Errorf("pod %s is on %s with device %s; %s is out", p.Name, p.Spec.NodeName, got[p.Name], node)
		}
	}
}
