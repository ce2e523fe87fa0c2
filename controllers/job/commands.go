package job

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
)

// commandsByJob is the cache index from a job's name to the Commands for it.
const commandsByJob = "isthmus.command-job"

// targetJob is the name of the job that a Command is for, "" when it is for
// something else.
func targetJob(o client.Object) string {
	c, ok := o.(*bus.Command)
	if !ok || c.TargetObject == nil || c.TargetObject.Kind != "Job" {
		return ""
	}
	if group, _, _ := strings.Cut(c.TargetObject.APIVersion, "/"); group != batch.GroupName {
		return ""
	}
	return c.TargetObject.Name
}

// toJob wakes the job that a Command is for.
func toJob(_ context.Context, o client.Object) []reconcile.Request {
	name := targetJob(o)
	if name == "" {
		return nil
	}
	return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}}
}

// commands lists the Commands for a job, oldest first. Those for a job of that
// name that is no more, or for no job at all, are deleted: nobody else would. uid
// is "" when there is no job of the name.
func (r *Reconciler) commands(ctx context.Context, name types.NamespacedName, uid types.UID) ([]*bus.Command, error) {
	var list bus.CommandList
	err := r.Client.List(ctx, &list, client.InNamespace(name.Namespace), client.MatchingFields{commandsByJob: name.Name})
	if err != nil {
		return nil, fmt.Errorf("list commands: %w", err)
	}
	var mine []*bus.Command
	for i := range list.Items {
		c := &list.Items[i]
		switch {
		case c.DeletionTimestamp != nil:
		// A Command that names no UID is for whoever has the name.
		case uid != "" && (c.TargetObject.UID == "" || c.TargetObject.UID == uid):
			mine = append(mine, c)
		default:
			logr.FromContextOrDiscard(ctx).Info("a command for a job that is no more", "command", c.Name, "target", c.TargetObject.UID)
			if err := r.deleteCommand(ctx, c); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(mine, func(a, b *bus.Command) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return mine, nil
}

func (r *Reconciler) deleteCommand(ctx context.Context, c *bus.Command) error {
	if err := r.Client.Delete(ctx, c, client.Preconditions{UID: &c.UID}); err != nil && !gone(err) {
		return fmt.Errorf("delete command %s: %w", c.Name, err)
	}
	return nil
}
