package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// act is something that takes a scheduler several writes.
type act struct {
	name    string
	actions string
	// set sets the stage, with what is placed before any scheduler is killed.
	set func(*testing.T, *stage)
	// turns is what happens then, of which the scheduler makes something.
	turns func(*testing.T, *stage)
	// kinds are the writes that it takes, as often as each comes, in their order.
	kinds []string
	// blows are the kills, where those at each of the kinds mean nothing.
	blows []blow
	// between happens once, after the first kill.
	between func(*testing.T, *stage)
	// ends is what is not as it should be in the end, "" for nothing.
	ends func(*stage) string
}

const minimum = "configurations: [{name: %s, arguments: {minimumRunTime: 1ms}}]\n"

// configuration is the scheduler's file.
func (s *act) configuration() string {
	text := fmt.Sprintf("actions: \"enqueue, allocate%s\"\ntiers: [{plugins: [{name: priority}, {name: gang}, {name: proportion}, {name: predicates}]}]\n", s.actions)
	switch action := strings.TrimPrefix(s.actions, ", "); action {
	case "":
		return text
	case "shuffle":
		return levelled
	case "repair":
		return text + "configurations: [{name: repair, arguments: {grace: 1s}}]\n"
	default:
		return text + fmt.Sprintf(minimum, action)
	}
}

func twice(kinds ...string) (out []string) {
	for _, k := range kinds {
		out = append(out, k, k)
	}
	return out
}

// placed says which of some gangs are not placed whole.
func (s *stage) placed(names ...string) string {
	for _, n := range names {
		if s.parties[n] == nil {
			return "there is no gang " + n
		}
		if got := len(s.live(n)); got != s.parties[n].size {
			return fmt.Sprintf("gang %s has %d of %d members placed", n, got, s.parties[n].size)
		}
	}
	return ""
}

// oneWent says what is wrong unless exactly one of some gangs was sent away, as a whole
// and once; where it came back, it is placed again or not.
func (s *stage) oneWent(back bool, names ...string) string {
	total := 0
	for _, n := range s.order {
		total += s.sent[n]
	}
	for _, n := range names {
		size := s.parties[n].size
		if s.sent[n] == 0 {
			continue
		}
		if placed := len(s.live(n)); s.sent[n] == size && total == size && (placed == size) == back && (placed == 0) != back {
			return ""
		}
	}
	return fmt.Sprintf("sent away were %v", s.sent)
}

func firstOf(lines ...string) string {
	for _, l := range lines {
		if l != "" {
			return l
		}
	}
	return ""
}

func killScenes() []act {
	return slices.Concat(roomScenes(), volumeScenes(), elasticScenes())
}

