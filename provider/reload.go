package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1/validation"
)

// load waits for a valid BatchCluster: an object that comes later, or is
// mended, is no reason to crash. A file is given by hand: what is wrong with it
// at the start is said at once.
func (d *Daemon) load(ctx context.Context) (*hpcv1alpha1.BatchCluster, error) {
	said := ""
	for {
		cluster, err := d.Source.Load(ctx)
		if err == nil {
			if err = d.validate(ctx, cluster); err == nil {
				d.setInvalid("")
				return cluster, nil
			}
			d.reportInvalid(ctx, cluster, err)
		}
		if _, file := d.Source.(FileSource); file {
			return nil, err
		}
		if err.Error() != said {
			said = err.Error()
			d.Log.Info("waiting for a valid BatchCluster", "error", said)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(d.Reload):
		}
	}
}

// specError is a mistake of a BatchCluster that shows only when it is served.
type specError struct{ error }

func (e specError) Unwrap() error { return e.error }

// mistake reports an error of serving that a change of the BatchCluster object
// mends, and waits before the next try; a file is given by hand, and its mistakes
// end the daemon. It gives back what is no such error.
func (d *Daemon) mistake(ctx context.Context, cluster *hpcv1alpha1.BatchCluster, err error) error {
	var bad specError
	if _, file := d.Source.(FileSource); file || !errors.As(err, &bad) {
		return err
	}
	if d.setInvalid(err.Error()) {
		d.Log.Info("the BatchCluster is not valid", "error", err.Error())
	}
	d.reportInvalid(ctx, cluster, err)
	select {
	case <-ctx.Done():
	case <-time.After(d.Reload):
	}
	return nil
}

// validate checks all that can be checked without the batch system. A connection
// is made and closed again: that costs nothing before its first command.
func (d *Daemon) validate(ctx context.Context, cluster *hpcv1alpha1.BatchCluster) error {
	validation.Default(cluster) // also what an older definition did not
	if errs := validation.BatchCluster(cluster, d.Served); len(errs) > 0 {
		return errs.ToAggregate()
	}
	if _, ok := d.Systems[cluster.Spec.Type]; !ok {
		return fmt.Errorf("spec.type: %q is not served by this daemon", cluster.Spec.Type)
	}
	if d.Connect != nil { // a test may look at the rest alone
		connection, err := d.Connect(ctx, cluster)
		if err != nil {
			return err
		}
		if connection.Close != nil {
			connection.Close()
		}
	}
	return nil
}

func (d *Daemon) reportInvalid(ctx context.Context, cluster *hpcv1alpha1.BatchCluster, cause error) {
	status := *cluster.Status.DeepCopy()
	status.ObservedGeneration = cluster.Generation
	status.Conditions = []metav1.Condition{{
		Type: hpcv1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "InvalidSpec", Message: cause.Error(),
		ObservedGeneration: cluster.Generation, LastTransitionTime: metav1.Now(),
	}}
	if err := d.Source.Report(ctx, cluster, status); err != nil {
		d.Log.Info("could not write BatchCluster status", "error", err.Error())
	}
}

func (d *Daemon) setInvalid(why string) (changed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed = why != d.invalid
	d.invalid = why
	return changed
}

func (d *Daemon) invalidSpec() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.invalid
}

// watchSpec ends the configuration when the BatchCluster has another valid one.
// A mistake leaves the last good one at work, and is told by the log, by events
// on the nodes, and by the condition Ready of the object.
func (d *Daemon) watchSpec(ctx context.Context, cluster *hpcv1alpha1.BatchCluster, events record.EventRecorder, end func()) {
	ticker := time.NewTicker(d.Reload)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, err := d.Source.Load(ctx)
		if err != nil {
			if _, file := d.Source.(FileSource); !file {
				continue // deleted or unreachable: what runs is served to its end
			}
		} else if now.UID == cluster.UID && now.Generation == cluster.Generation {
			d.setInvalid("")
			continue
		} else if now.Name != cluster.Name {
			// The jobs are tagged with the name: under another they would be ownerless.
			err = fmt.Errorf("metadata.name: %q cannot become %q while the daemon runs", cluster.Name, now.Name)
		} else {
			err = d.validate(ctx, now)
		}
		if err != nil {
			if d.setInvalid(err.Error()) {
				d.Log.Info("the BatchCluster changed and is not valid; the last good configuration goes on", "error", err.Error())
				d.tellNodes(cluster, events, err.Error())
			}
			continue
		}
		d.Log.Info("the BatchCluster changed, starting anew", "generation", now.Generation)
		end()
		return
	}
}

// tellNodes sends the mistake as an event to the nodes that the configuration
// lists, where people look who have no BatchCluster object.
func (d *Daemon) tellNodes(cluster *hpcv1alpha1.BatchCluster, events record.EventRecorder, why string) {
	if len(why) > 900 { // an event holds 1,024 bytes
		why = why[:900] + "..."
	}
	for _, n := range cluster.Spec.Nodes {
		ref := &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: n.Name, UID: types.UID(n.Name)}
		events.Eventf(ref, corev1.EventTypeWarning, "InvalidConfiguration",
			"the new configuration of BatchCluster %s is not valid, the last good one goes on: %s", cluster.Name, why)
	}
}
