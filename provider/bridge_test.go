package provider_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// openGate counts effects and runs a hook before each.
type openGate struct {
	mu     sync.Mutex
	count  map[string]int
	before func(name string)
	fail   func(name string) error
}

func (g *openGate) Do(ctx context.Context, name string, fn func(context.Context) error) error {
	g.mu.Lock()
	if g.count == nil {
		g.count = map[string]int{}
	}
	g.count[name]++
	before, fail := g.before, g.fail
	g.mu.Unlock()
	if before != nil {
		before(name)
	}
	if fail != nil {
		if err := fail(name); err != nil {
			return err
		}
	}
	return fn(ctx)
}

func (g *openGate) calls() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.count)
}

// restart boots a daemon with other accounts and effects; it remembers nothing.
func (w *world) restart(gate *openGate, accounts ...hpcv1alpha1.Account) {
	w.bridge = provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "test"},
			Spec: hpcv1alpha1.BatchClusterSpec{
				Type: "slurm", Accounts: accounts, Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost},
				Staging: hpcv1alpha1.Staging{Directory: "/staging"},
			},
		},
		Owner: owner, Launcher: "slurm", Backend: w.system, Stager: w.stager, Pods: w.api, Objects: providertest.Objects{},
		Gate: gate, Clock: w.clock, Log: logr.Discard(),
	})
	w.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: "node-main", Partition: "main", MaxPodsPending: 1000}})
}

func plain(t *testing.T, duration time.Duration) (*world, *openGate) {
	w := newWorld(t, duration, providertest.Sound())
	gate := &openGate{}
	w.restart(gate, hpcv1alpha1.Account{User: "alice"})
	return w, gate
}

// A pod that waits for a ConfigMap says so, and costs nothing while it waits:
// every status write would bring the next pass, and that the next write.
func TestWaitingForAConfigMapIsQuiet(t *testing.T) {
	w, gate := plain(t, time.Hour)
	p := w.api.Get(w.gang("one", 1)[0]).DeepCopy()
	p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "missing"}}}}
	w.api.Create(p)
	w.tick()
	before := gate.calls()["patch-status"]
	for range 20 {
		w.tick()
	}
	got := w.api.Get(p.UID)
	if c := got.Status.ContainerStatuses; len(c) != 1 || c[0].State.Waiting == nil || c[0].State.Waiting.Reason != "CreateContainerConfigError" {
		t.Errorf("status does not tell the cause: %+v", c)
	}
	if n := gate.calls()["patch-status"] - before; n > 1 {
		t.Errorf("%d status writes while nothing changed", n)
	}
	if n := len(w.api.Events()); n != 1 {
		t.Errorf("%d events: %v", n, w.api.Events())
	}
}

// A refused effect is tried again after a growing pause, not with every pass.
func TestBackOff(t *testing.T) {
	w, gate := plain(t, time.Hour)
	gate.fail = func(name string) error {
		if name == "submit" {
			return &backends.Error{Op: name, Kind: backends.KindThrottled, Err: fmt.Errorf("too many jobs")}
		}
		return nil
	}
	w.gang("one", 1)
	for range 24 { // two minutes, a hundred passes
		w.tick()
	}
	if n := gate.calls()["submit"]; n > 8 {
		t.Errorf("%d submissions in two minutes", n)
	}
	if n := gate.calls()["patch-status"]; n > 4 {
		t.Errorf("%d status writes", n)
	}
	if told := w.api.Events(); len(told) != 1 || !strings.Contains(told[0], "Retrying") || !strings.Contains(told[0], "too many jobs") {
		t.Errorf("what lasts is told once, with its cause: %q", told)
	}
}

// An API server that refuses a status is not asked again with every pass.
func TestStatusWritesBackOff(t *testing.T) {
	w, gate := plain(t, time.Hour)
	gate.fail = func(name string) error {
		if name == "patch-status" {
			return fmt.Errorf("the API server says no")
		}
		return nil
	}
	w.gang("one", 1)
	for range 24 {
		w.tick()
	}
	if n := gate.calls()["patch-status"]; n > 10 {
		t.Errorf("%d status writes in two minutes", n)
	}
}

