package cache

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
)

// deviceClaim is a resource claim that has devices, if users are entered in it.
func deviceClaim(name string, version int, users ...string) *resourcev1.ResourceClaim {
	r := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), ResourceVersion: fmt.Sprint(version)}}
	for _, user := range users {
		r.Status.Allocation = &resourcev1.AllocationResult{}
		r.Status.ReservedFor = append(r.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: user, UID: types.UID(user)})
	}
	return r
}

// TestIdleClaimsAreFoundByWhatChanges: whatever happens in whichever order, those claims
// are found that a look at all of them finds; and what is in use is looked at no more.
func TestIdleClaimsAreFoundByWhatChanges(t *testing.T) {
	found := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // a history to be drawn again
		c := New()
		var did []string
		all := []string{"c0", "c1", "c2"}
		for step := range 60 {
			p := fmt.Sprint("p", r.IntN(4))
			name := all[r.IntN(len(all))]
			verb := r.IntN(9)
			did = append(did, fmt.Sprint(verb, " ", p, " ", name))
			switch verb {
			case 0, 1, 2:
				o := pod(p, "g", "1")
				o.UID = types.UID(p)
				o.ResourceVersion = fmt.Sprint(step)
				o.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "d", ResourceClaimName: ptr.To(name)}}
				if verb == 0 {
					o.Spec.NodeName = "n"
				}
				c.SetPod(o)
			case 3:
				c.DeletePod(p)
			case 4:
				c.Assume(p, Assumption{Node: "n", Claims: &claims.Got{Devices: []claims.DeviceChoice{{Namespace: "ns", Claim: name}}}})
			case 5:
				c.Forget(p)
			case 6:
				c.SetResourceClaim(deviceClaim(name, step, []string{p, fmt.Sprint("p", r.IntN(4))}[:r.IntN(3)]...))
			case 7:
				c.Evict(p, start)
			case 8:
				c.Stay(p)
			}
			if r.IntN(3) == 0 { // otherwise several things change between two looks
				continue
			}
			var want []string
			for _, name := range all {
				if c.IdleClaim("ns", name) != nil && c.claimed.claimants > 0 {
					want = append(want, name)
				}
			}
			var got []string
			for _, o := range c.IdleClaims() {
				got = append(got, o.Name)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: idle are %v, want %v, after\n%s", seed, got, want, strings.Join(did, "\n"))
			}
			found += len(got)
			if n := len(c.claimed.idle.look); c.claimed.claimants > 0 && n != len(got) {
				t.Fatalf("seed %d: %d claims are to be looked at again, of which %d are idle", seed, n, len(got))
			}
		}
	}
	if found == 0 {
		t.Error("nothing was ever idle: the histories show nothing")
	}
}

// TestGoesAsEvictedOrGone: a pod that was told to go counts as going for as long as that
// counts.
func TestGoesAsEvictedOrGone(t *testing.T) {
	c := New()
	p := pod("p", "g", "1")
	p.Spec.NodeName = "n"
	c.SetPod(p)
	uid := string(p.UID)
	if c.Goes(uid) || !c.Goes("another") {
		t.Errorf("a pod that runs counts as going, or one that is not there as staying")
	}
	c.Evict(uid, start)
	if !c.Goes(uid) {
		t.Error("a pod that was told to go counts as staying")
	}
	c.Snapshot(start.Add(evictWithin + time.Second))
	if c.Goes(uid) {
		t.Error("a pod that was told to go and did not counts as going for ever")
	}
}
