package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/queuetree"
)

// queue judges a queue beside the others.
func (v *Validator) queue(ctx context.Context, q *scheduling.Queue, deleted bool) ([]string, error) {
	var list scheduling.QueueList
	if err := v.Live.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	others := map[string]*scheduling.Queue{}
	for i := range list.Items {
		if list.Items[i].Name != q.Name {
			others[list.Items[i].Name] = &list.Items[i]
		}
	}
	if deleted {
		return deletion(q, others), nil
	}
	return texts(family(q, others)), nil
}

// deletion says why a queue cannot go.
func deletion(q *scheduling.Queue, others map[string]*scheduling.Queue) []string {
	beneath := names(childrenOf(q.Name, others))
	switch {
	case q.Name == queuetree.Root || q.Name == scheduling.DefaultQueue:
		return []string{fmt.Sprintf("metadata.name: Forbidden: queue %s is in every cluster and stays: change or close it instead", q.Name)}
	case len(beneath) > 0:
		return []string{fmt.Sprintf("metadata.name: Forbidden: queue %s has queues beneath it (%s): delete those first", q.Name, strings.Join(beneath, ", "))}
	}
	return nil
}

func childrenOf(name string, others map[string]*scheduling.Queue) []*scheduling.Queue {
	var out []*scheduling.Queue
	for _, q := range others {
		if queuetree.Parent(q) == name {
			out = append(out, q)
		}
	}
	return out
}

func names(queues []*scheduling.Queue) []string {
	var out []string
	for _, q := range queues {
		out = append(out, q.Name)
	}
	slices.Sort(out)
	return out
}

// family judges a queue beside its parent, its siblings and those beneath it.
func family(q *scheduling.Queue, others map[string]*scheduling.Queue) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "parent")
	if name := queuetree.Parent(q); name != "" && name != queuetree.Root {
		parent := others[name]
		switch {
		case name == q.Name:
			errs = append(errs, field.Invalid(path, name, "must not be the queue itself: name another, or leave it out for root"))
		case parent == nil:
			errs = append(errs, field.NotFound(path, name))
		case beneath(q.Name, parent, others):
			errs = append(errs, field.Invalid(path, name, "must not be beneath the queue itself: name another"))
		case len(childrenOf(name, others)) == 0 && holds(parent):
			errs = append(errs, field.Invalid(path, name, fmt.Sprintf("must not hold pods of its own, and it has %d PodGroups: move those to another queue first, or name another parent", groups(parent))))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if parent := others[queuetree.Parent(q)]; parent != nil {
		siblings := slices.DeleteFunc(childrenOf(parent.Name, others), func(s *scheduling.Queue) bool { return s.Name == q.Name })
		errs = append(errs, shares(parent, append(siblings, q))...)
	}
	return append(errs, shares(q, childrenOf(q.Name, others))...)
}

// beneath says that queue q is somewhere beneath the queue of that name.
func beneath(name string, q *scheduling.Queue, others map[string]*scheduling.Queue) bool {
	for range len(others) {
		if q == nil {
			return false
		}
		parent := queuetree.Parent(q)
		if parent == name {
			return true
		}
		q = others[parent]
	}
	return false
}

func groups(q *scheduling.Queue) int32 {
	return q.Status.Inqueue + q.Status.Running + q.Status.Pending + q.Status.Unknown
}

func holds(q *scheduling.Queue) bool { return groups(q) > 0 }

// shares says where queues want more than their parent has. A parent that says
// nothing of a resource has no bound.
func shares(parent *scheduling.Queue, children []*scheduling.Queue) field.ErrorList {
	var errs field.ErrorList
	sum := func(path *field.Path, has corev1.ResourceList, of func(*scheduling.Queue) corev1.ResourceList) {
		for _, name := range slices.Sorted(maps.Keys(has)) {
			limit, total := has[name], resource.Quantity{}
			for _, c := range children {
				total.Add(of(c)[name])
			}
			if total.Cmp(limit) > 0 {
				errs = append(errs, field.Invalid(path.Key(string(name)), total.String(), fmt.Sprintf(
					"queues beneath %s (%s) must have at most %s of it together: lower one of them, or raise that of %s", parent.Name, strings.Join(names(children), ", "), limit.String(), parent.Name)))
			}
		}
	}
	guarantee := func(q *scheduling.Queue) corev1.ResourceList { return q.Spec.Guarantee.Resource }
	deserved := func(q *scheduling.Queue) corev1.ResourceList { return q.Spec.Deserved }
	spec := field.NewPath("spec")
	sum(spec.Child("guarantee", "resource"), guarantee(parent), guarantee)
	sum(spec.Child("deserved"), deserved(parent), deserved)
	for _, c := range children {
		for _, name := range slices.Sorted(maps.Keys(c.Spec.Capability)) {
			most, ok := parent.Spec.Capability[name]
			if own := c.Spec.Capability[name]; ok && own.Cmp(most) > 0 {
				errs = append(errs, field.Invalid(spec.Child("capability").Key(string(name)), own.String(), fmt.Sprintf(
					"queue %s beneath %s must have at most its capability (%s): lower it, or raise that of %s", c.Name, parent.Name, most.String(), parent.Name)))
			}
		}
	}
	return errs
}
