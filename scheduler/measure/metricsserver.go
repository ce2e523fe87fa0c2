package measure

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// nodeMetricsPath is where the resource metrics API has all nodes.
const nodeMetricsPath = "/apis/metrics.k8s.io/v1beta1/nodes"

// nodeMetrics is the part of the API's list that is read here.
type nodeMetrics struct {
	Items []struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Usage corev1.ResourceList `json:"usage"`
	} `json:"items"`
}

// metricsServer asks the resource metrics API. It tells amounts, which are compared
// with what a node offers to pods.
func (k *Keeper) metricsServer(ctx context.Context) ([]snapshot.Load, error) {
	text, err := k.API.Get().AbsPath(nodeMetricsPath).SetHeader("Accept", "application/json").MaxRetries(0).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for the metrics of nodes, which metrics-server tells: %w", err)
	}
	var list nodeMetrics
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read the metrics of nodes: %w", err)
	}
	offers := map[string]resource.List{}
	for _, n := range k.Nodes() {
		offers[n.Name] = n.Allocatable
	}
	var out []snapshot.Load
	for _, item := range list.Items {
		of, ok := offers[item.Metadata.Name]
		if !ok {
			continue
		}
		part := func(name corev1.ResourceName) int64 {
			return thousandths(resource.Requested(string(name), item.Usage[name]), of.Get(string(name)))
		}
		out = append(out, snapshot.Load{Node: item.Metadata.Name, CPU: part(corev1.ResourceCPU), Memory: part(corev1.ResourceMemory)})
	}
	return out, nil
}

func thousandths(used, of int64) int64 {
	if of <= 0 {
		return 0
	}
	return resource.Part(used, 1000, of)
}
