// Package crash has no code of its own: its tests put the provider, the real
// pod runner and a batch system together and let every external
// effect of the provider go wrong in every way.
package crash_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// suite is what TestMain makes for all tests.
var suite struct {
	dir    string // reachable by every user
	podrun string
	user   string // whom jobs run as
}

// lives is how many lives go on at a time: most of each is waiting.
const lives = 6

func TestMain(m *testing.M) {
	flag.Parse()
	parallel := flag.Lookup("test.parallel")
	if n, err := strconv.Atoi(parallel.Value.String()); err == nil && n < lives {
		if err := parallel.Value.Set(strconv.Itoa(lives)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if err := prepare(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		_ = os.RemoveAll(suite.dir)
		os.Exit(1)
	}
	// VerifyTestMain ends the process itself.
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(suite.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		os.Exit(code)
	}))
}

// prepare builds the pod runner and finds whom jobs run as: as root a user of
// the testbed, else ourselves.
func prepare(ctx context.Context) error {
	u, err := user.LookupId(strconv.Itoa(os.Getuid()))
	if err != nil {
		return fmt.Errorf("find our own name: %w", err)
	}
	suite.user = u.Username
	if os.Getuid() == 0 {
		if err := account.Ensure(ctx, os.Stderr); err != nil {
			return err
		}
		suite.user = account.Alice
	}
	if suite.dir, err = os.MkdirTemp("", "isthmus-crash-"); err != nil {
		return err
	}
	if err := os.Chmod(suite.dir, 0o755); err != nil {
		return err
	}
	root, err := checkout.Root()
	if err != nil {
		return err
	}
	suite.podrun = filepath.Join(suite.dir, "podrun")
	return checkout.GoBuild{Module: root, Package: "./cmd/podrun", Output: suite.podrun}.Run(ctx, os.Stderr, "building podrun")
}

// tally counts over all lives. All but runs must be zero in the end.
type tally struct{ runs, double, lost, leaked atomic.Int64 }

// life runs one load from binding to an empty cluster: a gang of two, a single
// pod, a gang deleted midway, a gang of which one member is deleted, a pod that
// is deleted while its job waits, and a held job that nobody owns. It checks that
// nothing ran twice, was lost or was left.
func life(t *testing.T, on batch, seed uint64, gate *providertest.Gate, count *tally) {
	serial := count.runs.Add(1)
	rng := rand.New(rand.NewPCG(seed, 7))
	w := newWorld(t, on, serial, gate)
	wrong := func(n *atomic.Int64, format string, args ...any) {
		t.Helper()
		n.Add(1)
		t.Errorf(format, args...)
	}

	w.leftover()
	run := fmt.Sprintf("exec sleep 0.%d", rng.IntN(5))
	kept := slices.Concat(w.gang("pair", 2, run), w.gang("one", 1, run))
	gone := w.gang("gone", 2, "exec sleep 1000")
	part := w.gang("part", 2, "until [ -e go ]; do sleep 0.05; done")
	kept = append(kept, part[0])
	wide := w.gang("wide", 1, "exit 1")
	w.widen(wide[0])

	// The first seed deletes while all run, others also at any time before.
	early := seed > 0 && rng.IntN(2) == 1
	dropAt := rng.IntN(6)
	running := func(uids ...types.UID) func() bool {
		return func() bool {
			return !slices.ContainsFunc(uids, func(uid types.UID) bool { return !w.has(uid, corev1.PodRunning) })
		}
	}
	if early {
		for range dropAt {
			w.tick()
		}
	} else if !w.until(running(gone...)) || !w.until(func() bool { return w.api.Get(wide[0]).Annotations[wellknown.BatchJobID] != "" }) {
		wrong(&count.lost, "the gang to be deleted never ran, or that which fits nowhere never waited")
	}
	w.delete(gone...)
	w.delete(wide...)
	if !w.until(running(part...)) {
		wrong(&count.lost, "the gang that loses a member never ran")
	}
	w.delete(part[1])
	deleted := append(slices.Clone(gone), part[1], wide[0])
	vanished := func() bool {
		return !slices.ContainsFunc(deleted, func(uid types.UID) bool { return w.api.Get(uid) != nil })
	}
	if !w.until(vanished) {
		wrong(&count.lost, "deleted pods stay")
	}
	if err := os.WriteFile(filepath.Join(w.marks(), "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.until(func() bool {
		return !slices.ContainsFunc(kept, func(uid types.UID) bool {
			p := w.api.Get(uid)
			return p != nil && (len(p.Finalizers) > 0 || p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed)
		})
	})

	starts := w.starts()
	delete(starts, "go")
	for _, uid := range kept {
		p := w.api.Get(uid)
		switch {
		case p == nil:
			wrong(&count.lost, "pod %s vanished", uid)
		case p.Status.Phase != corev1.PodSucceeded:
			wrong(&count.lost, "pod %s is %s (%s %s), the fault was transient", p.Name, p.Status.Phase, p.Status.Reason, p.Status.Message)
		case starts[p.Name] == 0:
			wrong(&count.lost, "pod %s succeeded and never ran", p.Name)
		case len(p.Finalizers) > 0:
			wrong(&count.leaked, "pod %s keeps its finalizer", p.Name)
		}
	}

	w.delete(kept...)
	w.until(func() bool {
		return len(w.api.List()) == 0 && len(w.directories()) == 0 && len(w.liveJobs(t.Context())) == 0
	})
	for _, p := range w.api.List() {
		wrong(&count.leaked, "pod %s is left with finalizers %v", p.Name, p.Finalizers)
	}
	for _, dir := range w.directories() {
		wrong(&count.leaked, "directory %s is left in the staging area", dir)
	}
	for _, j := range w.liveJobs(t.Context()) {
		wrong(&count.leaked, "job %s is left: %+v", j.ID, j)
	}
	for pod, n := range w.starts() {
		if n > 1 {
			wrong(&count.double, "pod %s was started %d times", pod, n)
		}
	}
	w.checkJobs(func(format string, args ...any) { wrong(&count.double, format, args...) })
	if fault, first := gate.Unmet(); first {
		t.Errorf("the fault was never met: %s", fault)
	} else if fault != "" {
		t.Logf("this life needed fewer: %s", fault)
	}
}

