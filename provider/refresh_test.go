package provider_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/go-logr/logr"

	"github.com/isthmus-hpc/isthmus/backends"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// store is Objects in memory that counts reads and tokens.
type store struct {
	providertest.Objects
	now func() time.Time

	mu         sync.Mutex
	configMaps map[string]*corev1.ConfigMap
	reads      int
	tokens     int
	fail       error
}

func (s *store) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.fail != nil {
		return nil, s.fail
	}
	if cm := s.configMaps[name]; cm != nil {
		return cm, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (s *store) Token(_ context.Context, pod *corev1.Pod, audience string, lifetime time.Duration) (string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens++
	return fmt.Sprintf("token-%d-%s-%s", s.tokens, pod.UID, audience), s.now().Add(lifetime), nil
}

func (s *store) set(name, value string, immutable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version := 1
	if old := s.configMaps[name]; old != nil {
		_, _ = fmt.Sscan(old.ResourceVersion, &version)
	}
	s.configMaps[name] = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: fmt.Sprint(version + 1)}, Immutable: &immutable, Data: map[string]string{"k": value}}
}

// refreshWorld runs gangs of pods with a ConfigMap, an optional one, labels and a token.
type refreshWorld struct {
	*world
	store *store
	uids  []types.UID
	key   backends.Key
}

func newRefreshWorld(t *testing.T, size int) *refreshWorld {
	w := &refreshWorld{world: newWorld(t, 48*time.Hour, providertest.Sound())}
	w.store = &store{now: w.clock.Now, configMaps: map[string]*corev1.ConfigMap{}}
	w.store.set("cm", "one", false)
	w.store.set("frozen", "ice", true)
	w.reboot()
	w.uids = w.gang("g", size)
	for _, uid := range w.uids {
		p := w.api.Get(uid).DeepCopy()
		yes, seconds := true, int64(3600)
		p.Labels = map[string]string{"phase": "new"}
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Items: []corev1.KeyToPath{{Key: "k", Path: "cm"}}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "frozen"}, Items: []corev1.KeyToPath{{Key: "k", Path: "frozen"}}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "later"}, Optional: &yes, Items: []corev1.KeyToPath{{Key: "k", Path: "later"}}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		}}}}}
		w.api.Create(p)
	}
	for range 3 {
		w.tick()
	}
	w.key = backends.Key(w.api.Get(w.uids[0]).Annotations[wellknown.SubmitIntent])
	w.taken()
	return w
}

// reboot starts a daemon that remembers nothing.
func (w *refreshWorld) reboot() {
	w.bridge = provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Spec: hpcv1alpha1.BatchClusterSpec{
			Type: "slurm", Accounts: []hpcv1alpha1.Account{{User: "alice", ServiceAccountTokens: true}}, Staging: hpcv1alpha1.Staging{Directory: "/staging"},
		}},
		Owner: owner, Launcher: "slurm", Backend: w.system, Stager: w.stager, Pods: w.api, Objects: w.store, Clock: w.clock, Log: logr.Discard(),
	})
	w.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: "node-main", Partition: "main", MaxPodsPending: 1000}})
}

// taken lets the runners show what was handed over.
func (w *refreshWorld) taken() {
	w.stager.Change(w.key, func(g *providertest.StagedGang) {
		for rank, st := range g.Pods {
			st.Contents = g.Output.Pods[rank].Contents
			if r, ok := g.Fresh[rank]; ok {
				st.Contents = r.Update.Contents
			}
			g.Pods[rank] = st
		}
	})
}

// after lets time pass and looks once, with an observation before it.
func (w *refreshWorld) after(d time.Duration) {
	w.clock.SetTime(w.clock.Now().Add(d))
	w.bridge.Pass(w.t.Context(), true)
	w.bridge.Wait()
	w.bridge.Refresh(w.t.Context())
}

func (w *refreshWorld) gangDir() (fresh map[int]translate.Refresh, times int, staged translate.Output) {
	w.stager.Change(w.key, func(g *providertest.StagedGang) { fresh, times, staged = g.Fresh, g.Times, g.Output })
	return fresh, times, staged
}

func (w *refreshWorld) want(times int, why string) {
	w.t.Helper()
	if _, got, _ := w.gangDir(); got != times {
		w.t.Errorf("%s: %d hand-overs, want %d", why, got, times)
	}
}

func text(r translate.Refresh, name string) string { return string(r.Files["v"][name].Data) }

