package lifecycle_test

import (
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// pod makes a member that is bound and untouched.
func pod(uid string, size, rank int, change ...func(*lifecycle.Pod)) lifecycle.Pod {
	p := lifecycle.Pod{UID: uid, Namespace: "ns", Name: "pod-" + uid, Attempt: "a", Size: size, Rank: rank, Grace: grace}
	for _, c := range change {
		c(&p)
	}
	return p
}

func intent(key backends.Key) func(*lifecycle.Pod) {
	return func(p *lifecycle.Pod) { p.Intent, p.Finalizer = key, true }
}
func job(id backends.JobID) func(*lifecycle.Pod) { return func(p *lifecycle.Pod) { p.JobID = id } }
func deleting(p *lifecycle.Pod)                  { p.Deleting = true }
func finished(p *lifecycle.Pod)                  { p.Finished = true }

const grace = 30 * time.Second

func ago(d time.Duration) time.Time { return now.Add(-d) }

// told is a stop whose order is in place.
func told(at time.Time, grace time.Duration) lifecycle.Stop {
	return lifecycle.Stop{Asked: at, Written: at, Begun: at, Grace: grace}
}

func seen(s lifecycle.Stop) lifecycle.Stop { s.Seen = true; return s }

func TestNext(t *testing.T) {
	key := lifecycle.KeyFor("o", "a", []string{"x", "y"})
	held := backends.Job{ID: "7", Key: key, State: backends.StatePending, Held: true}
	running := backends.Job{ID: "7", Key: key, State: backends.StateRunning}
	pending := backends.Job{ID: "7", Key: key, State: backends.StatePending}
	ended := backends.Job{ID: "7", Key: key, State: backends.StateCompleted}
	staged := &manifest.CollectedGang{}
	ranks := map[string]int{"x": 0, "y": 1}
	yDone := &manifest.CollectedGang{Pods: map[int]manifest.Status{1: {UID: "y", Phase: manifest.PhaseSucceeded}}}

	both := []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7"), deleting), pod("y", 2, 1, intent(key), job("7"), deleting)}
	tests := map[string]struct {
		pods []lifecycle.Pod
		know lifecycle.Knowledge
		want string // actions, joined by "; "; "observe" when it asks to look
		why  string // Step.Reason
	}{
		"a member is missing": {
			pods: []lifecycle.Pod{pod("x", 2, 0)},
			why:  "WaitingForMembers",
		},
		"what it comes after is broken: never submitted, whoever is there": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key))},
			know: lifecycle.Knowledge{After: []lifecycle.Predecessor{{State: lifecycle.Submitted}, {State: lifecycle.Broken}}},
		},
		"what it comes after is open: wait with the intent": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key))},
			know: lifecycle.Knowledge{NeverSubmitted: true, After: []lifecycle.Predecessor{{State: lifecycle.Open}, {State: lifecycle.Succeeded}}},
			why:  "WaitingForPredecessor",
		},
		"what it comes after goes on: submit": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key))},
			know: lifecycle.Knowledge{NeverSubmitted: true, After: []lifecycle.Predecessor{{State: lifecycle.Submitted, JobID: "6"}}},
			want: "stage; submit", why: "Submitting",
		},
		"held, what it comes after goes on: release": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{held}, After: []lifecycle.Predecessor{{State: lifecycle.Submitted, JobID: "6"}}},
			want: "release job=7",
		},
		"held, what it comes after went on before our submission: look again": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"))},
			know: lifecycle.Knowledge{Jobs: []backends.Job{held}, After: []lifecycle.Predecessor{{State: lifecycle.Submitted, JobID: "6"}}},
			want: "observe",
		},
		"held, what it comes after has succeeded: release": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"))},
			know: lifecycle.Knowledge{Jobs: []backends.Job{held}, After: []lifecycle.Predecessor{{State: lifecycle.Succeeded}}},
			want: "release job=7",
		},
		"held, what it comes after has ended and its pods do not tell yet: wait": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{held}, After: []lifecycle.Predecessor{{State: lifecycle.Open}}},
		},
		"held, what it comes after is broken: cancel": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{held}, After: []lifecycle.Predecessor{{State: lifecycle.Broken}}},
			want: "cancel job=7",
		},
		"released, what it comes after is gone: the batch system keeps count": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{pending}, After: []lifecycle.Predecessor{{State: lifecycle.Broken}}},
		},
		"released, and it can never start: cancel": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, After: []lifecycle.Predecessor{{State: lifecycle.Open}},
				Jobs: []backends.Job{{ID: "7", Key: key, State: backends.StatePending, Never: true, Reason: "DependencyNeverSatisfied"}}},
			want: "cancel job=7",
		},
		"all members are there": {
			pods: []lifecycle.Pod{pod("x", 2, 0), pod("y", 2, 1)},
			want: "write-intent ns/pod-x ns/pod-y",
		},
		"crash between two intents": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key)), pod("y", 2, 1)},
			want: "write-intent ns/pod-y",
		},
		"intent from an earlier life: look first": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key)), pod("y", 2, 1, intent(key))},
			want: "observe", why: "Submitting",
		},
		"own fresh intent needs no look": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key)), pod("y", 2, 1, intent(key))},
			know: lifecycle.Knowledge{NeverSubmitted: true},
			want: "stage; submit", why: "Submitting",
		},
		"images come before the job": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key)), pod("y", 2, 1, intent(key))},
			know: lifecycle.Knowledge{NeverSubmitted: true, PullFirst: true},
			want: "stage; pull; submit", why: "Submitting",
		},
		"a job that is there needs no images any more": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key)), pod("y", 2, 1, intent(key))},
			know: lifecycle.Knowledge{Complete: true, PullFirst: true, Files: staged, Jobs: []backends.Job{held}},
			want: "record ns/pod-x ns/pod-y job=7",
		},
		"nothing found": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key)), pod("y", 2, 1, intent(key))},
			know: lifecycle.Knowledge{Complete: true, Files: staged},
			want: "submit", why: "Submitting",
		},
		"unreachable before submit": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key)), pod("y", 2, 1, intent(key))},
			know: lifecycle.Knowledge{Unreachable: true},
			why:  "BatchSystemUnreachable",
		},
		"a held job is adopted": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key)), pod("y", 2, 1, intent(key))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{held}},
			want: "record ns/pod-x ns/pod-y job=7",
		},
		"an ended unrecorded job never ran": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key)), pod("y", 2, 1, intent(key))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{ended}, Files: staged},
			want: "submit", why: "Submitting",
		},
		"crash between two records": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7")), pod("y", 2, 1, intent(key))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{held}},
			want: "record ns/pod-y job=7",
		},
		"recorded by all and held": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7")), pod("y", 2, 1, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{held}},
			want: "release job=7",
		},
		"held by the administrator stays held": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7")), pod("y", 2, 1, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{func() backends.Job { j := held; j.Reason = "JobHeldAdmin"; return j }()}},
		},
		"requeued and held in the user's name stays held": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7")), pod("y", 2, 1, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{func() backends.Job { j := held; j.Reason, j.Restarts = "JobHeldUser", 1; return j }()}},
		},
		"a second held job is cancelled": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7")), pod("y", 2, 1, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{held, {ID: "8", Key: key, State: backends.StatePending, Held: true}}},
			want: "cancel job=8; release job=7",
		},
		"running": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7")), pod("y", 2, 1, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}},
		},
		"all deleted while running": {
			pods: both,
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}},
			want: "stop ns/pod-x ns/pod-y",
		},
		"all deleted while pending": {
			pods: both, know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{pending}}, want: "cancel job=7",
		},
		"all deleted while held": {
			pods: both, know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{held}}, want: "cancel job=7",
		},
		"all deleted while suspended": {
			pods: both, know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{{ID: "7", State: backends.StateSuspended}}}, want: "cancel job=7",
		},
		"all are told: their grace passes": {
			pods: both,
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Stops: map[string]lifecycle.Stop{
				"x": told(ago(grace), grace), "y": told(ago(grace+lifecycle.StopMargin-time.Second), grace)}},
		},
		"the longest grace is over": {
			pods: both,
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Stops: map[string]lifecycle.Stop{
				"x": told(ago(time.Hour), time.Second), "y": told(ago(grace+lifecycle.StopMargin), grace)}},
			want: "cancel job=7",
		},
		"one is told": {
			pods: both,
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Stops: map[string]lifecycle.Stop{"x": told(ago(time.Hour), grace)}},
			want: "stop ns/pod-y",
		},
		"one is told, the other has ended": {
			pods: both,
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Ranks: ranks, Files: yDone, Stops: map[string]lifecycle.Stop{"x": told(now, grace)}},
		},
		"a second deletion has less patience": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), deleting)},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Stops: map[string]lifecycle.Stop{"x": told(now, grace+time.Second)}},
			want: "stop ns/pod-x",
		},
		"the order cannot be given: it is tried for as long as the grace": {
			pods: both,
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Stops: map[string]lifecycle.Stop{"x": {Asked: ago(grace)}, "y": {Asked: ago(grace)}}},
			want: "stop ns/pod-x ns/pod-y",
		},
		"the order could not be given": {
			pods: both,
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Stops: map[string]lifecycle.Stop{"x": told(now, grace), "y": {Asked: ago(grace + lifecycle.StopMargin)}}},
			want: "cancel job=7",
		},
		"the shorter order could not be given": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), deleting)},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Stops: map[string]lifecycle.Stop{"x": told(ago(time.Hour+lifecycle.StopMargin), time.Hour)}},
			want: "cancel job=7",
		},
		"the order was refused": {
			pods: both,
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Stops: map[string]lifecycle.Stop{"x": {Asked: now, Refused: true}, "y": told(now, grace)}},
			want: "cancel job=7",
		},
		"told, then requeued": {
			pods: both,
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{pending}, Stops: map[string]lifecycle.Stop{"x": told(now, grace), "y": told(now, grace)}},
			want: "cancel job=7",
		},
		"one deleted while running": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7")), pod("y", 2, 1, intent(key), job("7"), deleting)},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Ranks: ranks},
			want: "stop ns/pod-y",
		},
		"one deleted while pending, stop file in place": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7")), pod("y", 2, 1, intent(key), job("7"), deleting)},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{pending}, Ranks: ranks, Stops: map[string]lifecycle.Stop{"y": seen(told(ago(time.Hour), grace))}},
			want: "forget ns/pod-y",
		},
		"the last one that is wanted has ended": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7"), deleting), pod("y", 2, 1, intent(key), job("7"), finished)},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Ranks: ranks, Files: yDone},
			want: "forget ns/pod-y; stop ns/pod-x",
		},
		"a member ended by itself": {
			pods: []lifecycle.Pod{pod("x", 2, 0, intent(key), job("7")), pod("y", 2, 1, intent(key), job("7"), finished)},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}, Ranks: ranks, Files: yDone},
			want: "forget ns/pod-y",
		},
		"evicted by another: no evidence, so the job is ended": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), finished)},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{running}},
			want: "stop ns/pod-x",
		},
		"job ended, not yet reported": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"))},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{ended}},
		},
		"job ended and reported": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), finished)},
			know: lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{ended}},
			want: "forget ns/pod-x",
		},
		"purged, end file tells": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), finished)},
			know: lifecycle.Knowledge{Complete: true, Files: &manifest.CollectedGang{End: &manifest.End{}}},
			want: "forget ns/pod-x",
		},
		"absent is not ended": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), finished)},
			know: lifecycle.Knowledge{Complete: true, AbsentSince: now.Add(-lifecycle.LostGrace + time.Second)},
		},
		"lost after the grace": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), finished)},
			know: lifecycle.Knowledge{Complete: true, FilesRead: true, AbsentSince: now.Add(-lifecycle.LostGrace)},
			want: "forget ns/pod-x",
		},
		"not lost while the evidence cannot be read": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), finished)},
			know: lifecycle.Knowledge{Complete: true, AbsentSince: now.Add(-lifecycle.LostGrace)},
			why:  "EvidenceUnreadable",
		},
		"deleted while requeued: the file is of the run before": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), deleting)},
			know: lifecycle.Knowledge{
				Complete: true, Jobs: []backends.Job{{ID: "7", State: backends.StatePending, Restarts: 1}},
				Ranks: map[string]int{"x": 0},
				Files: &manifest.CollectedGang{Pods: map[int]manifest.Status{0: {UID: "x", Phase: manifest.PhaseFailed}}},
			},
			want: "cancel job=7",
		},
		"finished, then requeued: the job must not run again for it": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), finished)},
			know: lifecycle.Knowledge{
				Complete: true, Jobs: []backends.Job{{ID: "7", State: backends.StatePending, Restarts: 1}},
				Ranks: map[string]int{"x": 0},
				Files: &manifest.CollectedGang{Pods: map[int]manifest.Status{0: {UID: "x", Phase: manifest.PhaseFailed}}},
			},
			want: "cancel job=7",
		},
		"deleted before anything was submitted": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), deleting)},
			want: "forget ns/pod-x",
		},
		"outage while all are deleted: wait": {
			pods: []lifecycle.Pod{pod("x", 1, 0, intent(key), job("7"), deleting)},
			know: lifecycle.Knowledge{Unreachable: true, Jobs: []backends.Job{running}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			g := lifecycle.Gang{Key: key, Attempt: "a", Members: tc.pods, Size: tc.pods[0].Size}
			for _, p := range tc.pods {
				if g.JobID == "" {
					g.JobID = p.JobID
				}
			}
			step := lifecycle.Next(g, tc.know, now)
			got := ""
			for i, a := range step.Actions {
				if i > 0 {
					got += "; "
				}
				got += a.String()
			}
			if step.Observe {
				got = "observe"
			}
			if got != tc.want || step.Reason != tc.why {
				t.Errorf("actions %q reason %q, want %q reason %q", got, step.Reason, tc.want, tc.why)
			}
		})
	}
}

