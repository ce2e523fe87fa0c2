package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
)

const (
	// groupFresh is how long what a PodGroup said is taken for true at first: its
	// minimum may change while its members wait. It doubles while nothing changes.
	groupFresh = 5 * time.Second
	groupStale = time.Minute
	// groupDeadline bounds one round of looks at PodGroups: a pass waits for it.
	groupDeadline = 3 * time.Second
	// A namespace's PodGroups are read with one list once more than listFrom of them
	// are due, and one in listShare of all that the list gave last: a get is one call,
	// but a list gives what nobody asked for as well.
	listFrom  = 16
	listShare = 50
)

// ErrNoPodGroups says that the API server knows no PodGroups at all.
var ErrNoPodGroups = errors.New("the API server has no PodGroups")

// ofPodGroup is in the attempt of a gang that a PodGroup makes.
const ofPodGroup = "/podgroup/"

// groupRef names a PodGroup.
type groupRef struct{ namespace, name string }

func (g groupRef) String() string { return g.namespace + "/" + g.name }

// podGroup is what is known of one.
type podGroup struct {
	ref    groupRef
	min    int32  // members that make a gang; 1 and less: every pod is alone
	untold string // why the minimum is not known, "" when it is
	at     time.Time
	fresh  time.Duration // how long it is taken for true
	pods   string        // that waited for it
}

// attemptOn names the gang that a PodGroup makes on a node.
func attemptOn(ref groupRef, node string) string {
	return ref.namespace + "/" + node + ofPodGroup + ref.name
}

// groupOf is the PodGroup of a pod that a scheduler bound without a gang attempt.
func groupOf(pod *corev1.Pod) (groupRef, bool) {
	ref := groupRef{pod.Namespace, pod.Annotations[wellknown.PodGroupName]}
	return ref, ref.name != ""
}

// readGroups looks at the PodGroups that decide about pods which have no job yet.
// Those of pods with one are not read: what is recorded stands. What a slow API
// server does not tell in time stays as it was and is asked for again.
func (b *Bridge) readGroups(ctx context.Context, pods []*corev1.Pod) {
	waiting := map[groupRef][]string{}
	for _, p := range pods {
		f := facts(p)
		if ref, ok := groupOf(p); ok && f.Attempt == "" && f.JobID == "" && !f.Finished && !f.Deleting {
			waiting[ref] = append(waiting[ref], f.UID)
		}
	}
	now := b.Clock.Now()
	known := map[groupRef]podGroup{}
	var due []podGroup
	b.mu.Lock()
	for ref, uids := range waiting {
		slices.Sort(uids)
		g, ok := b.groups[ref]
		if ok {
			known[ref] = g
		}
		g.ref = ref
		if all := strings.Join(uids, " "); g.pods != all {
			g.pods, g.fresh = all, 0
		}
		if age := now.Sub(g.at); !ok || age < 0 || age >= max(g.fresh, groupFresh) {
			due = append(due, g)
		}
	}
	b.mu.Unlock()
	// Those that were read longest ago first: none starves.
	slices.SortFunc(due, func(x, y podGroup) int {
		return cmp.Or(x.at.Compare(y.at), cmp.Compare(x.ref.String(), y.ref.String()))
	})
	round, cancel := context.WithTimeout(ctx, groupDeadline)
	defer cancel()
	listed := b.listGroups(round, due)
	var mu sync.Mutex // of known
	var group errgroup.Group
	group.SetLimit(apiParallel)
	for _, g := range due {
		group.Go(func() error {
			if round.Err() != nil {
				return nil
			}
			got := b.readGroup(round, g.ref, listed)
			if round.Err() != nil && !g.at.IsZero() {
				got.min, got.untold = g.min, g.untold
			}
			got.ref, got.pods, got.fresh, got.at = g.ref, g.pods, groupFresh, b.Clock.Now()
			if g.fresh > 0 && got.min == g.min && got.untold == g.untold {
				got.fresh = min(2*g.fresh, groupStale)
			}
			mu.Lock()
			defer mu.Unlock()
			known[g.ref] = got
			return nil
		})
	}
	_ = group.Wait() // none fails
	b.mu.Lock()
	defer b.mu.Unlock()
	b.groups = known
}

// listGroups gives the minima of all PodGroups of those namespaces of which many are
// due. A namespace that cannot be listed is left out.
func (b *Bridge) listGroups(ctx context.Context, due []podGroup) map[string]map[string]int32 {
	many := map[string]int{}
	for _, g := range due {
		many[g.ref.namespace]++
	}
	listed := map[string]map[string]int32{}
	for _, namespace := range slices.Sorted(maps.Keys(many)) {
		if many[namespace] <= listFrom+b.listSize[namespace]/listShare {
			continue
		}
		all, err := b.Objects.PodGroups(ctx, namespace)
		if err == nil {
			listed[namespace], b.listSize[namespace] = all, len(all)
			continue
		}
		// Too slow, or denied by the role of an older chart: until more are due they
		// are read one by one.
		b.listSize[namespace] = listShare * many[namespace]
		if !errors.Is(err, ErrNoPodGroups) {
			b.Log.Info("could not list PodGroups", "namespace", namespace, "error", err.Error())
		}
	}
	return listed
}

func (b *Bridge) readGroup(ctx context.Context, ref groupRef, listed map[string]map[string]int32) podGroup {
	var least int32
	var err error
	all, whole := listed[ref.namespace]
	there := !whole
	if whole {
		least, there = all[ref.name]
	} else {
		least, err = b.Objects.PodGroup(ctx, ref.namespace, ref.name)
	}
	switch {
	case errors.Is(err, ErrNoPodGroups):
		return podGroup{min: 1}
	case apierrors.IsNotFound(err), !there:
		return podGroup{untold: fmt.Sprintf("PodGroup %s does not exist: create it, or create the pod anew without annotation %s", ref, wellknown.PodGroupName)}
	case err != nil:
		return podGroup{untold: fmt.Sprintf("PodGroup %s cannot be read: %v", ref, err)}
	}
	return podGroup{min: least}
}

// grouped makes members of a gang of pods that a scheduler bound without saying so,
// as their PodGroups have it. The lock must be held.
func (b *Bridge) grouped(list []lifecycle.Pod, pods []*corev1.Pod) {
	on := map[groupRef]map[string]int{} // live members by node
	for i := range list {
		ref, ok := groupOf(pods[i])
		if !ok || list[i].Attempt != "" || list[i].Deleting || list[i].Finished {
			continue
		}
		if on[ref] == nil {
			on[ref] = map[string]int{}
		}
		on[ref][pods[i].Spec.NodeName]++
	}
	for i := range list {
		ref, ok := groupOf(pods[i])
		if !ok || list[i].Attempt != "" {
			continue
		}
		p, node := &list[i], pods[i].Spec.NodeName
		g, known := b.groups[ref]
		open := p.JobID == "" && !p.Finished && !p.Deleting
		// One that a daemon has claimed with others stays with them, whatever the
		// PodGroup says by now.
		if open && known && g.untold == "" && g.min <= 1 && (p.Intent == "" || p.Intent == lifecycle.KeyAlone(b.Owner, p.UID)) {
			continue // alone
		}
		p.Group = ref.String()
		p.Attempt = attemptOn(ref, node)
		if !open {
			continue
		}
		p.Size, p.Untold = max(1, int(g.min)), g.untold
		if !known {
			p.Untold = fmt.Sprintf("PodGroup %s was not read yet", ref)
		}
		for other, n := range on[ref] {
			if other != node {
				p.Elsewhere += n
			}
		}
	}
}
