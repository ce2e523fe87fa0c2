package provider_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

const (
	simulatedSeeds = 500
	// Most histories are small: more of them find more in the same time, and what
	// they find is easier to follow. Every sixteenth is large.
	faultyTicks, largeTicks = 20, 40
	gangSize, largeGang     = 3, 4
	// seconds that jobs run for at the most, beside 5.
	runTime, longRun = 30, 60
	// patience is how long, in virtual time, all work may take after the faults.
	patienceTicks = 400
	// convergence bounds the virtual time from the last fault until every pod
	// says what its job does (reliability figure R3).
	convergence = 60 * time.Second
)

// storm is one random history: gangs come and go while the batch system, the
// API and the daemon fail. Another scheduler, which knows PodGroups alone, binds some.
type storm struct {
	*world
	groups *groups
	rng    *rand.Rand
	codes  map[string]int // exit code by gang
	kept   map[types.UID]string
	gone   []types.UID
	n      int
	large  bool
	said   []string
	late   string // what was not said in time
}

func (s *storm) note(format string, args ...any) {
	s.said = append(s.said, fmt.Sprintf("%s ", s.clock.Now().Format("15:04:05"))+fmt.Sprintf(format, args...))
}

func (s *storm) arrive() {
	name := fmt.Sprintf("g%d", s.n)
	s.n++
	if s.rng.IntN(4) == 0 {
		s.codes[name] = 1 + s.rng.IntN(100)
	}
	size := 1 + s.rng.IntN(s.of(gangSize, largeGang))
	var uids []types.UID
	if s.rng.IntN(3) > 0 {
		uids = s.gang(name, size)
	} else {
		s.groups.set(name, int32(size)) //nolint:gosec // a few
		uids = s.bound(s.pods(name, size), name, "node-main")
	}
	for _, uid := range uids {
		s.kept[uid] = name
	}
}

func (s *storm) of(small, large int) int {
	if s.large {
		return large
	}
	return small
}

// gangOf names the gang of a staged job.
func gangOf(g *providertest.StagedGang) string {
	name, _, _ := strings.Cut(g.Output.Pods[0].Pod.Name, "-")
	return name
}

// program makes jobs end as their gang is to end.
func (s *storm) program(spec backends.JobSpec) fake.Behaviour {
	code := 0
	s.stager.Change(spec.Key, func(g *providertest.StagedGang) { code = s.codes[gangOf(g)] })
	set := func(r fake.Run, phase manifest.Phase, code int32) {
		s.stager.Change(r.Spec.Key, func(g *providertest.StagedGang) {
			for rank := range g.Output.Pods {
				g.Pods[rank] = status(g, rank, r.Restart, phase, code)
			}
			if phase.Terminal() {
				g.End = &manifest.End{Restart: r.Restart, ExitCode: int(code)}
			}
		})
	}
	return fake.Behaviour{
		Duration: time.Duration(5+s.rng.IntN(s.of(runTime, longRun))) * time.Second,
		ExitCode: code,
		OnStart: func(r fake.Run) {
			s.stager.Change(r.Spec.Key, func(g *providertest.StagedGang) { s.runs(g, r.Job) })
			set(r, manifest.PhaseRunning, 0)
		},
		OnEnd: func(r fake.Run, state backends.State) {
			switch state {
			case backends.StateCompleted:
				set(r, manifest.PhaseSucceeded, 0)
			case backends.StateFailed:
				set(r, manifest.PhaseFailed, int32(code)) //nolint:gosec // at most 100
			case backends.StatePending: // requeued: the runner was killed and wrote nothing
			default:
				set(r, manifest.PhaseFailed, 143)
			}
		},
	}
}