func TestRefresh(t *testing.T) {
	w := newRefreshWorld(t, 3)
	_, _, staged := w.gangDir()
	if got := string(staged.Files[0]["v"]["token"].Data); got == "" || staged.Pods[0].Contents.RenewAt.IsZero() {
		t.Fatalf("staged without a token: %+v", staged.Files[0]["v"])
	}
	for range 30 {
		w.after(5 * time.Second)
	}
	w.want(0, "nothing changed")
	if w.store.tokens != 3 {
		t.Errorf("%d tokens for 3 pods", w.store.tokens)
	}
	if w.store.reads > 40 { // two objects a minute, however many pods; an immutable one once
		t.Errorf("%d reads in two and a half minutes", w.store.reads)
	}

	w.store.set("cm", "two", false)
	w.after(61 * time.Second)
	w.want(1, "a ConfigMap changed: one hand-over for the gang")
	fresh, _, _ := w.gangDir()
	if len(fresh) != 3 || text(fresh[1], "cm") != "two" || text(fresh[1], "frozen") != "ice" || text(fresh[1], "labels") != `phase="new"` || text(fresh[1], "token") == text(fresh[0], "token") {
		t.Errorf("handed over: %+v", fresh)
	}
	w.after(10 * time.Second)
	w.want(1, "it is on its way")
	w.taken()
	w.after(3 * time.Minute)
	w.want(1, "it was taken")

	w.store.set("later", "here", false)
	w.after(61 * time.Second)
	w.want(2, "an optional ConfigMap came")
	if fresh, _, _ = w.gangDir(); text(fresh[0], "later") != "here" {
		t.Errorf("handed over: %+v", fresh[0].Files)
	}
	w.after(3 * time.Minute)
	w.want(3, "no runner took it: once more")
	w.taken()

	p := w.api.Get(w.uids[2]).DeepCopy()
	p.Labels["phase"] = "old"
	w.api.Create(p)
	w.after(time.Second)
	w.want(4, "labels changed")
	if fresh, _, _ = w.gangDir(); text(fresh[2], "labels") != `phase="old"` {
		t.Errorf("handed over: %+v", fresh[2].Files)
	}
	w.taken()

	// What the pod needs goes: it keeps what it has, and is told.
	delete(w.store.configMaps, "cm")
	w.after(3 * time.Minute)
	w.after(3 * time.Minute)
	w.want(4, "a ConfigMap went")
	told := 0
	for _, e := range w.api.Events() {
		if contains(e, "FailedMount") {
			told++
		}
	}
	if told != 3 {
		t.Errorf("%d events for 3 pods", told)
	}
	// An API server that is away is nothing to tell.
	w.store.set("cm", "two", false)
	w.after(2 * time.Minute)
	w.store.fail = apierrors.NewServiceUnavailable("away")
	w.after(2 * time.Minute)
	w.want(4, "the API server is away")
}

func contains(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			return true
		}
	}
	return false
}

// Tokens are renewed at four fifths of their life, also by a daemon that was
// started meanwhile, and no more for a pod that goes.
func TestTokensAreRenewed(t *testing.T) {
	w := newRefreshWorld(t, 2)
	w.after(45 * time.Minute)
	w.want(0, "before four fifths")
	w.reboot()
	w.after(time.Minute)
	w.want(0, "a new daemon knows what the pods have")
	tokens := w.store.tokens
	w.after(3 * time.Minute)
	w.want(1, "at four fifths")
	if w.store.tokens != tokens+2 {
		t.Errorf("%d new tokens for 2 pods", w.store.tokens-tokens)
	}
	fresh, _, staged := w.gangDir()
	if text(fresh[0], "token") == string(staged.Files[0]["v"]["token"].Data) || fresh[0].Update.Contents.RenewAt.Sub(w.clock.Now()) > 48*time.Minute {
		t.Errorf("renewed: %+v", fresh[0].Update)
	}
	w.taken()
	w.api.Delete(w.uids[0], metav1.NewTime(w.clock.Now()))
	w.after(49 * time.Minute)
	if fresh, _, _ = w.gangDir(); text(fresh[0], "token") == text(fresh[1], "token") {
		t.Error("tokens are mixed up")
	}
	w.want(2, "the one that stays")
	if got := w.store.tokens; got != tokens+3 {
		t.Errorf("%d tokens, want %d: none for a pod that goes", got, tokens+3)
	}
	for rank := range 2 {
		w.stager.Change(w.key, func(g *providertest.StagedGang) {
			st := g.Pods[rank]
			st.Phase = manifest.PhaseSucceeded
			g.Pods[rank] = st
		})
	}
	w.after(2 * time.Hour)
	w.want(2, "ended pods get nothing")
}

// While the job waits in the queue, what it will start with is kept fresh.
func TestQueuedContentsAreFresh(t *testing.T) {
	w := newRefreshWorld(t, 1)
	w.stager.Change(w.key, func(g *providertest.StagedGang) { clear(g.Pods) })
	w.after(10 * time.Minute)
	w.want(0, "as staged")
	w.after(40 * time.Minute)
	w.want(1, "the token was renewed")
	w.after(5 * time.Minute)
	w.want(1, "nobody has taken it, since nobody runs")
	w.reboot()
	w.after(time.Minute)
	w.after(5 * time.Minute)
	w.want(2, "a new daemon hands over once, to be sure")
}
