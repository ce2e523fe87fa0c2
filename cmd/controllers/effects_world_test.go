package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/recorder"
)

// mishap is what becomes of a write of the controllers.
type mishap int

const (
	fine       mishap = iota
	diesBefore        // kill -9, and nothing was written
	diesAfter         // it was written, and then kill -9
	unheard           // it was written, and the answer is lost
	conflict          // 409 to what changes an object, 500 to what makes or deletes one
	throttled         // 429
	refused           // 500
	mishaps
)

func (m mishap) String() string {
	return [...]string{"fine", "dies before", "dies after", "unheard", "conflict", "throttled", "refused"}[m]
}

// write is one write of the controllers: where in the code, and what of.
type write struct {
	site, verb, kind, name string
	nth                    int // of the same, from 1
}

func (w write) String() string {
	return fmt.Sprintf("%s %s/%s #%d at %s", w.verb, w.kind, w.name, w.nth, w.site)
}

// effect is what a write is for, whatever of.
func (w write) effect() string { return w.site + " " + w.verb + " " + w.kind }

var errKilled = errors.New("the connection is broken")

// miniature is all controllers, as the program sets them up, on an API server in
// memory, with a clock of its own and players for the rest of a cluster. Nothing in
// it runs by itself, so that a run without mishaps is always the same.
type miniature struct {
	t    *testing.T
	api  *memory          // as the players reach it: without mishaps
	seen client.WithWatch // of the controllers
	opts options
	now  time.Time
	live []alive

	mu     sync.Mutex
	dead   bool
	tried  int // writes
	counts map[write]int
	writes []write
	decide func(write) mishap
	struck int // mishaps
}

// alive is one controller of a life.
type alive struct {
	name string
	reconcile.Reconciler
}

// ends is the finalizer that keeps a pod until its kubelet has ended it.
const ends = "kubelet.test/ends"

// indexes are those that the controllers register.
type indexes map[string]index

type index struct {
	kind    client.Object
	field   string
	extract client.IndexerFunc
}

// IndexField is of client.FieldIndexer.
func (x indexes) IndexField(_ context.Context, kind client.Object, field string, extract client.IndexerFunc) error {
	x[fmt.Sprintf("%T %s", kind, field)] = index{kind, field, extract}
	return nil
}

// setUp is a manager that gathers what is set up on it and runs nothing.
type setUp struct {
	ctrl.Manager
	client  client.Client
	scheme  *kruntime.Scheme
	indexes indexes
	live    []alive
}

func (s *setUp) GetClient() client.Client             { return s.client }
func (s *setUp) GetAPIReader() client.Reader          { return s.client }
func (s *setUp) GetScheme() *kruntime.Scheme          { return s.scheme }
func (s *setUp) GetFieldIndexer() client.FieldIndexer { return s.indexes }
func (s *setUp) GetRESTMapper() meta.RESTMapper       { return miniatureMapper() }
func (s *setUp) GetLogger() logr.Logger               { return logr.Discard() }
func (s *setUp) GetCache() cache.Cache                { return nil }
func (s *setUp) GetControllerOptions() config.Controller {
	skip := true
	return config.Controller{SkipNameValidation: &skip}
}
func (s *setUp) GetEventRecorder(string) recorder.EventRecorder { return silent{} }

// Add takes a controller.
func (s *setUp) Add(r manager.Runnable) error {
	c, ok := r.(reconcile.Reconciler)
	if !ok {
		return fmt.Errorf("%T is no controller", r)
	}
	s.live = append(s.live, alive{reflect.ValueOf(r).Elem().FieldByName("Name").String(), c})
	return nil
}

// silent is a recorder of events.
type silent struct{}

// Eventf drops an event.
func (silent) Eventf(kruntime.Object, kruntime.Object, string, string, string, string, ...any) {}

// AnnotatedEventf drops an event.
func (silent) AnnotatedEventf(kruntime.Object, kruntime.Object, map[string]string, string, string, string, string, ...any) {
}

