package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/job/machine"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

// unwatched says that nobody waits for a write to show in the cache. Kinds that
// are not cached need it with every call: the client would watch all of that kind
// in the cluster for the few of its own.
const unwatched = client.DisableReadYourWritesConsistency

// create makes what the job lacks, in this order: objects of the plugins and
// claims, the PodGroup, the pods.
func (r *Reconciler) create(ctx context.Context, in machine.Input, out machine.Output, active map[string]plugins.Plugin) error {
	if err := r.stamp(ctx, in.PodGroup, out.StampPodGroup); err != nil {
		return err
	}
	if !out.EnsureObjects {
		return nil
	}
	completed := machine.Default(in.Job)
	names := slices.Sorted(maps.Keys(active))
	for _, name := range names {
		for _, object := range active[name].Objects(completed) {
			if err := r.ensure(ctx, completed, active[name], object); err != nil {
				return err
			}
		}
	}
	for _, claim := range machine.Claims(completed) {
		if err := r.Client.Create(ctx, claim, unwatched); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create PersistentVolumeClaim %s: %w", claim.Name, err)
		}
	}
	if out.CreatePodGroup != nil {
		if err := r.Client.Create(ctx, out.CreatePodGroup, client.FieldOwner(Name)); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create PodGroup %s: %w", out.CreatePodGroup.Name, err)
		}
	}
	if out.UpdatePodGroup != nil {
		changed, patch := podGroupPatch(in.PodGroup, out.UpdatePodGroup)
		if err := r.Client.Patch(ctx, changed, patch, client.FieldOwner(Name)); err != nil {
			return fmt.Errorf("patch PodGroup %s: %w", changed.Name, err)
		}
	}
	return inParallel(ctx, createAtOnce, out.CreatePods, func(ctx context.Context, w machine.NewPod) error {
		for _, name := range names {
			active[name].MutatePod(completed, w.Task, w.Index, w.Pod)
		}
		return r.createPod(ctx, in.Job, w.Pod)
	})
}

// stamp writes the version on a PodGroup that carries none.
func (r *Reconciler) stamp(ctx context.Context, pg *scheduling.PodGroup, version *int32) error {
	if pg == nil || version == nil {
		return nil
	}
	changed := pg.DeepCopy()
	metav1.SetMetaDataAnnotation(&changed.ObjectMeta, batch.JobVersion, strconv.Itoa(int(*version)))
	if err := r.Client.Patch(ctx, changed, client.MergeFrom(pg), client.FieldOwner(Name)); err != nil {
		return fmt.Errorf("stamp PodGroup %s: %w", pg.Name, err)
	}
	return nil
}

func (r *Reconciler) createPod(ctx context.Context, job *batch.Job, pod *corev1.Pod) error {
	err := r.Client.Create(ctx, pod, client.FieldOwner(Name))
	switch {
	case err == nil:
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the job goes with its namespace
	case !apierrors.IsAlreadyExists(err):
		return fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	// Whose is it? The cache did not show it yet.
	var named corev1.PodList
	if err := r.Live.List(ctx, &named, client.InNamespace(pod.Namespace), client.MatchingFields{"metadata.name": pod.Name}); err != nil {
		return fmt.Errorf("look for pod %s: %w", pod.Name, err)
	}
	if len(named.Items) == 0 {
		return fmt.Errorf("create pod %s: %w", pod.Name, err) // it has just gone: try again
	}
	have := &named.Items[0]
	if metav1.IsControlledBy(have, job) {
		return nil
	}
	return &takenError{kind: "Pod", name: have.Name, holder: describeHolder(have)}
}

// ensure creates one object of a plugin, or brings its data up to date.
func (r *Reconciler) ensure(ctx context.Context, job *batch.Job, plugin plugins.Plugin, want plugins.Object) error {
	want.SetNamespace(job.Namespace)
	want.SetOwnerReferences([]metav1.OwnerReference{machine.OwnerOf(job)})
	gvk, err := r.Client.GroupVersionKindFor(want)
	if err != nil {
		return fmt.Errorf("find kind of plugin object: %w", err)
	}
	have, ok := want.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("plugin object %s %s is not an API object", gvk.Kind, want.GetName())
	}
	err = r.Client.Get(ctx, client.ObjectKeyFromObject(want), have, unwatched)
	if apierrors.IsNotFound(err) {
		if c, ok := plugin.(plugins.Completer); ok {
			if err := c.Complete(job, want); err != nil {
				return fmt.Errorf("complete %s %s: %w", gvk.Kind, want.GetName(), err)
			}
		}
		if err := r.Client.Create(ctx, want, client.FieldOwner(Name), unwatched); err != nil {
			return fmt.Errorf("create %s %s: %w", gvk.Kind, want.GetName(), err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("get %s %s: %w", gvk.Kind, want.GetName(), err)
	}
	if !metav1.IsControlledBy(have, job) {
		return &takenError{kind: gvk.Kind, name: have.GetName(), holder: describeHolder(have)}
	}
	if f, ok := plugin.(plugins.Finder); ok {
		f.Found(have)
	}
	desired, isConfig := want.(*corev1.ConfigMap)
	current, _ := have.(*corev1.ConfigMap)
	if !isConfig || maps.Equal(desired.Data, current.Data) {
		return nil
	}
	changed := current.DeepCopy()
	changed.Data = desired.Data
	if err := r.Client.Patch(ctx, changed, client.MergeFrom(current), client.FieldOwner(Name), unwatched); err != nil {
		return fmt.Errorf("patch ConfigMap %s: %w", changed.Name, err)
	}
	return nil
}

// takenError says that another object holds a name that the job needs.
type takenError struct{ kind, name, holder string }

func (e *takenError) Error() string {
	return fmt.Sprintf("%s %s exists and is %s; it has to be gone first", e.kind, e.name, e.holder)
}

// describeHolder says in words whose an object is.
func describeHolder(o client.Object) string {
	text := "not owned by any controller"
	if owner := metav1.GetControllerOfNoCopy(o); owner != nil {
		text = fmt.Sprintf("owned by %s %s (UID %s)", owner.Kind, owner.Name, owner.UID)
	}
	if o.GetDeletionTimestamp() != nil {
		text += " and still ending"
	}
	return text
}

// retryAtOnce says that nothing is wrong for a user to read about: the write met
// another one, or the API server could not serve it.
func retryAtOnce(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// explainCreate words a refusal of the API server for the job's status.
func explainCreate(err error) *machine.Reason {
	var taken *takenError
	if errors.As(err, &taken) {
		return &machine.Reason{Reason: "NameTaken", Message: err.Error()}
	}
	text := err.Error()
	if apierrors.IsForbidden(err) && strings.Contains(text, `"secrets"`) {
		text += "; the job plugin ssh needs this right: the administrator gives it with controllers.sshNamespaces of the chart"
	}
	return &machine.Reason{Reason: "FailedCreate", Message: text}
}

// inParallel calls do for every item, at most limit at a time. All are tried;
// the error is that of the first failing item in the order of items, so that
// the same trouble always reads the same.
func inParallel[T any](ctx context.Context, limit int, items []T, do func(context.Context, T) error) error {
	if len(items) == 0 {
		return nil
	}
	failures := make([]error, len(items))
	var group errgroup.Group
	group.SetLimit(limit)
	for i, item := range items {
		group.Go(func() error {
			failures[i] = do(ctx, item)
			return nil
		})
	}
	_ = group.Wait() // the functions above return no errors
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}