// A pod that vanishes between the cache and the first write is no panic.
func TestPodVanishesBeforeIntent(t *testing.T) {
	for _, at := range []string{"patch-status", "write-intent", "stage", "submit", "record", "release"} {
		t.Run(at, func(t *testing.T) {
			w, gate := plain(t, 10*time.Second)
			uids := w.gang("pair", 2)
			var once sync.Once
			gate.before = func(name string) {
				if name == at {
					once.Do(func() { w.vanish(uids[1]) })
				}
			}
			for range 10 {
				w.tick()
			}
		})
	}
}

// vanish removes a pod as an administrator does by force.
func (w *world) vanish(uid types.UID) {
	w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
	for w.api.Get(uid) != nil {
		_ = w.api.Forget(w.t.Context(), w.api.Get(uid))
	}
}

// The mapping of accounts changes while a job runs: it is still seen, and its
// pods end as it does.
func TestAccountsChangeWhileAJobRuns(t *testing.T) {
	w, _ := plain(t, 10*time.Minute)
	uids := w.gang("one", 2)
	w.tick()
	w.tick()
	w.restart(&openGate{}, hpcv1alpha1.Account{User: "bob"})
	for range 60 {
		w.tick()
		for _, uid := range uids {
			if p := w.api.Get(uid); p.Status.Phase != corev1.PodRunning {
				t.Fatalf("pod is %s: %s", p.Status.Phase, p.Status.Message)
			}
		}
	}
	for _, uid := range uids {
		w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
	}
	for range 10 {
		w.tick()
	}
	if w.liveJobs() || len(w.api.List()) > 0 {
		t.Errorf("jobs %+v, pods %d are left", w.system.Jobs(), len(w.api.List()))
	}
}

// The mapping changes between staging and submission: the job finds its files.
func TestAccountsChangeBeforeSubmission(t *testing.T) {
	w, gate := plain(t, 20*time.Second)
	gate.fail = func(name string) error {
		if name == "submit" {
			return &backends.Error{Op: name, Kind: backends.KindDenied, Err: fmt.Errorf("alice has no account")}
		}
		return nil
	}
	uid := w.gang("one", 1)[0]
	w.tick()
	w.restart(&openGate{}, hpcv1alpha1.Account{User: "bob"}, hpcv1alpha1.Account{User: "alice"})
	w.tick()
	staged := w.stager.Users(backends.Key(w.api.Get(uid).Annotations[wellknown.SubmitIntent]))
	if !slices.Contains(staged, "bob") {
		t.Errorf("the gang is staged for %v, its job runs as bob", staged)
	}
	if got := w.api.Get(uid).Annotations[wellknown.BatchUser]; got != "bob" {
		t.Errorf("recorded user %q", got)
	}
}

// Another tenant makes a directory with the name of a gang that is not his.
func TestForeignDirectoryTellsNothing(t *testing.T) {
	w, _ := plain(t, 10*time.Minute)
	w.restart(&openGate{}, hpcv1alpha1.Account{User: "alice"}, hpcv1alpha1.Account{User: "mallory", NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"x": "y"}}})
	uid := w.gang("one", 1)[0]
	w.tick()
	key := backends.Key(w.api.Get(uid).Annotations[wellknown.SubmitIntent])
	var forged providertest.StagedGang
	w.stager.Change(key, func(g *providertest.StagedGang) {
		forged = *g
		forged.User = "mallory"
		forged.Pods = map[int]manifest.Status{0: status(g, 0, 0, manifest.PhaseFailed, 1)}
	})
	w.stager.Forge(key, &forged)
	for range 5 {
		w.tick()
	}
	if p := w.api.Get(uid); p.Status.Phase != corev1.PodRunning {
		t.Errorf("pod is %s by a foreign file", p.Status.Phase)
	}
}

