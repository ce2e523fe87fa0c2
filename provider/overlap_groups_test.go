package provider_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// belated is a daemon's view of the API server: each pod is seen as it is or as it was
// seen last, and comes and goes late.
type belated struct {
	provider.PodAPI
	mu    sync.Mutex
	rng   *rand.Rand
	shown map[types.UID]*corev1.Pod
	late  int // of how many looks one shows a pod as it is; 1 is each
}

// belatedly gives a daemon's view.
func belatedly(pods provider.PodAPI, seed uint64) *belated {
	return &belated{PodAPI: pods, rng: rand.New(rand.NewPCG(seed, 17)), shown: map[types.UID]*corev1.Pod{}, late: 3} //nolint:gosec // reproducible on purpose
}

// catchUp makes all looks to come true.
func (l *belated) catchUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = 1
}

// List implements provider.PodAPI.
func (l *belated) List() []*corev1.Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := map[types.UID]*corev1.Pod{}
	for _, p := range l.PodAPI.List() {
		now[p.UID] = p
	}
	uids := slices.Concat(slices.Collect(maps.Keys(now)), slices.Collect(maps.Keys(l.shown)))
	slices.Sort(uids)
	for _, uid := range slices.Compact(uids) {
		switch p := now[uid]; {
		case l.rng.IntN(l.late) > 0:
		case p == nil:
			delete(l.shown, uid)
		default:
			l.shown[uid] = p
		}
	}
	return slices.Collect(maps.Values(l.shown))
}

// Two daemons see the members of gangs that another scheduler binds at different
// times, while further members come and some go: no pod is run by two jobs, a gang
// is never torn, and no pod waits for ever beside a job that has taken another of its
// gang. Then one daemon is left; it may have begun after all that. ISTHMUS_TRIALS sets
// how often.
func TestTwoDaemonsSeeDifferentMembers(t *testing.T) {
	trials := 60
	if n, err := strconv.Atoi(os.Getenv("ISTHMUS_TRIALS")); err == nil && n > 0 {
		trials = n
	}
	contended, renewed := 0, 0
	for trial := range trials {
		c, r := overlapOnGroups(t, uint64(trial)) //nolint:gosec // small
		contended, renewed = contended+c, renewed+r
		if t.Failed() {
			return
		}
	}
	if contended == 0 || renewed == 0 {
		t.Errorf("%d jobs stayed held and %d gangs were claimed again: the daemons never disagreed", contended, renewed)
	}
	t.Logf("%d trials: 0 pods in two jobs, 0 gangs torn, 0 pods left; %d jobs stayed held, %d gangs were claimed again", trials, contended, renewed)
}

func overlapOnGroups(t *testing.T, seed uint64) (contended, renewed int) {
	rng := rand.New(rand.NewPCG(seed, 19)) //nolint:gosec // a trial that can be repeated
	w := newWorld(t, 20*time.Second, providertest.Sound())
	g := newGroups()
	views := []*belated{belatedly(w.api, 2*seed), belatedly(w.api, 2*seed+1)}
	daemon := func(i int) *provider.Bridge {
		return newBridge(w.system, w.stager, views[i], g, w.clock, "node-main")
	}
	daemons := []*provider.Bridge{daemon(0), daemon(1)}
	least, kept, gone := map[string]int{}, map[types.UID]string{}, map[types.UID]string{}
	bind := func(name string, nth int) {
		kept[w.bound(w.pods(fmt.Sprintf("%s-%d", name, nth), 1), name, "node-main")[0]] = name
	}
	for i := range 8 {
		var all sync.WaitGroup
		for _, b := range daemons {
			fresh := rng.IntN(3) > 0
			all.Go(func() {
				for i := range 5 {
					b.Pass(t.Context(), fresh && i%2 == 0)
					if i%2 == 1 {
						b.Wait()
					}
				}
				b.Wait()
			})
		}
		if i < 6 {
			name, size := fmt.Sprintf("g%d", i), 2+rng.IntN(3)
			least[name] = size - rng.IntN(2)*rng.IntN(2)
			g.set(name, int32(least[name])) //nolint:gosec // a few
			for _, nth := range rng.Perm(size) {
				bind(name, nth)
			}
			// A member of a gang that is not submitted goes, and another comes.
			for _, uid := range slices.Sorted(maps.Keys(kept)) {
				if p := w.api.Get(uid); rng.IntN(12) == 0 && p.Annotations[wellknown.BatchJobID] == "" {
					w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
					gone[uid] = kept[uid]
					bind(kept[uid], 90+i)
					delete(kept, uid)
					break
				}
			}
		}
		all.Wait()
		if rng.IntN(4) == 0 { // one is upgraded
			n := rng.IntN(2)
			daemons[n] = daemon(n)
		}
		w.system.Advance(tickTime)
		w.clock.SetTime(w.system.Now())
	}
	views[0].catchUp()
	w.bridge = daemons[0]
	for range 80 {
		w.tick()
		if w.settled() && !w.liveJobs() {
			break
		}
	}
	if bad := w.twice(); len(bad) > 0 {
		t.Errorf("trial %d: %v", seed, bad)
	}
	claims := map[string]map[string]int{} // members by claim, by gang
	count := func(name string, p *corev1.Pod) {
		if claims[name] == nil {
			claims[name] = map[string]int{}
		}
		claims[name][p.Annotations[wellknown.SubmitIntent]]++
	}
	for uid, name := range kept {
		p := w.api.Get(uid)
		if p == nil || p.Status.Phase != corev1.PodSucceeded {
			t.Errorf("trial %d: pod %s of gang %s with minMember %d did not succeed: %+v", seed, uid, name, least[name], p)
			continue
		}
		if count(name, p); len(p.Annotations[wellknown.SubmitIntent]) > 13 {
			renewed++
		}
	}
	for uid, name := range gone { // after the record, or as it was made
		if p := w.api.Gone(uid); p != nil {
			count(name, p)
		} else {
			t.Errorf("trial %d: pod %s was deleted and is still there", seed, uid)
		}
	}
	for name, by := range claims {
		if slices.Max(slices.Collect(maps.Values(by))) < least[name] {
			t.Errorf("trial %d: gang %s with minMember %d is torn: %v", seed, name, least[name], by)
		}
	}
	if w.liveJobs() {
		t.Errorf("trial %d: jobs are left: %+v", seed, w.system.Jobs())
	}
	started := map[backends.JobID]bool{}
	for _, ids := range w.ran {
		for id := range ids {
			started[id] = true
		}
	}
	for _, j := range w.system.Jobs() {
		if !started[j.ID] {
			contended++
		}
	}
	return contended, renewed
}
