package provider_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider"
)

// act is what a daemon does to a pod's register: it records a job on it, releases
// the job, and writes its end.
type act struct {
	pod  types.UID
	what string // "record", "release" or "end"
	id   backends.JobID
}

// register is what a pod has become.
type register struct {
	stage int // 0 unrecorded, 1 recorded, 2 released, 3 ended
	id    backends.JobID
}

// registers is the model of the protocol: a pod's job is recorded once and for all,
// only that is released, and only what was released ends. Whatever daemons do at
// once must be as if they had done it one after the other in some order.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		at := map[types.UID]int{}
		for _, op := range history {
			pod := op.Input.(act).pod
			if _, ok := at[pod]; !ok {
				at[pod], parts = len(parts), append(parts, nil)
			}
			parts[at[pod]] = append(parts[at[pod]], op)
		}
		return parts
	},
	Init: func() any { return register{} },
	Step: func(state, input, output any) (bool, any) {
		r, a := state.(register), input.(act)
		if !output.(bool) {
			return true, r // it did nothing
		}
		switch {
		case a.what == "record" && r.stage == 0:
			return true, register{stage: 1, id: a.id}
		case a.what == "end":
			return r.stage >= 2, register{stage: 3, id: r.id}
		case r.stage == 0 || a.id != r.id:
			return false, r
		case a.what == "release":
			return true, register{stage: max(2, r.stage), id: r.id}
		}
		return true, r // recorded again
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %t", input, output) },
}

// tape is what several daemons do, in the order of one clock.
type tape struct {
	mu      sync.Mutex
	clock   int64
	ops     []porcupine.Operation
	members map[backends.Key]map[types.UID]bool
}

func newTape() *tape { return &tape{members: map[backends.Key]map[types.UID]bool{}} }

// now is a moment before which all that has a smaller one has happened.
func (t *tape) now() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clock++
	return t.clock
}

func (t *tape) add(client int, call int64, a act, did bool) {
	end := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ops = append(t.ops, porcupine.Operation{ClientId: client, Input: a, Call: call, Output: did, Return: end})
}

// check tells whether the history is one that the protocol allows.
func (t *tape) check() porcupine.CheckResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	return porcupine.CheckOperationsTimeout(registers, t.ops, time.Minute)
}

// tapedPods and tapedJobs are the two sides that a daemon acts on.
type tapedPods struct {
	provider.PodAPI
	*tape
	client int
}

type tapedJobs struct {
	backends.Backend
	*tape
	client int
}

// WriteIntent implements provider.PodAPI.
func (p tapedPods) WriteIntent(ctx context.Context, pod *corev1.Pod, key backends.Key) (*corev1.Pod, error) {
	p.mu.Lock()
	if p.members[key] == nil {
		p.members[key] = map[types.UID]bool{}
	}
	p.members[key][pod.UID] = true
	p.mu.Unlock()
	return p.PodAPI.WriteIntent(ctx, pod, key)
}

// Record implements provider.PodAPI.
func (p tapedPods) Record(ctx context.Context, pod *corev1.Pod, id backends.JobID, user string) (*corev1.Pod, error) {
	call := p.now()
	out, err := p.PodAPI.Record(ctx, pod, id, user)
	p.add(p.client, call, act{pod.UID, "record", id}, err == nil)
	return out, err
}

// PatchStatus implements provider.PodAPI.
func (p tapedPods) PatchStatus(ctx context.Context, pod *corev1.Pod, patch []byte) (*corev1.Pod, error) {
	call := p.now()
	out, err := p.PodAPI.PatchStatus(ctx, pod, patch)
	if err == nil && (out.Status.Phase == corev1.PodSucceeded || out.Status.Phase == corev1.PodFailed) {
		p.add(p.client, call, act{pod: pod.UID, what: "end"}, true)
	}
	return out, err
}

// Release implements backends.Backend.
func (j tapedJobs) Release(ctx context.Context, ref backends.JobRef) error {
	call := j.now()
	err := j.Backend.Release(ctx, ref)
	j.mu.Lock()
	var pods []types.UID
	for pod := range j.members[ref.Key] {
		pods = append(pods, pod)
	}
	j.mu.Unlock()
	for _, pod := range pods {
		j.add(j.client, call, act{pod, "release", ref.ID}, err == nil)
	}
	return err
}

// taped is a daemon of a world whose acts are on a tape.
func (w *world) taped(t *tape, client int, pods provider.PodAPI, objects provider.Objects) *provider.Bridge {
	return newBridge(tapedJobs{w.system, t, client}, w.stager, tapedPods{pods, t, client}, objects, w.clock, "node-main")
}

// The checker tells right histories from wrong ones.
func TestHistoriesAreJudged(t *testing.T) {
	type step struct {
		client    int
		call, end int64
		a         act
		did       bool
	}
	record := func(id backends.JobID) act { return act{"p", "record", id} }
	release := func(id backends.JobID) act { return act{"p", "release", id} }
	end := act{pod: "p", what: "end"}
	for name, c := range map[string]struct {
		steps []step
		right bool
	}{
		"one daemon":         {[]step{{0, 1, 2, record("1"), true}, {0, 3, 4, release("1"), true}, {0, 5, 6, end, true}}, true},
		"the second loses":   {[]step{{0, 1, 4, record("1"), true}, {1, 2, 3, record("2"), false}, {0, 5, 6, release("1"), true}}, true},
		"at once, in order":  {[]step{{1, 1, 9, release("1"), true}, {0, 2, 3, record("1"), true}}, true},
		"both record":        {[]step{{0, 1, 4, record("1"), true}, {1, 2, 3, record("2"), true}}, false},
		"released first":     {[]step{{0, 1, 2, release("1"), true}, {0, 3, 4, record("1"), true}}, false},
		"another released":   {[]step{{0, 1, 2, record("1"), true}, {1, 3, 4, release("2"), true}}, false},
		"ended, not run":     {[]step{{0, 1, 2, record("1"), true}, {0, 3, 4, end, true}}, false},
		"recorded after all": {[]step{{0, 1, 2, record("1"), true}, {0, 3, 4, release("1"), true}, {0, 5, 6, end, true}, {1, 7, 8, record("2"), true}}, false},
	} {
		tp := newTape()
		for _, s := range c.steps {
			tp.ops = append(tp.ops, porcupine.Operation{ClientId: s.client, Input: s.a, Call: s.call, Output: s.did, Return: s.end})
		}
		if got := tp.check(); (got == porcupine.Ok) != c.right {
			t.Errorf("%s: %s, want right %t", name, got, c.right)
		}
	}
}
