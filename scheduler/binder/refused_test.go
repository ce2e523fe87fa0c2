package binder

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	"volcano.sh/apis/pkg/client/clientset/versioned/fake"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// refusing is a binder whose API server answers each write of a PodGroup's status with an
// error, nil for none.
type refusing struct {
	*Binder
	answer error
	writes atomic.Int32
	told   map[string]int // by result
	logged int
	now    time.Time
}

func (r *refusing) Bound(string, time.Duration) {}
func (r *refusing) Wrote(_, result string)      { r.told[result]++ }

func newRefusing(t *testing.T, answer error) *refusing {
	t.Helper()
	return newRefusingOf(t, volcanov1.PodGroupInqueue, answer)
}

// newRefusingOf is a refusing of a PodGroup in such a phase.
func newRefusingOf(t *testing.T, phase volcanov1.PodGroupPhase, answer error) *refusing {
	t.Helper()
	group := &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "u", ResourceVersion: "1"}, Status: volcanov1.PodGroupStatus{Phase: phase}}
	r := &refusing{answer: answer, told: map[string]int{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	client := fake.NewSimpleClientset(group)
	client.PrependReactor("patch", "podgroups", func(k8stesting.Action) (bool, runtime.Object, error) {
		r.writes.Add(1)
		return r.answer != nil, nil, r.answer
	})
	c := cache.New()
	c.SetGroup(group)
	r.Binder = New(Config{Volcano: client, Cache: c, Events: &record.FakeRecorder{}, Observe: r, Now: func() time.Time { return r.now }, NewID: func() string { return "" }})
	t.Cleanup(r.Close)
	return r
}

// cycle is one in which the gang has so many running pods and waits with these words.
func (r *refusing) cycle(t *testing.T, running int64, words string) {
	t.Helper()
	r.note(plan.Plan{Statuses: []plan.Status{{Gang: "podgroup/ns/g", GangUID: "u", Namespace: "ns", Name: "g", Want: snapshot.GroupStatus{
		Phase: snapshot.GroupInqueue, Running: running, Conditions: []snapshot.Condition{{Type: "Unschedulable", Status: "True", Reason: "NotEnoughResources", Message: words}},
	}}}}, r.now)
	r.work(t)
}

func (r *refusing) work(t *testing.T) {
	t.Helper()
	log := logr.NewContext(t.Context(), funcr.New(func(string, string) { r.logged++ }, funcr.Options{}))
	for {
		if _, some := r.Step(log, "write"); !some {
			return
		}
	}
}

var groups = schema.GroupResource{Group: "scheduling.volcano.sh", Resource: "podgroups"}

func invalid(f string) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: groups.Group, Kind: "PodGroup"}, "g", field.ErrorList{field.Invalid(field.NewPath(f), "x", "it may not be")})
}

// TestRefusedStatusRests: a status of a PodGroup that a policy refuses is not sent with each
// cycle. It is sent again when it changes, and after pauses that grow; all of it is counted,
// and logged once.
func TestRefusedStatusRests(t *testing.T) {
	for name, answer := range map[string]error{
		"forbidden":   apierrors.NewForbidden(groups, "g", errors.New("a policy says no")),
		"invalid":     invalid("status"),
		"bad request": apierrors.NewBadRequest("no"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRefusing(t, answer)
			want := func(when string, writes int32) {
				t.Helper()
				if got := r.writes.Load(); got != writes {
					t.Errorf("%s: %d writes, want %d", when, got, writes)
				}
			}
			for i := range 50 { // five seconds, and what is said changes all the time
				r.cycle(t, 0, fmt.Sprint(i, " are free"))
				r.now = r.now.Add(100 * time.Millisecond)
			}
			want("five seconds later", 1)
			r.cycle(t, 1, "1 is free")
			want("another status", 2)
			for range 3600 {
				r.now = r.now.Add(time.Second)
				r.cycle(t, 1, "1 is free")
			}
			want("an hour later", 2+4+11) // after 20, 40, 80 and 160 seconds, then after five minutes each
			if r.told["refused"] != int(r.writes.Load()) || r.logged != 1 {
				t.Errorf("%v was counted, and logged %d times", r.told, r.logged)
			}
			r.answer = nil
			r.now = r.now.Add(mostRefused)
			r.cycle(t, 1, "1 is free")
			if r.told["written"] != 1 || len(r.refused) != 0 {
				t.Errorf("once it is allowed: %v, %d are refused", r.told, len(r.refused))
			}
		})
	}
}

