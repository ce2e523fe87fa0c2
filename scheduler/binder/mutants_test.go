package binder_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// forgets is a cache that does not take in what lost says.
type forgets struct {
	feed
	lost func(kind int, o metav1.Object, gone bool) bool
}

func (f forgets) set(kind int, o metav1.Object) {
	if !f.lost(kind, o, false) {
		f.feed.set(kind, o)
	}
}

func (f forgets) del(kind int, o metav1.Object) {
	if !f.lost(kind, o, true) {
		f.feed.del(kind, o)
	}
}

// TestForgetfulCachesAreFound plays histories with caches that forget one kind of
// update each: it is noticed within a few seeds, and what is shown is a shorter
// history that still fails, and does not with the cache as it is.
func TestForgetfulCachesAreFound(t *testing.T) {
	for name, lost := range map[string]func(kind int, o metav1.Object, gone bool) bool{
		"the end of a pod": func(kind int, o metav1.Object, gone bool) bool {
			p, ok := o.(*corev1.Pod)
			return ok && !gone && p.Status.Phase == corev1.PodSucceeded
		},
		"the deletion of a pod": func(kind int, _ metav1.Object, gone bool) bool { return kind == pods && gone },
		"the start of a pod": func(_ int, o metav1.Object, gone bool) bool {
			p, ok := o.(*corev1.Pod)
			return ok && !gone && p.Status.Phase == corev1.PodRunning
		},
		"the cordon of a node": func(_ int, o metav1.Object, gone bool) bool {
			n, ok := o.(*corev1.Node)
			return ok && !gone && n.Spec.Unschedulable
		},
		"the loss of a node": func(kind int, _ metav1.Object, gone bool) bool { return kind == nodes && gone },
		"the weight of a queue": func(_ int, o metav1.Object, gone bool) bool {
			q, ok := o.(*volcanov1.Queue)
			return ok && !gone && q.Spec.Weight == 3
		},
		"the deletion of a PodGroup": func(kind int, _ metav1.Object, gone bool) bool { return kind == groups && gone },
	} {
		t.Run(name, func(t *testing.T) {
			found(t, "R7", schedtest.Pipeline(), func(f feed) feed { return forgets{f, lost} })
		})
	}
}

// spoils is an action that does something wrong.
type spoils func(*framework.Session)

// Name and Run implement framework.Action.
func (spoils) Name() string { return "spoils" }

// Run spoils the plan.
func (f spoils) Run(s *framework.Session) { f(s) }

// TestInvariantsCanFail plays them with schedulers that decide wrongly.
func TestInvariantsCanFail(t *testing.T) {
	for name, spoil := range map[string]func(*framework.Session){
		"gangs are partial": func(s *framework.Session) {
			for i, p := range s.Plan.Placements {
				s.Plan.Placements[i].Binds = slices.DeleteFunc(p.Binds, func(b plan.Bind) bool { return strings.HasSuffix(b.Name, "-1") })
			}
		},
		"R8: no rest": func(s *framework.Session) {
			for _, g := range s.Snapshot.Gangs {
				for _, p := range g.Pods {
					if p.Phase == snapshot.PodRunning && len(s.Plan.Releases) == 0 {
						s.Plan.Releases = []plan.Eviction{{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Gang: g.Key, Node: p.Node}}
					}
				}
			}
		},
		"R9: gang g1 waits": func(s *framework.Session) {
			s.Plan.Placements = slices.DeleteFunc(s.Plan.Placements, func(p plan.Placement) bool { return p.Name == "g1" })
		},
		"R8: pods were sent away": func(s *framework.Session) { // and the room is not taken
			s.Plan.Placements = slices.DeleteFunc(s.Plan.Placements, func(p plan.Placement) bool {
				return slices.ContainsFunc(s.Snapshot.Gangs, func(g *snapshot.Gang) bool {
					return g.Key == p.Gang && g.Nominated != nil && g.Nominated.Evicted > 0
				})
			})
		},
		"GPUs, and": func(s *framework.Session) {
			for i := range s.Plan.Placements {
				for k := range s.Plan.Placements[i].Binds {
					s.Plan.Placements[i].Binds[k].Node = s.Snapshot.Nodes[0].Name
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			pipe := schedtest.Pipeline()
			pipe.Actions = append(slices.Clone(pipe.Actions), spoils(spoil))
			found(t, name, pipe, nil)
		})
	}
}

// found looks for a history in which what is wrong with a scheduler is noticed.
func found(t *testing.T, says string, pipe framework.Pipeline, spoil func(feed) feed) {
	t.Helper()
	said := map[string]bool{}
	for seed := range 60 {
		script, _ := draw(seed)
		again := func(s []op) error { return play(newWorld(pipe, spoil), s) }
		err := again(script)
		if err == nil || !strings.Contains(err.Error(), says) {
			said[fmt.Sprint(err)] = true
			continue
		}
		same := func(s []op) error { // another rule broken by fewer lines would show nothing of this one
			if err := again(s); err != nil && strings.Contains(err.Error(), says) {
				return err
			}
			return nil
		}
		short, err := shrink(script, err, same)
		if len(short) >= len(script) || same(short) == nil {
			t.Errorf("seed %d: %v\nis shown by %d of %d lines:\n%s", seed, err, len(short), len(script), lines(short))
		}
		if err := play(newWorld(schedtest.Pipeline(), nil), short); err != nil {
			t.Errorf("seed %d: the history fails without what is wrong: %v", seed, err)
		}
		t.Logf("seed %d, %d lines of %d: %.200v", seed, len(short), len(script), err)
		return
	}
	t.Errorf("nobody noticed in 60 histories; they said %.2000v", said)
}