// Effects after a restart act as the job's user, although the user's directory
// cannot be read.
func TestUserAfterRestartWithoutFiles(t *testing.T) {
	w, gate := plain(t, 10*time.Minute)
	refuse := true
	gate.fail = func(name string) error {
		if name == "release" && refuse {
			return &backends.Error{Op: name, Kind: backends.KindTransient, Err: fmt.Errorf("not now")}
		}
		return nil
	}
	uid := w.gang("one", 1)[0]
	w.tick()
	if w.api.Get(uid).Annotations[wellknown.BatchJobID] == "" {
		t.Fatal("no job is recorded")
	}
	var users []string
	spy := &userSpy{Backend: w.system, users: &users}
	w.restart(&openGate{fail: func(name string) error {
		if name == "collect" {
			return fmt.Errorf("the file system is away")
		}
		return nil
	}}, hpcv1alpha1.Account{User: "alice"})
	w.bridge.Backend = spy
	w.tick()
	w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
	for range 8 { // nobody can be told through the files
		w.tick()
	}
	if len(users) < 2 || slices.ContainsFunc(users, func(u string) bool { return u != "alice" }) {
		t.Errorf("effects ran as %q", users)
	}
}

// A job that was submitted and never recorded is found, recorded and counted;
// one that this life submitted is not.
func TestAdoptedJobsAreCounted(t *testing.T) {
	w, gate := plain(t, 10*time.Minute)
	adopted := 0
	w.bridge.Adopted = func() { adopted++ }
	own := w.gang("own", 1)[0]
	w.tick()
	if w.api.Get(own).Annotations[wellknown.BatchJobID] == "" || adopted != 0 {
		t.Fatalf("job %q, %d adopted", w.api.Get(own).Annotations[wellknown.BatchJobID], adopted)
	}
	gate.fail = func(name string) error {
		if name == "record" {
			return fmt.Errorf("the API server is away")
		}
		return nil
	}
	left := w.gang("left", 2)
	w.tick()
	w.restart(&openGate{}, hpcv1alpha1.Account{User: "alice"})
	w.bridge.Adopted = func() { adopted++ }
	for range 5 {
		w.tick()
	}
	if w.api.Get(left[1]).Annotations[wellknown.BatchJobID] == "" || adopted != 1 || len(w.system.Jobs()) != 2 {
		t.Errorf("job %q, %d adopted, %d jobs in all", w.api.Get(left[1]).Annotations[wellknown.BatchJobID], adopted, len(w.system.Jobs()))
	}
}

type userSpy struct {
	backends.Backend
	mu    sync.Mutex
	users *[]string
}

func (s *userSpy) note(u string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.users = append(*s.users, u)
}

func (s *userSpy) Release(ctx context.Context, j backends.JobRef) error {
	s.note(j.User)
	return s.Backend.Release(ctx, j)
}

func (s *userSpy) Cancel(ctx context.Context, j backends.JobRef) error {
	s.note(j.User)
	return s.Backend.Cancel(ctx, j)
}

// A member is deleted while the gang's job is being submitted: its finalizer
// stays until it is certain that it will not run.
func TestMemberDeletedDuringSubmission(t *testing.T) {
	w, gate := plain(t, 10*time.Minute)
	uids := w.gang("trio", 3)
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	gate.before = func(name string) {
		if name == "submit" {
			once.Do(func() { close(entered); <-leave })
		}
	}
	w.bridge.Pass(t.Context(), true)
	<-entered
	w.api.Delete(uids[2], metav1.NewTime(w.clock.Now()))
	// Passes go on beside the submission.
	deadline := time.Now().Add(200 * time.Millisecond)
	for time.Now().Before(deadline) {
		w.bridge.Pass(t.Context(), false)
		if w.api.Get(uids[2]) == nil {
			t.Error("the member was let go while its job was being submitted")
			break
		}
	}
	close(leave)
	w.bridge.Wait()
	for range 10 {
		w.tick()
	}
	for _, e := range w.system.History() {
		if e.What == "start" {
			stopped := false
			w.stager.Change(e.Key, func(g *providertest.StagedGang) { _, stopped = g.Stops[2] })
			if !stopped {
				t.Error("the job started without a stop file for the deleted member")
			}
		}
	}
}

