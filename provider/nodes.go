package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/virtual-kubelet/virtual-kubelet/node"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

const (
	leaseSeconds = 40
	// statusInterval is how often the node is written, and made again when an
	// administrator deleted it: well before Kubernetes collects the pods of a
	// node that does not exist, 40 s after.
	statusInterval = 15 * time.Second
)

// nodeSet keeps node objects registered: one virtual-kubelet node controller
// each for the lease and the status, and our own patch for what that writes
// only at creation (taints) or not at all.
type nodeSet struct {
	client kubernetes.Interface
	log    logr.Logger

	mu    sync.Mutex
	nodes map[string]*registered
	group sync.WaitGroup
}

// registered is one node under the care of a node controller. It is that
// controller's node.NodeProvider.
type registered struct {
	set  *nodeSet
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	latest *corev1.Node
	notify func(*corev1.Node)
	fresh  chan struct{} // at most one request to hand latest over
}

// Ping always succeeds: a silent batch system is a condition of the node, not
// the death of it. A failing ping would stop the lease and evict every pod.
func (r *registered) Ping(context.Context) error { return nil }

// NotifyNodeStatus keeps the callback and returns.
func (r *registered) NotifyNodeStatus(_ context.Context, cb func(*corev1.Node)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notify = cb
}

func newNodeSet(client kubernetes.Interface, log logr.Logger) *nodeSet {
	return &nodeSet{client: client, log: log, nodes: map[string]*registered{}}
}

// Apply makes the registered nodes those desired, and brings each up to date.
// A node that is no longer desired keeps its object, so that its pods are not
// garbage collected, but stops being renewed. ok is false when something could
// not be written: apply again.
func (s *nodeSet) Apply(ctx context.Context, desired []*corev1.Node) (ok bool) {
	s.mu.Lock()
	want := map[string]bool{}
	for _, n := range desired {
		want[n.Name] = true
		r := s.nodes[n.Name]
		if r == nil {
			r = s.register(ctx, n)
			s.nodes[n.Name] = r
		}
		r.update(n)
	}
	for name, r := range s.nodes {
		if !want[name] {
			r.stop()
			delete(s.nodes, name)
		}
	}
	s.mu.Unlock()
	ok = true
	for _, n := range desired {
		err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { return s.reconcileSpec(ctx, n) })
		if err != nil && ctx.Err() == nil {
			s.log.Info("could not update node taints", "node", n.Name, "error", err.Error())
			ok = false
		}
	}
	return ok
}

// Wait blocks until every controller has ended; their context must have.
func (s *nodeSet) Wait() { s.group.Wait() }

// register runs a node controller for n until ctx ends, and starts it again
// when it fails: registration needs the API server, which may be away.
func (s *nodeSet) register(ctx context.Context, n *corev1.Node) *registered {
	ctx, stop := context.WithCancel(ctx)
	r := &registered{set: s, stop: stop, done: make(chan struct{}), latest: n, fresh: make(chan struct{}, 1)}
	s.group.Go(func() {
		defer close(r.done)
		for ctx.Err() == nil {
			if err := r.run(ctx); err != nil && ctx.Err() == nil {
				s.log.Info("node registration failed, trying again", "node", n.Name, "error", err.Error())
			}
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Second):
			}
		}
	})
	return r
}

func (r *registered) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	r.mu.Lock()
	initial := r.latest.DeepCopy()
	r.mu.Unlock()
	nodes := r.set.client.CoreV1().Nodes()
	controller, err := node.NewNodeController(r, initial, nodes,
		node.WithNodeEnableLeaseV1(r.set.client.CoordinationV1().Leases(corev1.NamespaceNodeLease), leaseSeconds),
		node.WithNodePingTimeout(5*time.Second),
		node.WithNodeStatusUpdateInterval(statusInterval),
		node.WithNodeStatusUpdateErrorHandler(func(ctx context.Context, err error) error {
			if !apierrors.IsNotFound(err) {
				return err
			}
			r.mu.Lock()
			again := r.latest.DeepCopy()
			r.mu.Unlock()
			again.ResourceVersion = ""
			_, err = nodes.Create(ctx, again, metav1.CreateOptions{})
			return err
		}))
	if err != nil {
		cancel()
		return fmt.Errorf("make node controller: %w", err)
	}
	var forward sync.WaitGroup
	forward.Go(func() {
		// The callback blocks when the controller is busy, so it has a
		// goroutine of its own, which ends with the controller.
		for {
			select {
			case <-ctx.Done():
				return
			case <-controller.Done():
				return
			case <-r.fresh:
			}
			r.mu.Lock()
			latest, notify := r.latest.DeepCopy(), r.notify
			r.mu.Unlock()
			if notify == nil {
				continue
			}
			// Once the controller has ended nobody takes the node any more.
			handed := make(chan struct{})
			go func() {
				defer close(handed)
				notify(latest)
			}()
			select {
			case <-handed:
			case <-ctx.Done():
				return
			case <-controller.Done():
				return
			}
		}
	})
	err = controller.Run(ctx)
	cancel()
	forward.Wait()
	return err
}