func roomScenes() []act {
	return []act{
		{
			name: "preempt", actions: ", preempt", kinds: append([]string{nominates}, twice(evicts, binds)...),
			set: func(t *testing.T, s *stage) {
				s.make(t, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "urgent"}, Value: 1000})
				for _, name := range []string{"a", "b"} {
					s.node(t, "v"+name, 2, 2)
					s.join(t, &party{name: name, size: 2, gpus: 1})
				}
			},
			turns: func(t *testing.T, s *stage) { s.join(t, &party{name: "high", size: 2, gpus: 1, class: "urgent"}) },
			ends:  func(s *stage) string { return firstOf(s.placed("high"), s.oneWent(false, "a", "b")) },
		},
		{
			name: "reclaim", actions: ", reclaim", kinds: append([]string{nominates}, twice(evicts, binds)...),
			set: func(t *testing.T, s *stage) {
				for _, name := range []string{"a", "b"} {
					s.make(t, &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: "of-" + name}, Spec: volcanov1.QueueSpec{Weight: 1, Parent: "root"}, Status: volcanov1.QueueStatus{State: volcanov1.QueueStateOpen}})
					s.queues = append(s.queues, "of-"+name)
					s.node(t, "v"+name, 2, 2)
				}
				for _, name := range []string{"a0", "a1"} {
					s.join(t, &party{name: name, size: 2, gpus: 1, queue: "of-a"})
				}
			},
			turns: func(t *testing.T, s *stage) { s.join(t, &party{name: "due", size: 2, gpus: 1, queue: "of-b"}) },
			ends:  func(s *stage) string { return firstOf(s.placed("due"), s.oneWent(false, "a0", "a1")) },
		},
		{
			name: "repair", actions: ", repair", kinds: append([]string{shows}, append(twice(evicts, binds), binds)...),
			set: func(t *testing.T, s *stage) {
				s.node(t, "va", 3, 3)
				s.join(t, &party{name: "g", size: 3, gpus: 1})
			},
			// The one that is made anew has no place beside the others.
			turns: func(t *testing.T, s *stage) {
				s.mu.Lock()
				s.parties["g"].parted = true
				s.mu.Unlock()
				s.node(t, "vb", 3, 3)
				s.cordon(t, "va")
				s.drop(t, "g-2")
			},
			ends: func(s *stage) string { return firstOf(s.placed("g"), s.wentHalf("g", 2)) },
		},
		{
			name: "consolidate", actions: ", consolidate", kinds: append(twice(nominates, evicts, binds), binds),
			set: func(t *testing.T, s *stage) {
				for _, name := range []string{"a", "b"} {
					s.node(t, "n"+name, 4, 0)
					s.join(t, &party{name: name, size: 2, gpus: 1, moves: true, on: []string{"n" + name, "n" + name}})
				}
			},
			turns: func(t *testing.T, s *stage) { s.join(t, &party{name: "wide", size: 1, gpus: 4}) },
			ends:  func(s *stage) string { return firstOf(s.placed("wide", "a", "b"), s.oneWent(true, "a", "b")) },
		},
		{
			name: "claims", kinds: append(twice(guards, givings), guards, givings, binds, binds, binds, binds),
			set:   devices,
			turns: func(t *testing.T, s *stage) { s.join(t, &party{name: "c", size: 4, device: "killed"}) },
			ends:  func(s *stage) string { return firstOf(s.placed("c"), s.wentHalf("c", 0), s.given("c", 4)) },
		},
		{
			// Devices of a gang that cannot be placed any more are not kept from others.
			name: "claims of nobody", kinds: []string{givings, takes}, blows: []blow{{givings, 2, true}, {takes, 1, false}, {takes, 1, true}},
			set:   devices,
			turns: func(t *testing.T, s *stage) { s.join(t, &party{name: "c", size: 4, device: "killed"}) },
			between: func(t *testing.T, s *stage) {
				s.mu.Lock()
				s.parties["c"].lost = map[int]bool{3: true}
				s.parties["c"].never = true
				s.mu.Unlock()
				s.drop(t, "c-3")
				s.join(t, &party{name: "d", size: 4, device: "killed"})
			},
			ends: func(s *stage) string { return firstOf(s.placed("d"), s.given("d", 4), s.given("c", 0)) },
		},
	}
}

// devices makes two nodes with two devices each.
func devices(t *testing.T, s *stage) {
	class := schedtest.DeviceClass("killed", "killed.example.com")
	class.UID = ""
	s.make(t, class)
	for _, name := range []string{"na", "nb"} {
		s.node(t, name, 0, 0)
		slice := schedtest.Slice(name, "killed.example.com", "x", 2)
		slice.UID = ""
		s.make(t, slice)
	}
}

// wentHalf says what is wrong unless so many pods of a gang were sent away, and nobody else.
func (s *stage) wentHalf(name string, want int) string {
	for n, got := range s.sent {
		if n != name && got > 0 {
			return fmt.Sprintf("sent away were %v", s.sent)
		}
	}
	if s.sent[name] != want {
		return fmt.Sprintf("%d pods of %s were sent away, want %d", s.sent[name], name, want)
	}
	return ""
}

