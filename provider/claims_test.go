package provider_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// A daemon that does not know yet which pods a recorded job would run does not let it
// go: another daemon may have given one of them another job.
func TestRestartBeforeTheRanksAreRead(t *testing.T) {
	f := newForeign(t, providertest.Sound())
	f.groups.set("ring", 2)
	a, b := f.bind("ring-1", "ring", "node-main"), f.bind("ring-2", "ring", "node-main")
	var once sync.Once
	blind := false
	f.through = &openGate{
		before: func(effect string) {
			if effect == "record" { // as a daemon of an older version does
				once.Do(func() {
					if _, err := f.api.WriteIntent(t.Context(), f.api.Get(b.UID), "iotherdaemon"); err != nil {
						t.Error(err)
					}
				})
			}
		},
		fail: func(effect string) error {
			if blind && effect == "collect" {
				return &backends.Error{Op: "collect", Kind: backends.KindTransient, Err: errors.New("the file system hangs")}
			}
			return nil
		},
	}
	f.boot()
	f.ticks(3)
	job := f.jobOf(a)
	held := func(when string) {
		t.Helper()
		for _, j := range f.system.Jobs() {
			if string(j.ID) == job && !j.Held {
				t.Fatalf("%s: job %s is let go", when, job)
			}
		}
	}
	if job == "" || f.jobOf(b) == job {
		t.Fatalf("the members have jobs %q and %q", job, f.jobOf(b))
	}
	held("by the daemon that submitted it")
	blind = true
	f.boot()
	f.ticks(6)
	held("by one that cannot read the staging area")
	told := func(reason string) {
		t.Helper()
		if events := strings.Join(f.api.Events(), "\n"); !strings.Contains(events, reason+": batch job "+job+" stays held") {
			t.Errorf("no event %s tells why job %s stays held: %s", reason, job, events)
		}
	}
	told("StagingUnread")
	blind = false
	f.ticks(20)
	held("by one that has read it")
	told("MemberElsewhere")
	f.vanish(b.UID)
	f.ticks(20)
	if p := f.api.Get(a.UID); p.Status.Phase != corev1.PodRunning {
		t.Errorf("once the other is gone: pod is %s, %s", p.Status.Phase, f.waits(a))
	}
}

// A member that is being deleted vanishes while its gang is submitted.
func TestMemberVanishesDuringSubmission(t *testing.T) {
	for nth := range 8 {
		t.Run(fmt.Sprint(nth), func(t *testing.T) {
			f := newForeign(t, providertest.Faulty(providertest.FailBefore, "stage", 1))
			f.groups.set("ring", 2)
			a := f.bind("ring-1", "ring", "node-main")
			f.bind("ring-2", "ring", "node-main")
			f.bridge.Pass(t.Context(), true)
			f.bridge.Wait()
			c := f.pods("ring-3", 1)
			c[0].DeletionTimestamp, c[0].DeletionGracePeriodSeconds = new(metav1.NewTime(f.clock.Now())), new(int64(30))
			c[0].Finalizers = []string{wellknown.FinalizerBatchJob}
			f.bound(c, "ring", "node-main")
			var mu sync.Mutex
			n := 0
			f.gate.Meanwhile = func(effect string) {
				mu.Lock()
				defer mu.Unlock()
				if effect == "patch-status" {
					if n++; n == nth+1 {
						f.vanish(c[0].UID)
					}
				}
			}
			f.boot() // it remembers no failure
			f.ticks(6)
			if p := f.api.Get(a.UID); p.Status.Phase != corev1.PodRunning {
				t.Errorf("pod is %s: %s", p.Status.Phase, f.waits(a))
			}
		})
	}
}

// The lead's claim is written before any other, and no further one when it is lost.
func TestTheLeadIsClaimedFirst(t *testing.T) {
	f := newForeign(t, providertest.Faulty(providertest.FailBefore, "write-intent", 1))
	f.groups.set("ring", 3)
	for i := range 3 {
		f.bind(fmt.Sprintf("ring-%d", i), "ring", "node-main")
	}
	f.bridge.Pass(t.Context(), true)
	f.bridge.Wait()
	for _, p := range f.api.List() {
		if key := p.Annotations[wellknown.SubmitIntent]; key != "" {
			t.Errorf("pod %s has the intent %s although the lead was not claimed", p.Name, key)
		}
	}
	f.ticks(4)
	keys := map[string]bool{}
	for _, p := range f.api.List() {
		keys[p.Annotations[wellknown.SubmitIntent]] = true
	}
	if len(keys) != 1 || strings.Contains(fmt.Sprint(keys), "[:") {
		t.Errorf("the members have the intents %v", keys)
	}
}

