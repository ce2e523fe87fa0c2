package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	"volcano.sh/apis/pkg/client/clientset/versioned"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

const (
	namespace = "default"
	// setupWorkers make and delete the load; they are not measured.
	setupWorkers = 32
)

// cluster is an API server with nodes, and clients for what is not measured.
type cluster struct {
	load
	shape
	config  *rest.Config // of the measured clients
	client  kubernetes.Interface
	volcano versioned.Interface
	calls   calls         // of the measured clients
	bound   func()        // told of each binding, unless nil
	told    time.Duration // until all statuses said so, of the scheduler's last round
}

func newCluster(ctx context.Context, config *rest.Config, l load) (*cluster, error) {
	root, err := checkout.Root()
	if err != nil {
		return nil, fmt.Errorf("find checkout: %w", err)
	}
	if _, err := envtest.InstallCRDs(config, envtest.CRDInstallOptions{Paths: []string{filepath.Join(root, "charts", "isthmus", "crds")}, ErrorIfPathMissing: true}); err != nil {
		return nil, fmt.Errorf("install definitions: %w", err)
	}
	setup := rest.CopyConfig(config)
	setup.QPS = -1
	c := &cluster{load: l, config: rest.CopyConfig(config)}
	c.config.QPS, c.config.Burst = float32(l.qps), l.burst
	c.config.Wrap(func(next http.RoundTripper) http.RoundTripper { return counting{next, &c.calls} })
	if c.client, err = kubernetes.NewForConfig(setup); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	if c.volcano, err = versioned.NewForConfig(setup); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return c, c.each(ctx, l.nodes, c.createNode)
}

// each calls f for 0 to n-1 with bounded concurrency.
func (c *cluster) each(ctx context.Context, n int, f func(context.Context, int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(setupWorkers)
	for i := range n {
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}

func nodeName(i int) string { return fmt.Sprintf("node-%05d", i) }

func (c *cluster) createNode(ctx context.Context, i int) error {
	offers := corev1.ResourceList{
		"cpu": kresource.MustParse("64"), "memory": kresource.MustParse("512Gi"),
		"pods": kresource.MustParse("110"), "nvidia.com/gpu": kresource.MustParse("8"),
	}
	n, err := c.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create node: %w", err)
	}
	n.Status = corev1.NodeStatus{Capacity: offers, Allocatable: offers, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
	if _, err := c.client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("make node ready: %w", err)
	}
	return nil
}

func groupName(i int) string  { return fmt.Sprintf("gang-%05d", i) }
func podName(g, i int) string { return fmt.Sprintf("%s-%d", groupName(g), i) }
func (c *cluster) pods() int  { return c.gangs * c.size }

// fill creates the gangs with their pods, admitted and waiting.
func (c *cluster) fill(ctx context.Context) error {
	err := c.each(ctx, c.gangs, func(ctx context.Context, g int) error {
		_, err := c.volcano.SchedulingV1beta1().PodGroups(namespace).Create(ctx, &volcanov1.PodGroup{
			ObjectMeta: metav1.ObjectMeta{Name: groupName(g)},
			Spec:       volcanov1.PodGroupSpec{MinMember: int32(c.size), Queue: volcanov1.DefaultQueue},
			Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create PodGroup: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	needs := corev1.ResourceList{"cpu": kresource.MustParse("4"), "memory": kresource.MustParse("16Gi"), "nvidia.com/gpu": kresource.MustParse("1")}
	return c.each(ctx, c.pods(), func(ctx context.Context, i int) error {
		_, err := c.client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: podName(i/c.size, i%c.size), Annotations: map[string]string{wellknown.PodGroupName: groupName(i / c.size)}},
			Spec: corev1.PodSpec{SchedulerName: wellknown.SchedulerIsthmus, Containers: []corev1.Container{{
				Name: "main", Image: "none",
				Resources: corev1.ResourceRequirements{Requests: needs, Limits: corev1.ResourceList{"nvidia.com/gpu": needs["nvidia.com/gpu"]}},
			}}},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create pod: %w", err)
		}
		return nil
	})
}

// empty deletes what fill created.
func (c *cluster) empty(ctx context.Context) error {
	zero := int64(0)
	now := metav1.DeleteOptions{GracePeriodSeconds: &zero}
	err := c.each(ctx, c.pods(), func(ctx context.Context, i int) error {
		return c.client.CoreV1().Pods(namespace).Delete(ctx, podName(i/c.size, i%c.size), now)
	})
	if err != nil {
		return fmt.Errorf("delete pods: %w", err)
	}
	if err := c.volcano.SchedulingV1beta1().PodGroups(namespace).DeleteCollection(ctx, now, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("delete PodGroups: %w", err)
	}
	return nil
}

// result is the time of one way in one round, on the clock and of processors.
type result struct{ took, used time.Duration }

// measure fills the cluster, unless the way does, times one way of binding
// everything, checks that it did, and empties the cluster.
func (c *cluster) measure(ctx context.Context, name string, bind func(context.Context) (time.Duration, spent, error), out *[]result) error {
	if !c.create {
		if err := c.fill(ctx); err != nil {
			return err
		}
	}
	c.calls.reset()
	took, used, err := bind(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	pods, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName="})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	if len(pods.Items) > 0 {
		return fmt.Errorf("%s left %d pods unbound", name, len(pods.Items))
	}
	fmt.Printf("%-12s %8.3f s  %8.0f pods/s  %7.1f gangs/s; %s; %s\n", name, took.Seconds(), float64(c.pods())/took.Seconds(), float64(c.gangs)/took.Seconds(),
		used.tell(c.pods()), c.calls.tell())
	if c.told > 0 {
		fmt.Printf("             all statuses said so %.3f s later\n", (c.told - took).Seconds())
		c.told = 0
	}
	*out = append(*out, result{took, used.total()})
	return c.empty(ctx)
}