var miniatureScheme = sync.OnceValue(func() *kruntime.Scheme {
	scheme := kruntime.NewScheme()
	for _, add := range schemes() {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return scheme
})

// miniatureMapper knows the kinds; nobody asks it for scopes.
var miniatureMapper = sync.OnceValue(func() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(miniatureScheme().PrioritizedVersionsAllGroups())
	for _, kind := range everyKind() {
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	return mapper
})

func named(o client.Object) []string { return []string{o.GetName()} }

func newMiniature(t *testing.T, o options) *miniature {
	t.Helper()
	m := &miniature{t: t, opts: o, now: time.Date(2026, 1, 5, 9, 0, 10, 0, time.UTC), counts: map[write]int{},
		decide: func(write) mishap { return fine }}
	m.opts.now = func() time.Time { return m.now }
	m.api = &memory{scheme: miniatureScheme(), now: m.opts.now, objects: map[string]map[types.NamespacedName]client.Object{}, made: map[string]int{},
		apart:   map[string]bool{"Job": true, "CronJob": true, "JobFlow": true, "JobTemplate": true, "Queue": true, "Dataset": true},
		indexes: map[string]client.IndexerFunc{"Pod metadata.name": named, "Job metadata.name": named}}
	for _, x := range m.begin(nil) {
		m.api.indexes[m.api.kind(x.kind)+" "+x.field] = x.extract
	}
	m.seen = m.watched()
	m.begin(m.seen)
	return m
}

// begin starts a life: what the controllers held in memory is gone.
func (m *miniature) begin(c client.Client) indexes {
	m.t.Helper()
	mgr := &setUp{client: c, scheme: miniatureScheme(), indexes: indexes{}}
	if err := addControllers(m.t.Context(), mgr, m.opts); err != nil {
		m.t.Fatal(err)
	}
	m.live, m.dead = mgr.live, false
	return mgr.indexes
}

// watched is the API server as the controllers reach it.
func (m *miniature) watched() client.WithWatch {
	alive := func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.dead {
			return errKilled
		}
		return nil
	}
	return interceptor.NewClient(m.api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if err := alive(); err != nil {
				return err
			}
			return c.Get(ctx, key, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if err := alive(); err != nil {
				return err
			}
			return c.List(ctx, list, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return m.carryOut("create", o, func() error { return c.Create(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return m.carryOut("delete", o, func() error { return c.Delete(ctx, o, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return m.carryOut("update", o, func() error { return c.Update(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return m.carryOut("patch", o, func() error { return c.Patch(ctx, o, p, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return m.carryOut("patch "+sub+" of", o, func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
		SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, o client.Object, _ ...client.SubResourceUpdateOption) error {
			// The API server in memory has no approvals.
			return m.carryOut("update "+sub+" of", o, func() error { return c.Update(ctx, o) })
		},
		DeleteAllOf: func(context.Context, client.WithWatch, client.Object, ...client.DeleteAllOfOption) error {
			panic("a way to write that the test does not know")
		},
		Apply: func(context.Context, client.WithWatch, kruntime.ApplyConfiguration, ...client.ApplyOption) error {
			panic("a way to write that the test does not know")
		},
	})
}

// carryOut has a write come to what was decided for it. One at a time.
func (m *miniature) carryOut(verb string, o client.Object, do func() error) error {
	site := callSite()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errKilled
	}
	m.tried++
	w := write{site: site, verb: verb, kind: m.api.kind(o), name: o.GetName()}
	m.counts[w]++
	w.nth = m.counts[w]
	m.writes = append(m.writes, w)
	what := m.decide(w)
	if what != fine {
		m.struck++
	}
	switch what {
	case diesBefore, diesAfter:
		if what == diesAfter {
			_ = do() // nobody hears of it
		}
		m.dead = true
		return errKilled
	case unheard:
		_ = do()
		return errKilled
	case throttled:
		return apierrors.NewTooManyRequests("the test says so", 0)
	case conflict:
		if strings.HasPrefix(verb, "patch") || strings.HasPrefix(verb, "update") {
			return apierrors.NewConflict(schema.GroupResource{Resource: w.kind}, w.name, errors.New("the test says so"))
		}
		return apierrors.NewInternalError(errors.New("the test says so"))
	case refused:
		return apierrors.NewInternalError(errors.New("the test says so"))
	}
	return do()
}

// ours begins the names of our functions.
const ours = "github.com/isthmus-hpc/isthmus/controllers/"

// forSeveral reports whether a function writes for several controllers: the effect is its
// caller's.
func forSeveral(function string) bool {
	return strings.HasPrefix(function, ours+"owned.") || strings.HasPrefix(function, ours+"report.")
}

// callSite is the file and line of the controllers that the write comes from.
func callSite() string {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasPrefix(f.Function, ours) && !forSeveral(f.Function) {
			_, file, _ := strings.Cut(f.File, "/controllers/")
			// The module's own folder may be named like that too.
			if i := strings.LastIndex(f.File, "/controllers/"); i >= 0 {
				file = f.File[i+len("/controllers/"):]
			}
			return fmt.Sprintf("%s:%d", file, f.Line)
		}
		if !more {
			return "unknown"
		}
	}
}

// settle lets the controllers named work until they have nothing to write, each
// life until it is over. Without one that can work for ever.
func (m *miniature) settle(names []string) {
	m.t.Helper()
	for pass := 0; ; pass++ {
		if pass == 60 {
			m.t.Fatalf("the controllers never come to rest; the last writes were %v", m.writes[max(0, len(m.writes)-6):])
		}
		before, failed := m.tried, error(nil)
		for _, c := range m.live {
			if !slices.Contains(names, c.name) {
				continue
			}
			for _, key := range m.keys(c.name) {
				if _, err := c.Reconcile(logr.NewContext(m.t.Context(), logr.Discard()), reconcile.Request{NamespacedName: key}); err != nil {
					failed = err
				}
				if m.dead {
					break
				}
			}
		}
		if m.dead {
			m.begin(m.seen)
			continue
		}
		if failed == nil && m.tried == before {
			return
		}
	}
}

// list is all objects of a kind.
func list[T any, L interface {
	*T
	client.ObjectList
}](m *miniature) L {
	m.t.Helper()
	l := L(new(T))
	if err := m.api.List(m.t.Context(), l); err != nil {
		m.t.Fatal(err)
	}
	return l
}

// objects is what is there, by kind and name, to be looked at only.
func (m *miniature) objects() []client.Object {
	var out []client.Object
	for _, kind := range slices.Sorted(maps.Keys(m.api.objects)) {
		out = append(out, m.api.sorted(kind)...)
	}
	return out
}

// snapshot is everything there is, in words, and how often each object was made.
// Two runs that come to the same have the same.
func (m *miniature) snapshot() []string {
	m.t.Helper()
	var out []string
	for _, o := range m.objects() {
		o, ok := o.DeepCopyObject().(client.Object)
		if !ok {
			m.t.Fatal("no object")
		}
		kind := m.api.kind(o)
		o.SetResourceVersion("")
		if s, ok := o.(*corev1.Secret); ok {
			for k := range s.Data {
				s.Data[k] = nil // keys are random
			}
		}
		raw, err := json.Marshal(o)
		if err != nil {
			m.t.Fatal(err)
		}
		out = append(out, kind+" "+string(raw))
	}
	for key, n := range m.api.made {
		out = append(out, fmt.Sprintf("%s was made %d times", key, n))
	}
	slices.Sort(out)
	return out
}