func (r *registered) update(n *corev1.Node) {
	r.mu.Lock()
	r.latest = n
	r.mu.Unlock()
	select {
	case r.fresh <- struct{}{}:
	default:
	}
}

// reconcileSpec patches taints under our prefix, labels and provider id of an
// existing node; those of others stay.
func (s *nodeSet) reconcileSpec(ctx context.Context, want *corev1.Node) error {
	have, err := s.client.CoreV1().Nodes().Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil // the controller creates it with all of this
	}
	if err != nil {
		return fmt.Errorf("get node: %w", err)
	}
	before, now := appliedTo(have), appliedBy(want)
	taints := slices.DeleteFunc(slices.Clone(have.Spec.Taints), func(t corev1.Taint) bool {
		return strings.HasPrefix(t.Key, wellknown.Prefix) || hasTaint(want.Spec.Taints, t) || slices.Contains(before.Taints, taintName(t))
	})
	taints = append(taints, want.Spec.Taints...)
	labels := map[string]any{}
	for k, v := range want.Labels {
		if have.Labels[k] != v {
			labels[k] = v
		}
	}
	for key := range have.Labels {
		ours := key == wellknown.GPUModel || key == wellknown.MaxWalltime || strings.HasPrefix(key, wellknown.FeaturePrefix)
		if _, wanted := want.Labels[key]; !wanted && (ours || slices.Contains(before.Labels, key)) {
			labels[key] = nil // the hosts have several models by now, or the feature has gone, or it left the configuration
		}
	}
	text, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("encode what was applied: %w", err)
	}
	if sameTaints(taints, have.Spec.Taints) && len(labels) == 0 && have.Annotations[wellknown.Applied] == string(text) {
		return nil
	}
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": have.ResourceVersion, "labels": labels, "annotations": map[string]any{wellknown.Applied: string(text)}},
		"spec":     map[string]any{"taints": taints},
	}) // with the version, since a merge patch replaces the list of taints whole
	if err != nil {
		return fmt.Errorf("encode node patch: %w", err)
	}
	if _, err := s.client.CoreV1().Nodes().Patch(ctx, want.Name, types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		return err // as it is: the caller tells conflicts by it
	}
	return nil
}

// applied are the taints and labels that a configuration gave a node, so that those
// which leave it are taken off, and those of others stay.
type applied struct {
	Taints []string `json:"taints"` // "<key>:<effect>", sorted
	Labels []string `json:"labels"` // keys, sorted
}

func taintName(t corev1.Taint) string { return t.Key + ":" + string(t.Effect) }

func appliedBy(want *corev1.Node) applied {
	out := applied{Taints: []string{}, Labels: slices.Sorted(maps.Keys(want.Labels))}
	for _, t := range want.Spec.Taints {
		out.Taints = append(out.Taints, taintName(t))
	}
	slices.Sort(out.Taints)
	return out
}

// appliedTo is what the last configuration gave; nothing where nobody noted it.
func appliedTo(have *corev1.Node) applied {
	var out applied
	if err := json.Unmarshal([]byte(have.Annotations[wellknown.Applied]), &out); err != nil {
		return applied{}
	}
	return out
}

func hasTaint(list []corev1.Taint, t corev1.Taint) bool {
	return slices.ContainsFunc(list, func(x corev1.Taint) bool { return x.Key == t.Key && x.Effect == t.Effect })
}

func sameTaints(a, b []corev1.Taint) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(t corev1.Taint) bool {
		return !slices.ContainsFunc(b, func(x corev1.Taint) bool {
			return x.Key == t.Key && x.Effect == t.Effect && x.Value == t.Value
		})
	})
}