// TestFailedStatusRests: a status of a PodGroup at which the API server fails, as with a
// webhook that does not answer, is not sent with each cycle either. A short failure puts
// nothing off for long.
func TestFailedStatusRests(t *testing.T) {
	for name, answer := range map[string]error{
		"internal": apierrors.NewInternalError(errors.New("failed calling webhook")),
		"storage":  &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: "etcdserver: no leader"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRefusing(t, answer)
			cycles := func(seconds int) {
				for range 10 * seconds {
					r.now = r.now.Add(100 * time.Millisecond)
					r.cycle(t, 0, "0 are free")
				}
			}
			cycles(6)
			if n := r.writes.Load(); n != 3 || r.logged != 0 { // after 1 and 2 seconds
				t.Errorf("%d writes in the first seconds, logged %d times", n, r.logged)
			}
			cycles(3600 - 6)
			// After 1, 2, 4, 8, 16 and 32 seconds, then after a minute each.
			if n := r.writes.Load(); n != 1+6+58 || r.told["retried"] != int(n) || r.logged != 1 {
				t.Errorf("%d writes in an hour, %v, logged %d times", n, r.told, r.logged)
			}
			r.cycle(t, 1, "0 are free")
			if n := r.writes.Load(); n != 1+6+58+1 {
				t.Errorf("another status waits too: %d writes", n)
			}
			r.answer = nil
			cycles(60)
			if r.told["written"] == 0 || len(r.refused) != 0 {
				t.Errorf("once it succeeds: %v, %d are refused", r.told, len(r.refused))
			}
		})
	}
	for name, err := range map[string]error{
		"it asks for another try": apierrors.NewServerTimeout(groups, "patch", 1), "too busy": apierrors.NewTooManyRequests("later", 1),
		"not reached": errors.New("connection refused"), "not there for now": apierrors.NewServiceUnavailable("soon"),
	} {
		if failed(err) || refused(err) {
			t.Errorf("%s: it rests", name)
		}
	}
}

// TestRefusedLetInKeepsNobodyOutForLong: a gang whose letting in was refused is in ten
// seconds after the cause is gone. With many of them each write still has its time.
func TestRefusedLetInKeepsNobodyOutForLong(t *testing.T) {
	const tenth = 100 * time.Millisecond
	for _, c := range []struct {
		shown         volcanov1.PodGroupPhase
		others        int // that are refused as well
		every, within time.Duration
	}{
		{"", 0, tenth, firstRefused},
		{volcanov1.PodGroupPending, 0, tenth, firstRefused},
		{volcanov1.PodGroupPending, 399, tenth, 20 * time.Second},
		{volcanov1.PodGroupPending, 6999, 10 * tenth, mostRefused},
	} {
		t.Run(fmt.Sprint(c.shown, " ", c.others), func(t *testing.T) {
			r := newRefusingOf(t, c.shown, apierrors.NewForbidden(groups, "g", errors.New("a policy says no")))
			for i := range c.others {
				r.refused[fmt.Sprint(i)] = refusal{until: r.now.Add(24 * time.Hour)}
			}
			until := func(done func() bool) time.Duration {
				for since := r.now; ; r.now = r.now.Add(c.every) {
					if r.cycle(t, 0, "0 are free"); done() || r.now.Sub(since) > time.Hour {
						return r.now.Sub(since)
					}
				}
			}
			until(func() bool { return r.writes.Load() == 7 })
			r.answer = nil
			if took := until(func() bool { return r.told["written"] == 1 }); took > c.within || took < c.within/2 {
				t.Errorf("it is let in %s after the cause is gone, want %s", took, c.within)
			}
		})
	}
}

// TestRefusedForLackOfARight: who hears once that the right is missing does not hear of each
// PodGroup.
func TestRefusedForLackOfARight(t *testing.T) {
	r := newRefusing(t, apierrors.NewForbidden(groups, "g", errors.New(`User "s" cannot patch resource "podgroups" in API group "scheduling.volcano.sh" in the namespace "ns"`)))
	r.cycle(t, 0, "0 are free")
	if r.told["refused"] != 1 || r.logged != 0 {
		t.Errorf("%v, logged %d times", r.told, r.logged)
	}
}

// TestRefusedStatusIsNotWantedForEver: nobody writes a status when its pause is over that is
// no longer right, and nothing is kept of it for ever.
func TestRefusedStatusIsNotWantedForEver(t *testing.T) {
	r := newRefusing(t, invalid("status"))
	r.cycle(t, 0, "0 are free")
	r.note(plan.Plan{}, r.now) // all is as it should be
	r.writes.Store(0)
	r.Binder.writes.Add("u")
	r.now = r.now.Add(time.Hour)
	r.work(t)
	if n := r.writes.Load(); n != 0 {
		t.Errorf("%d writes of what nobody wants", n)
	}
	r.note(plan.Plan{}, r.now)
	if len(r.refused) != 0 {
		t.Errorf("%d are refused still", len(r.refused))
	}
}

// TestRefusedStatusComesAgainByItself: no cycle is needed for it.
func TestRefusedStatusComesAgainByItself(t *testing.T) {
	r := newRefusing(t, invalid("status"))
	r.refused["u"] = refusal{pause: 25 * time.Millisecond}
	r.cycle(t, 0, "0 are free")
	for at := time.Now(); r.Binder.writes.Len() == 0; <-time.After(5 * time.Millisecond) {
		if time.Since(at) > 20*time.Second {
			t.Fatal("it does not come again")
		}
	}
	r.answer, r.now = nil, r.now.Add(time.Second)
	r.work(t)
	if n := r.writes.Load(); n != 2 || r.told["written"] != 1 {
		t.Errorf("%d writes, %v", n, r.told)
	}
}

// TestStatusOfWhatIsAnotherByNow is no refusal.
func TestStatusOfWhatIsAnotherByNow(t *testing.T) {
	r := newRefusing(t, invalid("metadata.uid"))
	r.cycle(t, 0, "0 are free")
	if r.told["gone"] != 1 || len(r.refused) != 0 || r.logged != 0 {
		t.Errorf("%v, %d are refused, %d logged", r.told, len(r.refused), r.logged)
	}
}
