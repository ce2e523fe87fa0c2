package provider_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// Pods are deleted while their job is being submitted, or after that and before it is
// on record, so that no pod bears its key any more or those that do have another one
// soon; and at each of these moments the daemon may die, or hear nothing of what it
// did. The job is found all the same and cancelled: nothing runs that nobody owns,
// nothing is left in the queue, and what is left of the gang runs once with who comes
// in place of the others.
func TestDeletedBeforeTheRecord(t *testing.T) {
	points := 0
	t.Run("faults", func(t *testing.T) { // ends when its parallel lives have
		for _, foreign := range []bool{false, true} {
			for _, gone := range []int{1, 2, 3} {
				for _, during := range []string{"submit", "record"} {
					for _, target := range []string{"stage", "submit", "record", "forget"} {
						for _, m := range append([]providertest.Fault{providertest.NoFault}, providertest.Faults()...) {
							points++
							name := fmt.Sprintf("foreign=%v/%d during %s/%s %s", foreign, gone, during, target, m)
							t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
								t.Parallel()
								deletedBeforeTheRecord(t, providertest.Faulty(m, target, 1), foreign, gone, during)
							})
						}
					}
				}
			}
		}
	})
	if !t.Failed() {
		t.Logf("%d points at which pods are deleted: 0 jobs left, 0 double runs, 0 pods lost", points)
	}
}

func deletedBeforeTheRecord(t *testing.T, gate *providertest.Gate, foreign bool, gone int, during string) {
	const size = 3
	w := newWorld(t, 20*time.Second, gate)
	groups := newGroups()
	groups.set("ring", size)
	w.objects = groups
	w.boot()
	create := func(pods []*corev1.Pod) (uids []types.UID) {
		if foreign {
			return w.bound(pods, "ring", "node-main")
		}
		for _, p := range pods {
			w.api.Create(p)
			uids = append(uids, p.UID)
		}
		return uids
	}
	uids := create(w.pods("ring", size))
	var once sync.Once
	deleted := false
	gate.Meanwhile = func(effect string) {
		if effect == during {
			once.Do(func() {
				for _, uid := range uids[:gone] {
					w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
				}
				deleted = true
			})
		}
	}
	for range 4 {
		w.obey()
		w.tick()
	}
	if !deleted {
		t.Fatalf("nothing was deleted during %s", during)
	}
	kept := uids[gone:]
	if gone < size {
		var others []*corev1.Pod
		for _, p := range w.pods("ring", size)[:gone] {
			p.UID, p.Name = "other-"+p.UID, "other-"+p.Name
			others = append(others, p)
		}
		kept = append(kept, create(others)...)
	}
	for range 40 { // a held job without an owner is cancelled after a minute
		w.obey()
		w.tick()
	}
	for _, uid := range uids[:gone] {
		if p := w.api.Get(uid); p != nil {
			t.Errorf("pod %s was deleted and is still there: %v %v", uid, p.Finalizers, p.Annotations)
		}
	}
	for _, uid := range kept {
		if p := w.api.Get(uid); p == nil || p.Status.Phase != corev1.PodSucceeded {
			t.Errorf("pod %s did not run: %+v", uid, p)
		}
	}
	if w.liveJobs() {
		t.Errorf("jobs are left: %+v", w.system.Jobs())
	}
}
