// Judge has kube-scheduler's own filters say on which nodes a pod may go: cases come as
// JSON on standard input, and the answers go to standard output. It is how the answers
// were recorded that scheduler/cache compares its own with.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/interpodaffinity"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeaffinity"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeports"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeunschedulable"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/podtopologyspread"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/tainttoleration"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
)

// Case is a cluster and a pod that is to be placed.
type Case struct {
	Namespaces []*corev1.Namespace `json:"namespaces"`
	Nodes      []*corev1.Node      `json:"nodes"`
	Pods       []*corev1.Pod       `json:"pods"`
	Pod        *corev1.Pod         `json:"pod"`
}

func main() {
	if err := run(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, in io.Reader, out io.Writer) error {
	var cases []Case
	if err := json.NewDecoder(in).Decode(&cases); err != nil {
		return fmt.Errorf("read cases: %w", err)
	}
	metrics.Register() // the plugins count what they do
	answers := make([]string, 0, len(cases))
	for i, c := range cases {
		a, err := c.judge(ctx)
		if err != nil {
			return fmt.Errorf("case %d: %w", i, err)
		}
		answers = append(answers, a)
	}
	if err := json.NewEncoder(out).Encode(answers); err != nil {
		return fmt.Errorf("write answers: %w", err)
	}
	return nil
}

// judge says of each node, in the order of their names, whether all filters admit the
// pod: 1 or 0.
func (c Case) judge(ctx context.Context) (string, error) {
	snap := cache.NewSnapshot(c.Pods, c.Nodes)
	factory := informers.NewSharedInformerFactory(nil, 0)
	for _, ns := range c.Namespaces {
		if err := factory.Core().V1().Namespaces().Informer().GetIndexer().Add(ns); err != nil {
			return "", fmt.Errorf("index namespace: %w", err)
		}
	}
	handle, err := frameworkruntime.NewFramework(ctx, nil, nil, frameworkruntime.WithSnapshotSharedLister(snap), frameworkruntime.WithInformerFactory(factory))
	if err != nil {
		return "", fmt.Errorf("make framework: %w", err)
	}
	nodes, err := snap.NodeInfos().List()
	if err != nil {
		return "", fmt.Errorf("list nodes: %w", err)
	}
	slices.SortFunc(nodes, func(a, b fwk.NodeInfo) int { return strings.Compare(a.Node().Name, b.Node().Name) })
	fits := make([]bool, len(nodes))
	for i := range fits {
		fits[i] = true
	}
	for _, p := range plugins() {
		made, err := p.make(ctx, p.args, handle)
		if err != nil {
			return "", fmt.Errorf("make plugin: %w", err)
		}
		if err := filter(ctx, made, c.Pod, nodes, fits); err != nil {
			return "", fmt.Errorf("%s: %w", made.Name(), err)
		}
	}
	var text strings.Builder
	for _, ok := range fits {
		text.WriteByte(map[bool]byte{true: '1', false: '0'}[ok])
	}
	return text.String(), nil
}

type plugin struct {
	args runtime.Object
	make func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error)
}

func plugins() []plugin {
	type factory func(context.Context, runtime.Object, fwk.Handle, feature.Features) (fwk.Plugin, error)
	features := feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate)
	with := func(args runtime.Object, f factory) plugin {
		return plugin{args, func(ctx context.Context, args runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
			return f(ctx, args, h, features)
		}}
	}
	return []plugin{
		with(nil, nodeunschedulable.New), with(nil, tainttoleration.New), with(nil, nodeports.New),
		with(&config.NodeAffinityArgs{}, nodeaffinity.New),
		with(&config.PodTopologySpreadArgs{DefaultingType: config.ListDefaulting}, podtopologyspread.New),
		with(&config.InterPodAffinityArgs{HardPodAffinityWeight: 1}, interpodaffinity.New),
	}
}

// filter asks one plugin about the nodes that fit so far.
func filter(ctx context.Context, p fwk.Plugin, pod *corev1.Pod, nodes []fwk.NodeInfo, fits []bool) error {
	state := framework.NewCycleState()
	var names map[string]bool
	if pre, ok := p.(fwk.PreFilterPlugin); ok {
		result, status := pre.PreFilter(ctx, state, pod, nodes)
		switch {
		case status.IsSkip():
			return nil
		case status.IsRejected():
			clear(fits)
			return nil
		case !status.IsSuccess():
			return fmt.Errorf("before filtering: %w", status.AsError())
		}
		if result != nil && !result.AllNodes() {
			names = map[string]bool{}
			for name := range result.NodeNames {
				names[name] = true
			}
		}
	}
	filters, ok := p.(fwk.FilterPlugin)
	if !ok {
		return fmt.Errorf("it filters nothing")
	}
	for i, n := range nodes {
		status := filters.Filter(ctx, state, pod, n)
		if !status.IsSuccess() && !status.IsRejected() {
			return fmt.Errorf("filter %s: %w", n.Node().Name, status.AsError())
		}
		fits[i] = fits[i] && status.IsSuccess() && (names == nil || names[n.Node().Name])
	}
	return nil
}