// A claim is not broken up by a daemon that does not see its lead: another may be about
// to record a job there.
func TestClaimOfAnUnseenLead(t *testing.T) {
	f := newForeign(t, providertest.Sound())
	f.groups.set("ring", 2)
	var pods []*corev1.Pod
	for i := range 3 {
		pods = append(pods, f.bind(fmt.Sprintf("ring-%d", i), "ring", "node-main"))
	}
	f.through = stagingHangs()
	f.boot()
	f.ticks(2)
	claim := f.api.Get(pods[0].UID).Annotations[wellknown.SubmitIntent]
	blind := &distorted{PodAPI: f.api, list: func(all []*corev1.Pod) []*corev1.Pod {
		return slices.DeleteFunc(all, func(p *corev1.Pod) bool { return p.UID == pods[0].UID })
	}}
	live := &watchesOf{PodAPI: f.api, views: blind}
	other := newBridge(f.system, f.stager, live, f.groups, f.clock, "node-main")
	for range 4 {
		other.Pass(t.Context(), true)
		other.Wait()
	}
	for _, p := range pods {
		if key := f.api.Get(p.UID).Annotations[wellknown.SubmitIntent]; claim == "" || key != claim {
			t.Errorf("pod %s has the intent %q, and the claim is %q", p.Name, key, claim)
		}
	}
	f.through = nil
	f.boot()
	f.ticks(4)
	for _, p := range pods {
		if id := f.jobOf(p); id == "" || id != f.jobOf(pods[0]) {
			t.Errorf("pod %s has job %q", p.Name, id)
		}
	}
}

// stagingHangs lets intents be written and nothing be handed over after them.
func stagingHangs() *openGate {
	return &openGate{fail: func(effect string) error {
		if effect == "stage" {
			return &backends.Error{Op: "stage", Kind: backends.KindTransient, Err: errors.New("the file system hangs")}
		}
		return nil
	}}
}

// Nor by one that sees its lead without the claim, and another bearer with it: a write's
// answer tells of that one before the watch tells of the lead.
func TestClaimThatItsLeadDoesNotShow(t *testing.T) {
	f := newForeign(t, providertest.Sound())
	f.groups.set("ring", 2)
	pods := []*corev1.Pod{f.bind("ring-1", "ring", "node-main"), f.bind("ring-2", "ring", "node-main")}
	f.through = stagingHangs()
	f.boot()
	f.ticks(2)
	claim := f.api.Get(pods[0].UID).Annotations[wellknown.SubmitIntent]
	late := f.bind("ring-0", "ring", "node-main")
	views := &distorted{PodAPI: f.api, list: func(all []*corev1.Pod) []*corev1.Pod {
		for i, p := range all {
			if p.UID == pods[0].UID {
				all[i] = pods[0] // as it was before the claim
			}
		}
		return all
	}}
	other := newBridge(f.system, f.stager, &watchesOf{PodAPI: f.api, views: views}, f.groups, f.clock, "node-main")
	for range 4 {
		other.Pass(t.Context(), true)
		other.Wait()
	}
	for _, p := range pods {
		if key := f.api.Get(p.UID).Annotations[wellknown.SubmitIntent]; claim == "" || key != claim {
			t.Errorf("pod %s has the intent %q, and the claim is %q", p.Name, key, claim)
		}
	}
	if key := f.api.Get(late.UID).Annotations[wellknown.SubmitIntent]; key != "" {
		t.Errorf("pod %s has the intent %q before the other daemon sees the claim", late.Name, key)
	}
	f.through = nil
	f.boot()
	f.ticks(4)
	for _, p := range pods {
		if id := f.jobOf(p); id == "" || id != f.jobOf(pods[0]) {
			t.Errorf("pod %s has job %q", p.Name, id)
		}
	}
}

// watchesOf is a daemon's own view beside the API server's answers.
type watchesOf struct {
	provider.PodAPI
	views provider.PodAPI
}

// List implements provider.PodAPI.
func (w *watchesOf) List() []*corev1.Pod { return w.views.List() }