// checkJobs asks the batch system for all that ever was: at most one job of a
// key may have run, and the leftover none.
func (w *world) checkJobs(wrong func(format string, args ...any)) {
	w.t.Helper()
	got, err := w.system.Observe(w.t.Context(), w.owner(), []string{suite.user})
	if err != nil {
		w.t.Fatal(err)
	}
	ran := map[backends.Key]int{}
	for _, j := range got.Jobs {
		if !j.Started.IsZero() {
			ran[j.Key]++
		}
	}
	for key, n := range ran {
		if n > 1 || key == leftoverKey {
			wrong("%d jobs of %s ran", n, key)
		}
	}
}

// effectsOfALife is golden: a new external effect cannot hide from the
// enumeration below.
var effectsOfALife = []string{
	"cancel", "collect", "forget", "observe", "patch-status", "record", "release", "stage", "stop", "submit",
	"sweep-cancel", "sweep-remove", "write-intent",
}

// TestCrashEnumeration meets every external effect of the provider with every
// fault, on batch systems with real processes and files: no double run, nothing
// lost, nothing left behind. ISTHMUS_SEEDS sets how many different loads are
// tried; with more than one the last time that an effect happens is met as well
// as the first, and PBS keeps a history for every other load.
//
// The same on the fake batch system is a test of package provider.
func TestCrashEnumeration(t *testing.T) {
	seeds := uint64(1)
	if text := os.Getenv("ISTHMUS_SEEDS"); text != "" {
		var err error
		if seeds, err = strconv.ParseUint(text, 10, 10); err != nil || seeds == 0 {
			t.Fatalf("ISTHMUS_SEEDS=%q is not a number from 1 to 1023", text)
		}
	}
	t.Run("local", func(t *testing.T) {
		on := embedded()
		enumerate(t, seeds, func(uint64) batch { return on })
	})
	t.Run("pbs", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("SKIP: not root: the stand-in starts jobs as their users")
		}
		forgets := standIn(t, false)
		on := []batch{forgets, forgets}
		if seeds > 1 {
			on[1] = standIn(t, true)
		}
		enumerate(t, seeds, func(seed uint64) batch { return on[seed%2] })
	})
}

// enumerate leads a life for each crash point, and prints how many there were.
func enumerate(t *testing.T, seeds uint64, on func(seed uint64) batch) {
	var count tally
	points := 0
	probes := make([]*providertest.Gate, seeds)
	t.Run("without-fault", func(t *testing.T) {
		for seed := range seeds {
			probes[seed] = providertest.Sound()
			t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) {
				t.Parallel()
				life(t, on(seed), seed, probes[seed], &count)
			})
		}
	})
	if t.Failed() {
		t.Fatal("a life fails without any fault")
	}
	t.Run("faults", func(t *testing.T) {
		for seed := range seeds {
			counts := probes[seed].Counts()
			names := slices.Sorted(maps.Keys(counts))
			if seed == 0 && !slices.Equal(names, effectsOfALife) {
				t.Errorf("effects are %v, want %v", names, effectsOfALife)
			}
			for _, name := range names {
				times := []int{1}
				if seeds > 1 && counts[name] > 1 {
					times = append(times, counts[name])
				}
				for _, nth := range times {
					for _, f := range providertest.Faults() {
						points++
						t.Run(strings.ReplaceAll(fmt.Sprintf("seed%d/%s-%d/%s", seed, name, nth, f), " ", "_"), func(t *testing.T) {
							t.Parallel()
							life(t, on(seed), seed, providertest.Faulty(f, name, nth), &count)
						})
					}
				}
			}
		}
	})
	t.Logf("%s: %d crash points over %d loads, %d lives: %d double runs, %d lost, %d leaked",
		on(0).name, points, seeds, count.runs.Load(), count.double.Load(), count.lost.Load(), count.leaked.Load())
	if least := 48 * int(seeds); points < least { //nolint:gosec // at most 1023
		t.Errorf("%d crash points, want %d at least", points, least)
	}
}
