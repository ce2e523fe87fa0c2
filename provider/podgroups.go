package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
)

const (
	// groupFresh is how long what a PodGroup said is taken for true: its minimum
	// may change while its members wait.
	groupFresh = 5 * time.Second
	// groupDeadline bounds one look at a PodGroup: a pass waits for it.
	groupDeadline = 3 * time.Second
)

// ErrNoPodGroups says that the API server knows no PodGroups at all.
var ErrNoPodGroups = errors.New("the API server has no PodGroups")

// groupRef names a PodGroup.
type groupRef struct{ namespace, name string }

func (g groupRef) String() string { return g.namespace + "/" + g.name }

// podGroup is what is known of one.
type podGroup struct {
	min    int32  // members that make a gang; 1 and less: every pod is alone
	untold string // why the minimum is not known, "" when it is
	at     time.Time
}

// groupOf is the PodGroup of a pod that a scheduler bound without a gang attempt.
func groupOf(pod *corev1.Pod) (groupRef, bool) {
	ref := groupRef{pod.Namespace, pod.Annotations[wellknown.PodGroupName]}
	return ref, ref.name != ""
}

// readGroups looks at the PodGroups that decide about pods which have no job yet.
// Those of pods with one are not read: what is recorded stands.
func (b *Bridge) readGroups(ctx context.Context, pods []*corev1.Pod) {
	now := b.Clock.Now()
	b.mu.Lock()
	wanted := map[groupRef]podGroup{}
	for _, p := range pods {
		f := facts(p)
		if ref, ok := groupOf(p); ok && f.Attempt == "" && f.JobID == "" && !f.Finished && !f.Deleting {
			wanted[ref] = b.groups[ref]
		}
	}
	b.mu.Unlock()
	read := map[groupRef]podGroup{}
	var mu sync.Mutex // of read
	var group sync.WaitGroup
	free := make(chan struct{}, apiParallel)
	for ref, have := range wanted {
		if age := now.Sub(have.at); !have.at.IsZero() && age >= 0 && age < groupFresh {
			continue
		}
		group.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			got := b.readGroup(ctx, ref)
			got.at = now
			mu.Lock()
			defer mu.Unlock()
			read[ref] = got
		})
	}
	group.Wait()
	maps.Copy(wanted, read)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.groups = wanted
}

func (b *Bridge) readGroup(ctx context.Context, ref groupRef) podGroup {
	ctx, cancel := context.WithTimeout(ctx, groupDeadline)
	defer cancel()
	least, err := b.Objects.PodGroup(ctx, ref.namespace, ref.name)
	switch {
	case errors.Is(err, ErrNoPodGroups):
		return podGroup{min: 1}
	case apierrors.IsNotFound(err):
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
		if open && known && g.untold == "" && g.min <= 1 {
			continue // alone
		}
		p.Group = ref.String()
		p.Attempt = ref.namespace + "/" + node + "/podgroup/" + ref.name
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

// PodGroup reads the minimum of a PodGroup of Volcano's kind.
func (k *kubeObjects) PodGroup(ctx context.Context, namespace, name string) (int32, error) {
	raw, err := k.client.CoreV1().RESTClient().Get().AbsPath("/apis/scheduling.volcano.sh/v1beta1").
		Namespace(namespace).Resource("podgroups").Name(name).DoRaw(ctx)
	if err != nil {
		// The path itself is unknown, rather than the object.
		if _, unknown := apierrors.StatusCause(err, metav1.CauseTypeUnexpectedServerResponse); unknown && apierrors.IsNotFound(err) {
			return 0, ErrNoPodGroups
		}
		return 0, err
	}
	var group struct {
		Spec struct {
			MinMember int32 `json:"minMember"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(raw, &group); err != nil {
		return 0, fmt.Errorf("read PodGroup %s/%s: %w", namespace, name, err)
	}
	return group.Spec.MinMember, nil
}
