package hypernode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"
)

// Name is the controller's name in logs, metrics and field ownership.
const Name = "isthmus-hypernode"

// defaultEvery is how often Slurm's file is read.
const defaultEvery = 30 * time.Second

// mostText bounds the size of Slurm's file.
const mostText = 16 << 20

// Reconciler writes what the sources say. It is idempotent.
type Reconciler struct {
	// Client reads from a cache that has seen the client's own writes.
	Client client.Client
	// Levels are the labels of nodes that stand for tiers 1, 2 and so on; without
	// any, none are discovered from labels.
	Levels []string
	// SlurmFile is the path of Slurm's topology, "" for none.
	SlurmFile string
	// Every is how often the file is read; 0 means 30 s.
	Every time.Duration
}

// Active reports whether there is anything to discover from.
func (r *Reconciler) Active() bool { return len(r.Levels) > 0 || r.SlurmFile != "" }

func all() reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKey{Name: "all-hypernodes"}}
}

// SetupWithManager registers the controller with mgr. What a source made that is
// not configured any more is deleted, as long as another one is.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if r.Every == 0 {
		r.Every = defaultEvery
	}
	if err := CheckLevels(r.Levels); err != nil {
		return err
	}
	wake := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{all()} })
	ours := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetLabels()[SourceLabel] != "" })
	start := source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		q.Add(all())
		return nil
	})
	err := ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		Watches(&topology.HyperNode{}, wake, builder.WithPredicates(ours, predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.LabelChangedPredicate{}))).
		WatchesMetadata(&corev1.Node{}, wake, builder.WithPredicates(predicate.LabelChangedPredicate{})).
		WatchesRawSource(start).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1, ReconciliationTimeout: 2 * time.Minute}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up controller %s: %w", Name, err)
	}
	return nil
}

// Reconcile makes, changes and deletes HyperNodes of ours.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NodeList"))
	if err := r.Client.List(ctx, list); err != nil {
		return ctrl.Result{}, fmt.Errorf("list nodes: %w", err)
	}
	nodes := make([]Node, 0, len(list.Items))
	for i := range list.Items {
		nodes = append(nodes, Node{Name: list.Items[i].Name, Labels: list.Items[i].Labels})
	}
	want := FromLabels(nodes, r.Levels)
	result := ctrl.Result{}
	keep := "" // a source that cannot be read now takes nothing away
	if r.SlurmFile != "" {
		result.RequeueAfter = r.Every
		slurm, err := readSlurm(r.SlurmFile)
		if err != nil {
			keep = SourceSlurm
			logr.FromContextOrDiscard(ctx).Error(err, "Slurm's topology is not usable; its HyperNodes stay as they are", "file", r.SlurmFile)
		} else {
			want = append(want, slurm.HyperNodes(nodes)...)
		}
	}
	err := r.write(ctx, want, keep)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	return result, err
}

func readSlurm(path string) (*Slurm, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("look for Slurm's topology: %w", err)
	}
	if info.Size() > mostText {
		return nil, fmt.Errorf("%s has %d bytes, and at most %d are read", path, info.Size(), mostText)
	}
	text, err := os.ReadFile(path) //nolint:gosec // the administrator names the file
	if err != nil {
		return nil, fmt.Errorf("read Slurm's topology: %w", err)
	}
	s, err := ParseSlurm(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// write brings the HyperNodes of ours to what is wanted. What is above others is
// made after and deleted before them.
func (r *Reconciler) write(ctx context.Context, want []topology.HyperNode, keep string) error {
	var have topology.HyperNodeList
	if err := r.Client.List(ctx, &have); err != nil {
		return fmt.Errorf("list HyperNodes: %w", err)
	}
	stored := map[string]*topology.HyperNode{}
	for i := range have.Items {
		stored[have.Items[i].Name] = &have.Items[i]
	}
	wanted := map[string]bool{}
	var failed []error
	for i := range want {
		h := &want[i]
		wanted[h.Name] = true
		old := stored[h.Name]
		switch {
		case old == nil:
			if err := r.Client.Create(ctx, h, client.FieldOwner(Name)); err != nil {
				failed = append(failed, fmt.Errorf("create HyperNode %s: %w", h.Name, err))
			}
		case old.Labels[SourceLabel] != h.Labels[SourceLabel]:
			// A user has taken it over, or made one of the name: it is theirs.
		case !equality.Semantic.DeepEqual(old.Spec, h.Spec):
			changed := old.DeepCopy()
			changed.Spec = h.Spec
			if err := r.Client.Patch(ctx, changed, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}), client.FieldOwner(Name)); client.IgnoreNotFound(err) != nil {
				failed = append(failed, fmt.Errorf("patch HyperNode %s: %w", h.Name, err))
			}
		}
	}
	for name, old := range stored {
		from := old.Labels[SourceLabel]
		if wanted[name] || from != SourceLabels && from != SourceSlurm || from == keep {
			continue
		}
		if err := r.Client.Delete(ctx, old, client.Preconditions{UID: &old.UID}); client.IgnoreNotFound(err) != nil {
			failed = append(failed, fmt.Errorf("delete HyperNode %s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}
