package parity

import (
	"context"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/fetch"
	"github.com/isthmus-hpc/isthmus/test/testbed/helm"
	"github.com/isthmus-hpc/isthmus/test/testbed/image"
)

// chartNamespace is where the environment has applied what the chart brings.
const chartNamespace = "isthmus-system"

// chartValues turn on what a pod's start depends on. Nobody writes a BatchCluster of
// that name: the virtual kubelet waits for it.
const chartValues = `
image: {registry: isthmus.test/built, tag: "1", pullPolicy: Never}
clusters: [{name: none}]
metrics: {enabled: true, port: 9400}
scheduler: {config: "actions: \"enqueue, allocate, backfill\"\n"}
`

// chartImages shows that the images that the project makes start under a real kubelet
// with all that the chart says of their pods: user, read-only root, no capability,
// account, probes, arguments and configuration. They are ready, and tell what they measure.
func chartImages(ctx context.Context, t *testing.T, env *environment.Environment, kube kubernetes.Interface) {
	t.Helper()
	from := ""
	for _, p := range env.Processes() {
		if p.Name == "vnode" {
			from = filepath.Dir(p.Argv[0])
		}
	}
	archives, err := image.Programs{Directory: from, Registry: "isthmus.test/built", Tag: "1"}.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range archives {
		if err := env.Kubelet().Import(ctx, file); err != nil {
			t.Fatal(err)
		}
	}
	near, port := forward(ctx, t, env, kube)
	pods := chartPods(ctx, t, kube)
	if len(pods) != 3 {
		t.Fatalf("the chart has %d pods", len(pods))
	}
	for _, p := range pods {
		p.Spec.NodeName = realNode
		// There is no Service for the API server on this node.
		p.Spec.HostAliases = []corev1.HostAlias{{IP: near, Hostnames: []string{"kubernetes.default.svc"}}}
		c := &p.Spec.Containers[0]
		c.Env = append(c.Env, corev1.EnvVar{Name: "KUBERNETES_SERVICE_HOST", Value: "kubernetes.default.svc"}, corev1.EnvVar{Name: "KUBERNETES_SERVICE_PORT", Value: port})
		if _, err := kube.CoreV1().Pods(chartNamespace).Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			err := kube.CoreV1().Pods(chartNamespace).Delete(context.WithoutCancel(ctx), p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
			if err != nil {
				t.Error(err)
			}
		})
	}
	for _, p := range pods {
		address := ready(ctx, t, kube, p.Name)
		if text, err := fetch.Text(ctx, "http://"+net.JoinHostPort(address, "9400")+"/metrics"); err != nil || !strings.Contains(text, "go_goroutines ") {
			t.Errorf("%s measures %.200q, %v", p.Name, text, err)
		}
	}
}

// chartPods makes pods of the chart's Deployments, and what these mount.
func chartPods(ctx context.Context, t *testing.T, kube kubernetes.Interface) []*corev1.Pod {
	t.Helper()
	objects, err := helm.Template(ctx, t.Output(), chartNamespace, chartValues)
	if err != nil {
		t.Fatal(err)
	}
	var pods []*corev1.Pod
	for _, o := range objects {
		switch o.GetKind() {
		case "Deployment":
			var d appsv1.Deployment
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &d); err != nil {
				t.Fatal(err)
			}
			pods = append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: d.Name, Labels: d.Spec.Template.Labels}, Spec: d.Spec.Template.Spec})
		case "ConfigMap":
			var m corev1.ConfigMap
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &m); err != nil {
				t.Fatal(err)
			}
			if _, err := kube.CoreV1().ConfigMaps(chartNamespace).Create(ctx, &m, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return pods
}

// forward lets pods of the real node reach the API server, which listens on loopback,
// and says where.
func forward(ctx context.Context, t *testing.T, env *environment.Environment, kube kubernetes.Interface) (host, port string) {
	t.Helper()
	node, err := kube.CoreV1().Nodes().Get(ctx, realNode, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP })
	if i < 0 {
		t.Fatalf("the node has the addresses %v", node.Status.Addresses)
	}
	server, err := url.Parse(env.RESTConfig().Host)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(node.Status.Addresses[i].Address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // once the pods are gone
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				out, err := (&net.Dialer{}).DialContext(ctx, "tcp", server.Host)
				if err != nil {
					_ = in.Close()
					return
				}
				go func() {
					_, _ = io.Copy(out, in) // either end may go at any time
					_ = out.Close()
				}()
				_, _ = io.Copy(in, out)
				_ = in.Close()
			}()
		}
	}()
	host, port, err = net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// ready waits until a pod is, and gives its address.
func ready(ctx context.Context, t *testing.T, kube kubernetes.Interface, name string) string {
	t.Helper()
	end := time.Now().Add(2 * time.Minute)
	for {
		pod, err := kube.CoreV1().Pods(chartNamespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue }) {
			return pod.Status.PodIP
		}
		if time.Now().After(end) || ctx.Err() != nil {
			log, err := kube.CoreV1().Pods(chartNamespace).GetLogs(name, &corev1.PodLogOptions{TailLines: ptr.To[int64](20)}).DoRaw(context.WithoutCancel(ctx))
			t.Fatalf("%s is not ready: %+v\nlog (%v): %s", name, pod.Status, err, log)
		}
		<-time.After(200 * time.Millisecond)
	}
}