// given says what is wrong with the devices of a gang, unless each of want claims has
// one on its pod's node, is that pod's alone, and the others have none.
func (s *stage) given(name string, want int) string {
	nodes := map[string]string{}
	for _, p := range s.live(name) {
		nodes[p.Name] = p.Spec.NodeName
	}
	got := 0
	for _, c := range s.claims {
		switch {
		case !strings.HasPrefix(c.Name, name+"-") || c.Status.Allocation == nil && len(c.Status.ReservedFor) == 0:
			continue
		case c.Status.Allocation == nil || len(c.Status.ReservedFor) != 1 || c.Status.ReservedFor[0].Name != c.Name:
			return fmt.Sprintf("claim %s has %+v", c.Name, c.Status)
		case len(c.Status.Allocation.Devices.Results) != 1 || c.Status.Allocation.Devices.Results[0].Pool != nodes[c.Name] && want > 0:
			return fmt.Sprintf("claim %s of a pod on %s has %+v", c.Name, nodes[c.Name], c.Status.Allocation.Devices.Results)
		case !slices.Contains(c.Finalizers, resourcev1.Finalizer):
			return fmt.Sprintf("claim %s has devices and the finalizers %v", c.Name, c.Finalizers)
		}
		got++
	}
	if got != want {
		return fmt.Sprintf("%d claims of %s have devices, want %d", got, name, want)
	}
	return ""
}

// blow is a kill in a scene.
type blow struct {
	of    string
	at    int
	after bool
}

func (b blow) String() string {
	of := b.of
	if of == "" {
		of = "write"
	}
	return fmt.Sprintf("%s %s %d", map[bool]string{true: "after", false: "before"}[b.after], of, b.at)
}

// everyWrite kills a scheduler before and after each write of a scene: the first that
// is left of its kind, since the one before is dead.
func (s *act) everyWrite() (out []blow) {
	for _, k := range s.kinds {
		out = append(out, blow{k, 1, false}, blow{k, 1, true})
	}
	return out
}

// someWrites are those of each kind in turn before and after it.
func (s *act) someWrites() (out []blow) {
	seen := map[string]int{}
	for _, k := range s.kinds {
		if seen[k]++; seen[k] <= 2 {
			out = append(out, blow{k, 1, seen[k] == 1})
		}
	}
	return out
}

// perform plays a scene with a scheduler killed at each of some blows. It returns those
// that came; after the end of the scene none can.
func (s *act) perform(t *testing.T, blows []blow) (came []blow) {
	plane := shared(t)
	st := newStage(t, plane, s.configuration())
	s.set(t, st)
	flags := []string{"--leader-elect=false", "--scheduler-conf=" + st.conf, "--audit-interval=50ms"}
	stop := st.begin(t)
	defer stop()
	first := start(t, plane, fate{}, flags...)
	st.partials.by.Store(first)
	st.whole(t, first, func(st *stage) string { return st.placed(st.order...) })
	// A status that is not written yet would be a write of what comes.
	st.shown(t, first)
	first.Kill()
	s.turns(t, st)
	for i, b := range blows {
		r := start(t, plane, fate{of: b.of, at: b.at, after: b.after, signal: syscall.SIGKILL}, flags...)
		st.partials.by.Store(r)
		hit := s.await(t, st, r, b)
		r.Kill()
		if !hit {
			break
		}
		came = append(came, b)
		if i == 0 && s.between != nil {
			s.between(t, st)
		}
	}
	if len(came) == 0 && s.between != nil {
		s.between(t, st)
	}
	last := start(t, plane, fate{}, flags...)
	st.partials.by.Store(last)
	st.whole(t, last, s.ends)
	st.rests(t, last, s.ends)
	last.Kill()
	return came
}

