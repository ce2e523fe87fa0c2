package environment

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/test/testbed/metricsserver"
)

// StartMetricsServer adds metrics-server to an environment that this program
// started, and returns once the API server takes it for available, which needs
// two scrapes of some node. stop takes it away again.
func (e *Environment) StartMetricsServer(ctx context.Context) (stop func(context.Context) error, err error) {
	p, objects, err := metricsserver.Start(ctx, e.control, e.programs, e.progress)
	if err != nil {
		return nil, err
	}
	service := &unstructured.Unstructured{}
	service.SetAPIVersion("apiregistration.k8s.io/v1")
	service.SetKind("APIService")
	service.SetName("v1beta1.metrics.k8s.io")
	stop = func(ctx context.Context) error {
		if err := client.IgnoreNotFound(e.client.Delete(ctx, service.DeepCopy())); err != nil {
			return fmt.Errorf("delete the API service: %w", err)
		}
		return p.Stop(time.Second)
	}
	if _, err := e.apply(ctx, "metrics-server's objects", objects); err != nil {
		return stop, err
	}
	return stop, await(ctx, 3*time.Minute, func(ctx context.Context) error {
		if err := e.client.Get(ctx, client.ObjectKeyFromObject(service), service); err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(service.Object, "status", "conditions")
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == "Available" && c["status"] == "True" {
				return nil
			}
		}
		return fmt.Errorf("the API server does not take metrics-server for available: %v", conditions)
	})
}
