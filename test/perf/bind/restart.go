package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	kcache "k8s.io/client-go/tools/cache"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// restart measures how long a scheduler that starts anew takes to its first binding
// on a cluster where many pods run already. Reference: how long informers of nodes
// and pods, that do nothing with what they get, take to be there.
func (c *cluster) restart(ctx context.Context) error {
	c.shape = shape{1, 4}
	c.calls.reset()
	fmt.Printf("restart: %d nodes, %d pods that run, a gang of %d that waits\n", c.nodes, c.resident, c.size)
	if err := c.each(ctx, c.resident, c.createResident); err != nil {
		return err
	}
	var bare, ours []time.Duration
	for round := range c.rounds {
		ways := []func() error{
			func() error {
				took, err := c.bareSync(ctx)
				bare = append(bare, took)
				return err
			},
			func() error {
				if err := c.fill(ctx); err != nil {
					return err
				}
				took, err := c.firstBind(ctx)
				ours = append(ours, took)
				if err != nil {
					return err
				}
				return c.empty(ctx)
			},
		}
		if round%2 == 1 {
			slices.Reverse(ways)
		}
		for _, way := range ways {
			if err := way(); err != nil {
				return err
			}
		}
		fmt.Printf("bare informers %.3f s; scheduler to its first binding %.3f s\n", bare[round].Seconds(), ours[round].Seconds())
	}
	slices.Sort(bare)
	slices.Sort(ours)
	last := c.rounds - 1
	fmt.Printf("restart: median %.3f s to the first binding (%.3f to %.3f), %.2f times that of bare informers, %.3f s (%.3f to %.3f)\n",
		ours[c.rounds/2].Seconds(), ours[0].Seconds(), ours[last].Seconds(), ours[c.rounds/2].Seconds()/bare[c.rounds/2].Seconds(),
		bare[c.rounds/2].Seconds(), bare[0].Seconds(), bare[last].Seconds())
	return nil
}

// createResident makes a pod that is on a node, and that this scheduler placed.
func (c *cluster) createResident(ctx context.Context, i int) error {
	p, err := c.client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("resident-%06d", i), Annotations: map[string]string{
			wellknown.GangAttempt: fmt.Sprintf("resident-%06d", i), wellknown.GangSize: "1", wellknown.GangRank: "0",
		}},
		Spec: corev1.PodSpec{NodeName: nodeName(i % c.nodes), SchedulerName: wellknown.SchedulerIsthmus, Containers: []corev1.Container{{
			Name: "main", Image: "none", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": kresource.MustParse("100m"), "memory": kresource.MustParse("1Gi")}},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create pod: %w", err)
	}
	p.Status.Phase = corev1.PodRunning
	if _, err := c.client.CoreV1().Pods(namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("make pod run: %w", err)
	}
	return nil
}

// bareSync is the time until informers of nodes and pods have everything.
func (c *cluster) bareSync(ctx context.Context) (time.Duration, error) {
	client, _, err := c.clients()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactory(client, 0)
	defer factory.Shutdown()
	defer cancel()
	start := time.Now()
	nodes, pods := factory.Core().V1().Nodes().Informer(), factory.Core().V1().Pods().Informer()
	factory.Start(ctx.Done())
	if !kcache.WaitForCacheSync(ctx.Done(), nodes.HasSynced, pods.HasSynced) {
		return 0, context.Cause(ctx)
	}
	return time.Since(start), nil
}

// firstBind is the time from a scheduler that knows nothing to its first binding.
func (c *cluster) firstBind(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	var first time.Duration
	c.bound = func() {
		if first == 0 {
			first = time.Since(start)
		}
	}
	defer func() { c.bound = nil }()
	_, _, err := c.scheduler(ctx)
	return first, err
}
