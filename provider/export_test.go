package provider

import (
	"context"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
)

// Live lets tests ask what the loop asks.
func Live(b *Bridge) bool { return b.live() }

// WatchPods gives the pods of one node as the daemon sees them on a real API
// server, once its view is complete; wait blocks until the watch has ended with ctx.
func WatchPods(ctx context.Context, client kubernetes.Interface, node string) (pods PodAPI, wait func()) {
	informers := newPodInformers(client, func() {})
	informers.Watch(ctx, ctx, []string{node})
	return &kubePods{client: client, recorder: &record.FakeRecorder{}, nodes: informers.Nodes, list: informers.List}, informers.Wait
}

// AddEphemerals is one look of the refresh loop at added containers.
func AddEphemerals(ctx context.Context, b *Bridge) { b.addEphemerals(ctx) }

// ReadPodGroup asks a real client for the minimum of a PodGroup.
func ReadPodGroup(ctx context.Context, client kubernetes.Interface, namespace, name string) (int32, error) {
	return (&kubeObjects{client: client}).PodGroup(ctx, namespace, name)
}

// ListPodGroups asks a real client for the minima of a namespace's PodGroups.
func ListPodGroups(ctx context.Context, client kubernetes.Interface, namespace string) (map[string]int32, error) {
	return (&kubeObjects{client: client}).PodGroups(ctx, namespace)
}