func TestGangs(t *testing.T) {
	a, b, c := pod("x", 2, 0), pod("y", 2, 1), pod("z", 2, 1)
	one := lifecycle.Gangs("o", []lifecycle.Pod{a, b})
	two := lifecycle.Gangs("o", []lifecycle.Pod{b, a})
	if len(one) != 1 || one[0].Key != two[0].Key || one[0].Members[0].UID != "x" || one[0].Size != 2 {
		t.Fatalf("the order of the input matters: %+v and %+v", one, two)
	}
	replaced := lifecycle.Gangs("o", []lifecycle.Pod{a, c})
	if replaced[0].Key == one[0].Key {
		t.Error("a replaced member must change the key")
	}
	if other := lifecycle.Gangs("other", []lifecycle.Pod{a, b}); other[0].Key == one[0].Key {
		t.Error("two clusters must never share a key")
	}
	for i := range 2 {
		p := []lifecycle.Pod{a, b}[i]
		p.Intent, p.JobID, p.Finalizer = one[0].Key, "7", true
		if i == 0 {
			a = p
		} else {
			b = p
		}
	}
	late := lifecycle.Gangs("o", []lifecycle.Pod{a, b, c})
	if len(late) != 2 {
		t.Fatalf("a late member must be a gang of its own: %+v", late)
	}
	for _, g := range late {
		if g.JobID == "" && (len(g.Members) != 1 || g.Size != 1 || g.Members[0].UID != "z") {
			t.Errorf("late gang is %+v", g)
		}
		if g.JobID == "7" && len(g.Members) != 2 {
			t.Errorf("recorded gang is %+v", g)
		}
	}
	if k := string(one[0].Key); len(k) != 13 || k[0] != 'i' {
		t.Errorf("key %q is not a valid job name for every batch system", k)
	}
}
