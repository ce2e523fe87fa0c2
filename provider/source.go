package provider

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1/validation"
)

// Source says which BatchCluster to serve, and takes its status.
type Source interface {
	// Load reads the BatchCluster as it is now.
	Load(ctx context.Context) (*hpcv1alpha1.BatchCluster, error)
	// Report writes the status if it changed.
	Report(ctx context.Context, cluster *hpcv1alpha1.BatchCluster, status hpcv1alpha1.BatchClusterStatus) error
}

// FileSource reads a BatchCluster from a YAML file, strictly; it has no status.
type FileSource struct{ Path string }

// Load reads the file. What it holds stands in for the generation that an
// object has, so that a change is seen.
func (f FileSource) Load(context.Context) (*hpcv1alpha1.BatchCluster, error) {
	text, err := os.ReadFile(f.Path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	out, err := validation.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", f.Path, err)
	}
	sum := sha256.Sum256(text)
	out.Generation = int64(binary.BigEndian.Uint64(sum[:8]) >> 1) //nolint:gosec // 63 bits fit
	return out, nil
}

// Report does nothing: the node objects tell the state.
func (f FileSource) Report(context.Context, *hpcv1alpha1.BatchCluster, hpcv1alpha1.BatchClusterStatus) error {
	return nil
}

// ObjectSource reads the BatchCluster object with the given name.
type ObjectSource struct {
	Client client.Client
	Name   string
}

// Load gets the object.
func (o ObjectSource) Load(ctx context.Context) (*hpcv1alpha1.BatchCluster, error) {
	var out hpcv1alpha1.BatchCluster
	if err := o.Client.Get(ctx, client.ObjectKey{Name: o.Name}, &out); err != nil {
		return nil, fmt.Errorf("get BatchCluster %s: %w", o.Name, err)
	}
	return &out, nil
}

// Report patches the status subresource of the very object that was served.
func (o ObjectSource) Report(ctx context.Context, cluster *hpcv1alpha1.BatchCluster, status hpcv1alpha1.BatchClusterStatus) error {
	have, err := o.Load(ctx)
	if err != nil {
		return err
	}
	if have.UID != cluster.UID {
		return fmt.Errorf("report BatchCluster %s: it was replaced", o.Name)
	}
	next := have.DeepCopy()
	next.Status = status
	next.Status.Conditions = mergeConditions(have.Status.Conditions, status.Conditions)
	if reflect.DeepEqual(have.Status, next.Status) {
		return nil
	}
	if err := o.Client.Status().Patch(ctx, next, client.MergeFrom(have)); err != nil {
		return fmt.Errorf("write status of BatchCluster %s: %w", o.Name, err)
	}
	return nil
}

// mergeConditions takes over new conditions and keeps the transition time of
// those whose status did not change.
func mergeConditions(have, want []metav1.Condition) []metav1.Condition {
	out := make([]metav1.Condition, 0, len(want))
	for _, w := range want {
		for _, h := range have {
			if h.Type == w.Type && h.Status == w.Status {
				w.LastTransitionTime = h.LastTransitionTime
			}
		}
		out = append(out, w)
	}
	return out
}