// Ended pods that nobody deletes need no watching of the batch system.
func TestEndedPodsCostNothing(t *testing.T) {
	w, gate := plain(t, 5*time.Second)
	uid := w.gang("one", 1)[0]
	for range 12 {
		w.tick()
	}
	if p := w.api.Get(uid); p.Status.Phase != corev1.PodSucceeded || len(p.Finalizers) > 0 {
		t.Fatalf("pod is %s with %v", p.Status.Phase, p.Finalizers)
	}
	if provider.Live(w.bridge) {
		t.Error("the bridge takes an ended pod for live")
	}
	before := gate.calls()
	w.bridge.Pass(t.Context(), false)
	w.bridge.Wait()
	if after := gate.calls(); !maps.Equal(before, after) {
		t.Errorf("effects %v became %v", before, after)
	}
	w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
	w.tick()
	if w.api.Get(uid) != nil {
		t.Error("the deleted pod stays")
	}
}

// A mapped user that the batch system does not know makes every list
// incomplete: what waits for a complete one must not spin.
func TestIncompleteListsDoNotSpin(t *testing.T) {
	w, gate := plain(t, time.Hour)
	w.gang("one", 1)
	refuse := func(name string) error {
		if name == "submit" {
			return &backends.Error{Op: name, Kind: backends.KindUnknownOutcome, Err: fmt.Errorf("lost")}
		}
		return nil
	}
	gate.fail = refuse
	w.system.IncompleteLists(1000, nil)
	w.bridge.Pass(t.Context(), true)
	w.bridge.Wait()
	drain(w.bridge)
	for i := range 5 {
		w.bridge.Pass(t.Context(), i%2 == 0)
		w.bridge.Wait()
	}
	if n := drain(w.bridge); n > 1 {
		t.Errorf("%d wakes in passes that changed nothing", n)
	}
	if p := w.api.List()[0]; p.Status.ContainerStatuses[0].State.Waiting.Reason != "Submitting" {
		t.Errorf("the cause is not shown: %+v", p.Status.ContainerStatuses[0].State)
	}
}

func drain(b *provider.Bridge) int {
	n := 0
	for {
		select {
		case <-b.Wake:
			n++
		default:
			return n
		}
	}
}

// A stop file is written once, not with every step until an observation.
func TestStopIsWrittenOnce(t *testing.T) {
	w, gate := plain(t, time.Hour)
	uids := w.gang("pair", 2)
	w.tick()
	w.tick()
	w.api.Delete(uids[0], metav1.NewTime(w.clock.Now()))
	w.bridge.Pass(t.Context(), false)
	w.bridge.Wait()
	if n := gate.calls()["stop"]; n != 1 {
		t.Errorf("%d stops: %v", n, strings.Join(w.api.Events(), "; "))
	}
}

// A pod whose author wrote another gang's record on it reaches nothing.
func TestForgedRecordCancelsNothing(t *testing.T) {
	w, _ := plain(t, time.Hour)
	victim := w.gang("victim", 1)[0]
	w.tick()
	w.tick()
	p := w.api.Get(w.gang("thief", 1)[0]).DeepCopy()
	for _, name := range []string{wellknown.SubmitIntent, wellknown.BatchJobID, wellknown.BatchUser} {
		p.Annotations[name] = w.api.Get(victim).Annotations[name]
	}
	w.api.Create(p)
	w.tick()
	w.api.Delete(p.UID, metav1.NewTime(w.clock.Now()))
	for range 40 {
		w.tick()
	}
	if got := w.api.Get(victim).Status.Phase; got != corev1.PodRunning || !w.liveJobs() {
		t.Errorf("the other pod is %s", got)
	}
}