// misfortune is one random fault; none of them may fail a pod.
func (s *storm) misfortune() {
	live := slices.DeleteFunc(s.system.Jobs(), func(j backends.Job) bool { return j.State != backends.StateRunning })
	ops := []fake.Op{fake.OpSubmit, fake.OpRelease, fake.OpCancel, fake.OpObserve}
	op := ops[s.rng.IntN(len(ops))]
	switch s.rng.IntN(13) {
	case 0:
		s.note("lost reply of %s", op)
		s.system.LoseReply(op)
	case 1:
		s.note("lost request of %s", op)
		s.system.LoseRequest(op)
	case 2:
		s.note("%s throttled", op)
		s.system.Fail(op, backends.KindThrottled)
	case 3:
		d := time.Duration(5+s.rng.IntN(60)) * time.Second
		s.note("outage of %v", d)
		s.system.Outage(d)
	case 4:
		s.note("stale lists")
		s.system.StaleLists(1 + s.rng.IntN(3))
	case 5:
		s.note("lists that lack every other job")
		i := 0
		s.system.IncompleteLists(1+s.rng.IntN(3), func(backends.Job) bool { i++; return i%2 == 0 })
	case 6:
		if len(live) > 0 {
			id := live[s.rng.IntN(len(live))].ID
			s.note("job %s requeued", id)
			s.system.Requeue(id)
		}
	case 7:
		if len(live) > 0 {
			id := live[s.rng.IntN(len(live))].ID
			s.note("job %s preempted, requeued", id)
			s.system.Preempt(id, 0, true)
		}
	case 8:
		h := fmt.Sprintf("h%03d", 1+s.rng.IntN(4))
		s.note("host %s fails and comes back", h)
		s.system.FailHost(h, true)
		s.system.RepairHost(h)
	case 9:
		s.note("the daemon dies before %s", "its next effect")
		s.gate.Crash()
	case 10:
		names := slices.Clone(effectsOfALife)
		faults := providertest.Faults()
		fault := faults[s.rng.IntN(len(faults))]
		effect := names[s.rng.IntN(len(names))]
		s.gate.Next(fault, effect)
		s.note("next %s: %s", effect, fault)
	case 11:
		s.note("%s slow", op)
		s.system.Slow(op, time.Duration(s.rng.IntN(30))*time.Second)
	case 12:
		s.system.SetNextID(int64(1000 + s.rng.IntN(3)*1000)) // ids wrap and are used again
	}
}

// leave deletes a random gang, or one member of it.
func (s *storm) leave() {
	pods := s.api.List()
	if len(pods) == 0 {
		return
	}
	p := pods[s.rng.IntN(len(pods))]
	name := s.kept[p.UID]
	if name == "" {
		return
	}
	// The rest of a gang that loses a member before it was handed over waits for
	// a replacement, which never comes here.
	whole := s.rng.IntN(2) == 0
	for uid, of := range s.kept {
		whole = whole || of == name && s.api.Get(uid).Annotations[wellknown.BatchJobID] == ""
	}
	for uid, of := range s.kept {
		if uid == p.UID || whole && of == name {
			delete(s.kept, uid)
			s.gone = append(s.gone, uid)
			s.api.Delete(uid, metav1.NewTime(s.clock.Now()))
		}
	}
	s.note("%s deleted, whole gang: %v", p.Name, whole)
}

// wrongEnds lists pods that ended as they should not.
func (s *storm) wrongEnds() (out []string) {
	for uid, name := range s.kept {
		p := s.api.Get(uid)
		want := corev1.PodSucceeded
		if s.codes[name] != 0 {
			want = corev1.PodFailed
		}
		switch {
		case p == nil:
			out = append(out, fmt.Sprintf("pod %s vanished", uid))
		case p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed:
		case p.Status.Phase != want:
			out = append(out, fmt.Sprintf("pod %s is %s (%s: %s), want %s", p.Name, p.Status.Phase, p.Status.Reason, p.Status.Message, want))
		case want == corev1.PodFailed:
			if code := p.Status.ContainerStatuses[0].State.Terminated.ExitCode; int(code) != s.codes[name] {
				out = append(out, fmt.Sprintf("pod %s has exit code %d, want %d", p.Name, code, s.codes[name]))
			}
		}
	}
	return out
}

// behind are those of uids whose pod does not say what its job does.
func (s *storm) behind(uids []types.UID) []types.UID {
	byKey := map[backends.Key]backends.Job{}
	for _, j := range s.system.Jobs() {
		if old, ok := byKey[j.Key]; !ok || old.State.Terminal() || old.Held {
			byKey[j.Key] = j
		}
	}
	return slices.DeleteFunc(slices.Clone(uids), func(uid types.UID) bool {
		p := s.api.Get(uid)
		if s.kept[uid] == "" {
			return p == nil // it was deleted
		}
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			return true // wrongEnds looks at it
		}
		j, ok := byKey[backends.Key(p.Annotations[wellknown.SubmitIntent])]
		return ok && !j.Held && !j.State.Terminal() && (j.State != backends.StateRunning || p.Status.Phase == corev1.PodRunning)
	})
}

// waits is what a pod says that it waits for.
func waits(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == wellknown.PodBatchJob {
			return c.Reason + ": " + c.Message
		}
	}
	return ""
}