// await waits for the blow to hit, and returns false when the scene has ended before.
func (s *act) await(t *testing.T, st *stage, r *runner, b blow) (hit bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := time.Time{}
	for turn := range math.MaxInt {
		if turn%10 == 0 {
			st.poke(ctx, turn) // what is due by time alone is seen by the next cycle
		}
		open, wrong := st.state(s.ends)
		switch {
		case wrong != nil:
			t.Fatalf("%s: %v\n%s", b, wrong, r.Tail())
		case open != "":
			ended = time.Time{}
		case ended.IsZero():
			ended = time.Now()
		case time.Since(ended) > 2*time.Second: // statuses may be written yet
			return false
		}
		select {
		case <-r.Exited():
			if !r.Fated() {
				t.Fatalf("%s: the scheduler ended by itself:\n%s", b, r.Tail())
			}
			return true
		case <-ctx.Done():
			t.Fatalf("%s: the scheduler sent %d writes and never came to it: %s\n%s", b, r.Sent(), open, r.Tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return false
}

// shown waits until all PodGroups say that they run.
func (s *stage) shown(t *testing.T, r *runner) {
	t.Helper()
	s.whole(t, r, func(*stage) string {
		var list volcanov1.PodGroupList
		if err := s.plane.Client.List(t.Context(), &list, client.InNamespace(s.namespace)); err != nil {
			return err.Error()
		}
		for _, pg := range list.Items {
			if pg.Status.Phase != volcanov1.PodGroupRunning || pg.Status.Running < pg.Spec.MinMember {
				return fmt.Sprintf("PodGroup %s is %s with %d running", pg.Name, pg.Status.Phase, pg.Status.Running)
			}
		}
		return ""
	})
}

// TestDroppedIsNotSentAway: what a scene itself deletes is not counted as sent away, at
// whatever moment of its going it is seen.
func TestDroppedIsNotSentAway(t *testing.T) {
	st := newStage(t, shared(t), "")
	st.join(t, &party{name: "g", size: 1})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: "g-0"}}
	holds := func(finalizers string) {
		patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":`+finalizers+`}}`))
		if err := st.plane.Client.Patch(t.Context(), pod, patch); err != nil {
			t.Fatal(err)
		}
	}
	holds(`["test.example.com/seen"]`)
	st.drop(t, "g-0")
	st.turn(t.Context())
	if len(st.pods) != 1 || st.pods[0].DeletionTimestamp == nil || st.sent["g"] != 0 {
		t.Errorf("%d of %d pods were sent away", st.sent["g"], len(st.pods))
	}
	holds("null")
}

// TestKilledInScenes kills schedulers while they preempt, reclaim, repair a gang that
// lost members, move one to make room or from a node that is full, make one smaller, have
// one grow, and give devices and volumes out: before and after the
// writes of each kind, one scheduler after the other, each of which finds what the one
// before has left. Nothing is over-committed, no gang partial for long, no device or volume given
// twice; exactly those pods are sent away that have to be, once, and who they went for
// is placed; what is counted as held is what pods hold; and then nothing happens any
// more. With ISTHMUS_SCHEDULER_KILLS both sides of each write are tried, and that many
// more schedulers are killed at writes drawn at random.
func TestKilledInScenes(t *testing.T) {
	more := number(t, "ISTHMUS_SCHEDULER_KILLS", 0)
	seed := uint64(number(t, "ISTHMUS_SCHEDULER_SEED", 1))
	for _, s := range killScenes() {
		t.Run(s.name, func(t *testing.T) {
			blows := s.blows
			if blows == nil && more > 0 {
				blows = s.everyWrite()
			} else if blows == nil {
				blows = s.someWrites()
			}
			came := s.perform(t, blows)
			for _, k := range s.kinds {
				if !slices.ContainsFunc(came, func(b blow) bool { return b.of == k }) {
					t.Errorf("no scheduler was killed at a write of kind %s; they were at %v", k, came)
				}
			}
			t.Logf("killed %d: %v", len(came), came)
		})
	}
	killed := 0
	for round := 0; killed < more; round++ {
		all := killScenes()
		s := all[round%len(all)]
		if s.blows != nil {
			continue
		}
		before := killed
		t.Run(s.name+" at random "+strconv.Itoa(round), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, uint64(round)))
			blows := make([]blow, 4)
			for i := range blows {
				blows[i] = blow{"", 1 + random.IntN(10), random.IntN(2) == 0}
			}
			came := s.perform(t, blows)
			killed += max(len(came), 1) // a scene may be over before
			t.Logf("seed %d: killed %v", seed, came)
		})
		if t.Failed() {
			t.FailNow()
		}
		if killed == before {
			return // these rounds are not asked for (-run)
		}
	}
}
