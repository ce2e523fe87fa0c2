package provider_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
	lists atomic.Int32
	deny  atomic.Bool // lists
}

func (s *slowGroups) PodGroups(ctx context.Context, namespace string) (map[string]int32, error) {
	s.lists.Add(1)
	switch {
	case s.hangs.Load():
		<-ctx.Done()
		return nil, ctx.Err()
	case s.deny.Load():
		return nil, apierrors.NewForbidden(schema.GroupResource{Resource: "podgroups"}, "", errors.New("an older role"))
	}
	return s.groups.PodGroups(ctx, namespace)
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
	f := newForeign(t, providertest.Sound())
	slow := &slowGroups{groups: f.groups}
	slow.hangs.Store(true)
	f.beginWith(slow)
	for i := range 40 {
		f.bind(fmt.Sprintf("one-%d", i), fmt.Sprintf("group-%d", i), "node-main")
		f.groups.set(fmt.Sprintf("group-%d", i), 2)
	}
	f.bridge.Pass(t.Context(), true)
	f.bridge.Wait()
	if n := slow.asked.Load() + slow.lists.Load(); n == 0 || n > 16 {
		t.Errorf("%d times PodGroups were asked for in one pass, want those of one round: 16", n)
	}
	f.bridge.Pass(t.Context(), true)
	f.bridge.Wait()
	if n := slow.asked.Load(); n == 0 || n > 16 {
		t.Errorf("%d PodGroups were asked for one by one after a list that took too long, want those of one round: 16", n)
	}
	slow.hangs.Store(false)
	f.ticks(4)
	if n := len(f.system.Jobs()); n != 0 {
		t.Errorf("%d jobs of gangs that are not whole", n)
	}
}

// A namespace with many PodGroups that pods wait for costs one list, one with few a get
// for each, and so does one of which a list would give far more than that.
func TestManyPodGroupsAreListed(t *testing.T) {
	for name, c := range map[string]struct {
		waiting, others int
		deny            bool
		lists, gets     int32 // in the first pass
		laterLists      int32 // after ten minutes
	}{
		"few":              {waiting: 16, gets: 16},
		"many":             {waiting: 600, lists: 1, laterLists: 15},
		"beside others":    {waiting: 100, others: 10_000, lists: 1, laterLists: 1},
		"by an older role": {waiting: 100, deny: true, lists: 1, gets: 100, laterLists: 1},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			f := newForeign(t, providertest.Sound())
			counted := &slowGroups{groups: f.groups}
			counted.deny.Store(c.deny)
			f.beginWith(counted)
			for i := range c.waiting {
				f.bind(fmt.Sprintf("one-%d", i), fmt.Sprintf("group-%d", i), "node-main")
				f.groups.set(fmt.Sprintf("group-%d", i), 2)
			}
			for i := range c.others {
				f.groups.set(fmt.Sprintf("other-%d", i), 2)
			}
			f.bridge.Pass(t.Context(), true)
			f.bridge.Wait()
			if lists, gets := counted.lists.Load(), counted.asked.Load(); lists != c.lists || gets != c.gets {
				t.Errorf("%d lists and %d gets in the first pass, want %d and %d", lists, gets, c.lists, c.gets)
			}
			for _, p := range f.api.List() {
				want(t, "pod "+p.Name, f.waits(p), "minMember of 2")
			}
			for range 120 {
				f.bridge.Pass(t.Context(), false)
				f.bridge.Wait()
				f.clock.SetTime(f.clock.Now().Add(tickTime))
			}
			if lists := counted.lists.Load(); lists > c.laterLists {
				t.Errorf("%d lists in ten minutes, want %d at most", lists, c.laterLists)
			}
			t.Logf("%d PodGroups of which members wait, for ten minutes: %d lists, %d gets", c.waiting, counted.lists.Load(), counted.asked.Load())
		})
	}
}

// PodGroups are listed page by page.
func TestPodGroupsPageByPage(t *testing.T) {
	pages := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path != "/apis/scheduling.volcano.sh/v1beta1/namespaces/ns/podgroups" || r.URL.Query().Get("limit") == "" {
			t.Errorf("asked for %s", r.URL)
		}
		switch pages++; r.URL.Query().Get("continue") {
		case "":
			_, _ = io.WriteString(w, `{"metadata":{"continue":"more"},"items":[{"metadata":{"name":"a"},"spec":{"minMember":3}},{"metadata":{"name":"b"},"spec":{}}]}`)
		case "more":
			_, _ = io.WriteString(w, `{"metadata":{},"items":[{"metadata":{"name":"c"},"spec":{"minMember":1}}]}`)
		default:
			w.WriteHeader(http.StatusGone)
		}
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	got, err := provider.ListPodGroups(t.Context(), client, "ns")
	if err != nil || pages != 2 || !maps.Equal(got, map[string]int32{"a": 3, "b": 0, "c": 1}) {
		t.Errorf("%v from %d pages, error %v", got, pages, err)
	}
	server.Close()
	if got, err := provider.ListPodGroups(t.Context(), client, "ns"); err == nil {
		t.Errorf("%v from a server that is gone", got)
	}
}

// A PodGroup that does not change is looked at ever less often, until a pod comes.
func TestPodGroupsAreReadLessOften(t *testing.T) {
	f := newForeign(t, providertest.Sound())
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
	f := newForeign(t, providertest.Sound())
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
