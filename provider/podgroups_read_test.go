package provider_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/effect"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// What an API server answers about a PodGroup that it doesn't have is told from
// what it answers when it has no PodGroups at all.
func TestPodGroupRefusals(t *testing.T) {
	const status = `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"podgroups.scheduling.volcano.sh \"ring\" refused","reason":%q,"details":{"name":"ring","group":"scheduling.volcano.sh","kind":"podgroups"},"code":%d}`
	for name, tc := range map[string]struct {
		code       int
		kind, body string
		is         func(error) bool
	}{
		"no kind":       {404, "text/plain; charset=utf-8", "404 page not found\n", func(err error) bool { return errors.Is(err, provider.ErrNoPodGroups) }},
		"no kind named": {404, "application/json", `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the server could not find the requested resource","reason":"NotFound","details":{},"code":404}`, func(err error) bool { return errors.Is(err, provider.ErrNoPodGroups) }},
		"no object":     {404, "application/json", fmt.Sprintf(status, "NotFound", 404), apierrors.IsNotFound},
		"no right":      {403, "application/json", fmt.Sprintf(status, "Forbidden", 403), apierrors.IsForbidden},
		"failure":       {500, "application/json", fmt.Sprintf(status, "InternalError", 500), apierrors.IsInternalError},
		"there":         {200, "application/json", `{"apiVersion":"scheduling.volcano.sh/v1beta1","kind":"PodGroup","metadata":{"name":"ring"},"spec":{"minMember":3}}`, func(err error) bool { return err == nil }},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tc.kind)
				w.WriteHeader(tc.code)
				_, _ = io.WriteString(w, tc.body)
			}))
			defer server.Close()
			client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			least, err := provider.ReadPodGroup(t.Context(), client, "ns", "ring")
			if !tc.is(err) {
				t.Errorf("%d members at least, error %v (%T)", least, err, err)
			}
			if err == nil && least != 3 {
				t.Errorf("%d members at least, want 3", least)
			}
		})
	}
}

// slowGroups tells nothing while it hangs.
type slowGroups struct {
	*groups
	hangs atomic.Bool
	asked atomic.Int32
}

func (s *slowGroups) PodGroup(ctx context.Context, namespace, name string) (int32, error) {
	s.asked.Add(1)
	if s.hangs.Load() {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return s.groups.PodGroup(ctx, namespace, name)
}

// A pass waits once for an API server that tells nothing of PodGroups, whatever
// their number, and no pod is taken to be alone meanwhile.
func TestPodGroupsOfASlowServer(t *testing.T) {
	f := newForeign(t, &faultyGate{mode: none, count: map[string]int{}})
	slow := &slowGroups{groups: f.groups}
	slow.hangs.Store(true)
	f.beginWith(slow)
	for i := range 40 {
		f.bind(fmt.Sprintf("one-%d", i), fmt.Sprintf("group-%d", i), "node-main")
		f.groups.set(fmt.Sprintf("group-%d", i), 2)
	}
	f.bridge.Pass(t.Context(), true)
	f.bridge.Wait()
	if n := slow.asked.Load(); n == 0 || n > 16 {
		t.Errorf("%d PodGroups were asked for in one pass, want those of one round: 16", n)
	}
	slow.hangs.Store(false)
	f.ticks(4)
	if n := len(f.system.Jobs()); n != 0 {
		t.Errorf("%d jobs of gangs that are not whole", n)
	}
}

// A PodGroup that does not change is looked at ever less often, until a pod comes.
func TestPodGroupsAreReadLessOften(t *testing.T) {
	f := newForeign(t, &faultyGate{mode: none, count: map[string]int{}})
	slow := &slowGroups{groups: f.groups}
	f.beginWith(slow)
	f.groups.set("ring", 2)
	a := f.bind("ring-1", "ring", "node-main")
	f.ticks(60) // five minutes
	if n := slow.asked.Load(); n < 5 || n > 12 {
		t.Errorf("the PodGroup was read %d times in five minutes, want 5, 10, 20, 40 and then 60 s between", n)
	}
	b := f.bind("ring-2", "ring", "node-main")
	f.ticks(3)
	if ja, jb := f.jobOf(a), f.jobOf(b); ja == "" || ja != jb {
		t.Errorf("the gang has jobs %q and %q, want one", ja, jb)
	}
}

// between does something before one effect.
type between struct {
	effect.Gate
	effect string
	nth    atomic.Int32
	then   func()
}

func (g *between) Do(ctx context.Context, effect string, fn func(context.Context) error) error {
	if effect == g.effect && g.nth.Add(-1) == 0 {
		g.then()
	}
	return g.Gate.Do(ctx, effect, fn)
}

// A daemon that sees further members writes another intent on a pod whose rank is
// staged already: the first job, which would run it too, stays held.
func TestMemberTakenBeforeRelease(t *testing.T) {
	f := newForeign(t, &faultyGate{mode: none, count: map[string]int{}})
	f.groups.set("ring", 2)
	a, b := f.bind("ring-1", "ring", "node-main"), f.bind("ring-2", "ring", "node-main")
	gate := &between{Gate: f.gate, effect: "record", then: func() {
		if _, err := f.api.WriteIntent(t.Context(), f.api.Get(b.UID), "iotherdaemon"); err != nil {
			t.Error(err)
		}
	}}
	gate.nth.Store(2) // the first member is recorded
	f.through = gate
	f.boot()
	f.ticks(6)
	if gate.nth.Load() > 0 {
		t.Fatal("the second member was never to be recorded")
	}
	ran := map[string][]backends.JobID{}
	for _, j := range f.system.Jobs() {
		if !j.Held {
			f.stager.Change(j.Key, func(g *providertest.StagedGang) {
				for _, p := range g.Output.Pods {
					ran[p.Pod.Name] = append(ran[p.Pod.Name], j.ID)
				}
			})
		}
	}
	for name, jobs := range ran {
		if len(jobs) > 1 {
			t.Errorf("pod %s runs in jobs %v", name, jobs)
		}
	}
	if f.jobOf(b) == "" || f.jobOf(a) == f.jobOf(b) {
		t.Errorf("the members have jobs %q and %q, want two", f.jobOf(a), f.jobOf(b))
	}
	if events := strings.Join(f.api.Events(), "\n"); !strings.Contains(events, "MemberElsewhere") || !strings.Contains(events, "batch job 1 stays held") {
		t.Errorf("nothing tells why the first job stays held: %s; waits for %s", events, f.waits(a))
	}
}
