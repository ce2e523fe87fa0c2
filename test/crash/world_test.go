package crash_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/isthmus-hpc/isthmus/backends"
	transport "github.com/isthmus-hpc/isthmus/backends/transport/local"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
)

const (
	node = "node-main"
	// tickTime is how far the provider's clock goes in one tick, which really
	// waits for batch.pause: the graces of a minute pass in a second or two, while
	// jobs, which live in real time, move on.
	tickTime = 5 * time.Second
)

// world is what survives a crash of the daemon: API server, batch system with
// its processes, and file system.
type world struct {
	t      *testing.T
	dir    string
	api    *providertest.API
	stager *staging.Client
	batch  batch
	serial int64 // of the life
	system backends.Backend
	clock  *clocktesting.FakePassiveClock
	gate   *providertest.Gate
	bridge *provider.Bridge
	boots  int
}

func newWorld(t *testing.T, on batch, serial int64, gate *providertest.Gate) *world {
	t.Helper()
	w := &world{
		t: t, dir: openDir(t), api: providertest.NewAPI(), gate: gate, batch: on, serial: serial,
		clock: clocktesting.NewFakePassiveClock(time.Now()),
	}
	for _, name := range []string{"marks", "staging"} {
		dir := filepath.Join(w.dir, name)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o777|fs.ModeSticky)); err != nil {
			t.Fatal(err)
		}
	}
	w.stager = &staging.Client{Runner: transport.New(), Podrun: suite.podrun, Directory: filepath.Join(w.dir, "staging")}
	w.boot()
	t.Cleanup(w.clear)
	return w
}

// openDir is a directory of this test that other users may walk through, which
// t.TempDir is not.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(suite.dir, "life-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// boot starts a daemon that remembers nothing.
func (w *world) boot() {
	w.boots++
	var err error
	if w.system, err = w.batch.open(w.dir); err != nil {
		w.t.Fatal(err)
	}
	w.bridge = provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "test"},
			Spec: hpcv1alpha1.BatchClusterSpec{
				Type:     w.batch.name,
				Accounts: []hpcv1alpha1.Account{{User: suite.user}},
				Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost},
				Staging:  hpcv1alpha1.Staging{Directory: w.stager.Directory},
			},
		},
		Owner: w.owner(), Launcher: w.batch.name, Backend: w.system, Stager: w.stager, Pods: w.api, Objects: providertest.Objects{},
		Gate: w.gate, Clock: w.clock, Log: logr.Discard(),
	})
	w.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: node, Partition: w.batch.partition, MaxPodsPending: 1000}})
}

// tick is one poll interval: a fresh pass, one for its follow-ups, time.
func (w *world) tick() {
	for i := range 2 {
		w.bridge.Pass(w.t.Context(), i == 0)
		w.bridge.Wait()
		if w.gate.Revive() {
			w.boot()
		}
	}
	w.clock.SetTime(w.clock.Now().Add(tickTime))
	select {
	case <-w.t.Context().Done():
	case <-time.After(w.batch.pause):
	}
}

// until ticks until done, and tells whether it came to that in time.
func (w *world) until(done func() bool) bool {
	for end := time.Now().Add(deadline); time.Now().Before(end); w.tick() {
		if done() {
			return true
		}
	}
	return done()
}

// gang binds size pods as one attempt. Each leaves a file of its own for every
// time that it starts, named by the pod, and then does what rest says; rest is
// shell text, run in the directory of the marks.
func (w *world) gang(name string, size int, rest string) []types.UID {
	var uids []types.UID
	for rank := range size {
		pod := fmt.Sprintf("%s-%d", name, rank)
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "ns", Name: pod, UID: types.UID("uid-" + pod),
				Annotations: map[string]string{
					wellknown.GangAttempt: "attempt-" + name, wellknown.GangSize: fmt.Sprint(size), wellknown.GangRank: fmt.Sprint(rank),
				},
			},
			Spec: corev1.PodSpec{
				NodeName: node, RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(5)),
				Containers: []corev1.Container{{
					Name: "main", Image: "none",
					Command: []string{"/bin/sh", "-c", `cd "$1" && mktemp "./$2.XXXXXXXX" >/dev/null && ` + rest, "sh", w.marks(), pod},
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
						corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("64Mi"),
					}},
				}},
			},
			Status: corev1.PodStatus{Phase: corev1.PodPending},
		}
		w.api.Create(p)
		uids = append(uids, p.UID)
	}
	return uids
}

// leftover submits what a daemon leaves that died between submitting a job and
// recording it, when the pods were then deleted by force: a held job of nobody.
func (w *world) leftover() {
	_, err := w.system.Submit(w.t.Context(), backends.JobSpec{
		Key: leftoverKey, Owner: w.owner(), User: suite.user, Partition: w.batch.partition, WorkDir: w.stager.WorkDir(suite.user, leftoverKey),
		Components: []backends.Component{{Tasks: 1, CPUs: 1}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

const leftoverKey backends.Key = "leftover"

func (w *world) marks() string { return filepath.Join(w.dir, "marks") }

// starts counts on disk how often each pod was started.
func (w *world) starts() map[string]int {
	w.t.Helper()
	entries, err := os.ReadDir(w.marks())
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]int{}
	for _, e := range entries {
		pod, _, _ := strings.Cut(e.Name(), ".")
		out[pod]++
	}
	return out
}

// directories lists the gang directories on disk, unfinished ones with them.
func (w *world) directories() []string {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.stager.Directory, suite.user, "g"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// liveJobs lists jobs that have not ended, whoever knows of them.
func (w *world) liveJobs(ctx context.Context) []backends.Job {
	w.t.Helper()
	got, err := w.system.Observe(ctx, w.owner(), []string{suite.user})
	if err != nil || !got.Complete {
		w.t.Fatalf("observe: complete %v, %v", got.Complete, err)
	}
	var out []backends.Job
	for _, j := range got.Jobs {
		if !j.State.Terminal() {
			out = append(out, j)
		}
	}
	return out
}

func (w *world) has(uid types.UID, phase corev1.PodPhase) bool {
	p := w.api.Get(uid)
	return p != nil && p.Status.Phase == phase
}

// widen makes a pod ask for more than any host has.
func (w *world) widen(uid types.UID) {
	p := w.api.Get(uid).DeepCopy()
	p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("99")
	w.api.Create(p)
}

func (w *world) delete(uids ...types.UID) {
	for _, uid := range uids {
		w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
	}
}

// clear ends what a failed life left, and waits for it.
func (w *world) clear() {
	ctx := context.WithoutCancel(w.t.Context())
	for end := time.Now().Add(deadline); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		live := w.liveJobs(ctx)
		if len(live) == 0 {
			return
		}
		for _, j := range live {
			if err := w.system.Cancel(ctx, backends.JobRef{ID: j.ID, Key: j.Key, User: j.User}); err != nil {
				w.t.Errorf("clear away job %s: %v", j.ID, err)
			}
		}
	}
	w.t.Errorf("jobs do not end: %+v", w.liveJobs(ctx))
}

// deadline is how long a life waits for one thing in real time.
const deadline = 90 * time.Second