// state tells everything that is not at rest, for a failure.
func (s *storm) state() string {
	var out strings.Builder
	for _, p := range s.api.List() {
		if len(p.Finalizers) > 0 || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodPending || p.Status.Phase == corev1.PodRunning {
			fmt.Fprintf(&out, "pod %s %s deleting=%v finalizers=%v annotations=%v %s\n",
				p.Name, p.Status.Phase, p.DeletionTimestamp != nil, p.Finalizers, p.Annotations, waits(p))
		}
	}
	for _, j := range s.system.Jobs() {
		fmt.Fprintf(&out, "job %+v\n", j)
	}
	fmt.Fprintf(&out, "now %s", s.clock.Now())
	return out.String()
}

// run plays one history and gives the virtual time it took to converge.
func (s *storm) run() time.Duration {
	ticks := s.of(faultyTicks, largeTicks)
	for i := range ticks {
		if s.rng.IntN(3) > 0 {
			s.misfortune()
		}
		if i < ticks/2 && s.rng.IntN(2) == 0 {
			s.arrive()
		}
		if s.rng.IntN(10) == 0 {
			s.leave()
		}
		s.obey()
		s.tick()
		if bad := s.wrongEnds(); bad != nil {
			s.t.Fatalf("after a fault: %q\n%s", bad, strings.Join(s.said, "\n"))
		}
	}
	s.system.ClearFaults()
	s.gate.Next(providertest.NoFault, "")
	// Jobs go on starting and ending, which is told a tick later; what must pass
	// is that a pod has been behind since the faults.
	start, took := s.clock.Now(), time.Duration(-1)
	behind := slices.Concat(slices.Collect(maps.Keys(s.kept)), s.gone)
	for range patienceTicks {
		s.obey()
		s.tick()
		if behind = s.behind(behind); len(behind) == 0 && took < 0 {
			took = s.clock.Now().Sub(start)
		}
		if took < 0 && s.clock.Now().Sub(start) > convergence && s.late == "" {
			s.late = fmt.Sprintf("%v\n%s\n%s", behind, strings.Join(s.said[max(0, len(s.said)-15):], "\n"), s.state())
		}
		if took >= 0 && s.settled() {
			break
		}
	}
	if bad := s.wrongEnds(); bad != nil || !s.settled() || took < 0 {
		s.t.Fatalf("in the end: %q, settled %v, agreed after %v\n%s\n%s", bad, s.settled(), took, strings.Join(s.said, "\n"), s.state())
	}
	for uid := range s.kept {
		s.api.Delete(uid, metav1.NewTime(s.clock.Now()))
	}
	for range 60 {
		s.tick()
		if s.stager.Len() == 0 && !s.liveJobs() {
			return took
		}
	}
	s.t.Fatalf("left behind: %d directories, jobs %v\n%s", s.stager.Len(), s.liveJobs(), strings.Join(s.said, "\n"))
	return 0
}

// TestSimulatedFaults plays random histories: no double run, no pod lost, none
// failed for a transient cause, nothing left behind, and everything said within a
// minute of the last fault (R1 to R3). ISTHMUS_SIMULATED_SEEDS sets their number.
func TestSimulatedFaults(t *testing.T) {
	seeds := simulatedSeeds
	if testing.Short() {
		seeds = 20
	}
	if n, err := strconv.Atoi(os.Getenv("ISTHMUS_SIMULATED_SEEDS")); err == nil && n > 0 {
		seeds = n
	}
	var mu sync.Mutex
	var took []time.Duration
	t.Run("seeds", func(t *testing.T) {
		for seed := range seeds {
			t.Run(strconv.Itoa(seed), func(t *testing.T) {
				t.Parallel()
				s := &storm{
					rng: rand.New(rand.NewPCG(uint64(seed), 11)), codes: map[string]int{}, kept: map[types.UID]string{}, large: seed%16 == 0, //nolint:gosec // reproducible on purpose
				}
				s.world = newWorldOf(t, providertest.Sound(), func(spec backends.JobSpec) fake.Behaviour { return s.program(spec) })
				s.groups = newGroups()
				s.objects = s.groups
				s.boot()
				d := s.run()
				if s.late != "" {
					t.Log(s.late)
				}
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			})
		}
	})
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("%d histories: 0 double runs, 0 lost, 0 failed by a transient fault, 0 left behind; converged within %v (median), %v (99 %%), %v (all)",
		len(took), took[len(took)/2], p99, took[len(took)-1])
	if p99 > convergence {
		t.Errorf("99 %% of the histories converged within %v of virtual time, want %v", p99, convergence)
	}
}
