package provider

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// podInformers watches the pods of each virtual node by field selector: the
// daemon never sees, and needs no right to see, other nodes' pods.
type podInformers struct {
	client kubernetes.Interface
	wake   func()

	mu    sync.Mutex
	nodes map[string]cache.SharedIndexInformer
	group sync.WaitGroup
}

const byName = "namespace/name"

func newPodInformers(client kubernetes.Interface, wake func()) *podInformers {
	return &podInformers{client: client, wake: wake, nodes: map[string]cache.SharedIndexInformer{}}
}

// Watch adds informers for nodes that have none and blocks until all are
// synced or ctx ends. An informer lives as long as run, so that a node that
// was removed from the configuration still finishes its pods.
func (p *podInformers) Watch(ctx, run context.Context, names []string) bool {
	p.mu.Lock()
	var synced []cache.InformerSynced
	for _, name := range names {
		inf := p.nodes[name]
		if inf == nil {
			inf = p.informer(name)
			p.nodes[name] = inf
			p.group.Go(func() { inf.Run(run.Done()) })
		}
		synced = append(synced, inf.HasSynced)
	}
	p.mu.Unlock()
	return cache.WaitForCacheSync(ctx.Done(), synced...)
}

func (p *podInformers) informer(node string) cache.SharedIndexInformer {
	lw := cache.NewFilteredListWatchFromClient(p.client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll,
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
		})
	inf := cache.NewSharedIndexInformer(lw, &corev1.Pod{}, 0, cache.Indexers{
		byName: func(obj any) ([]string, error) {
			key, err := cache.MetaNamespaceKeyFunc(obj)
			return []string{key}, err
		},
	})
	_, _ = inf.AddEventHandler(cache.ResourceEventHandlerFuncs{ // fails only once the informer has stopped
		AddFunc:    func(any) { p.wake() },
		UpdateFunc: func(any, any) { p.wake() },
		DeleteFunc: func(any) { p.wake() },
	})
	return inf
}

// List gives all pods of all watched nodes.
func (p *podInformers) List() []*corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*corev1.Pod
	for _, inf := range p.nodes {
		for _, obj := range inf.GetStore().List() {
			if pod, ok := obj.(*corev1.Pod); ok {
				out = append(out, pod)
			}
		}
	}
	return out
}

// Unfinished counts the pods of a watched node that have not ended or that we
// have not let go.
func (p *podInformers) Unfinished(node string) int {
	p.mu.Lock()
	inf := p.nodes[node]
	p.mu.Unlock()
	if inf == nil {
		return 0
	}
	n := 0
	for _, obj := range inf.GetStore().List() {
		if pod, ok := obj.(*corev1.Pod); ok {
			if f := facts(pod); !f.Finished || f.Finalizer {
				n++
			}
		}
	}
	return n
}

// Get finds a pod by name; nil when none of ours has it.
func (p *podInformers) Get(namespace, name string) *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, inf := range p.nodes {
		objs, err := inf.GetIndexer().ByIndex(byName, namespace+"/"+name)
		if err == nil && len(objs) > 0 {
			if pod, ok := objs[0].(*corev1.Pod); ok {
				return pod
			}
		}
	}
	return nil
}

// Nodes names the watched nodes.
func (p *podInformers) Nodes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]string, 0, len(p.nodes))
	for n := range p.nodes {
		out = append(out, n)
	}
	return out
}

// Wait blocks until every informer has ended.
func (p *podInformers) Wait() { p.group.Wait() }
