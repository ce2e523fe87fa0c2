// Command tenants measures what a namespace that floods costs another one: the
// time from a pod's creation to the submission of its job, alone and while 3000
// pods of the other namespace wait to be submitted. The batch system is the fake
// one, with a submission that takes 20 ms and at most 8 at a time.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

const node = "perf-main"

func main() {
	flood := flag.Int("flood", 3000, "pods of the namespace that floods")
	pods := flag.Int("pods", 100, "pods of the other, one every 100 ms")
	rounds := flag.Int("rounds", 3, "rounds")
	flag.Parse()
	var ratios []float64
	for round := range *rounds {
		var p99 [2]time.Duration
		order := []int{0, *flood}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, n := range order {
			took, between, err := measure(context.Background(), n, *pods)
			if err != nil {
				fmt.Fprintln(os.Stderr, "tenants:", err)
				os.Exit(1)
			}
			half, most := took[len(took)/2], took[len(took)*99/100]
			what := "alone"
			if n > 0 {
				what = fmt.Sprintf("beside a flood of %d (%d of it submitted meanwhile)", n, between)
				p99[1] = most
			} else {
				p99[0] = most
			}
			fmt.Printf("tenants: %d pods %s: median %s, p99 %s from creation to submission\n", len(took), what, half.Round(time.Millisecond), most.Round(time.Millisecond))
		}
		ratios = append(ratios, float64(p99[1])/float64(p99[0]))
	}
	slices.Sort(ratios)
	fmt.Printf("tenants: p99 beside a flood by that alone: median %.2f, extremes %.2f to %.2f (goal: at most 2)\n", ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1])
}

// slow is a batch system as a command line makes it: few submissions at a time.
type slow struct {
	*fake.System
	places chan struct{}

	mu   sync.Mutex
	done map[backends.Key]time.Time
}

// Submit implements backends.Backend.
func (s *slow) Submit(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
	s.places <- struct{}{}
	defer func() { <-s.places }()
	<-time.After(20 * time.Millisecond)
	id, err := s.System.Submit(ctx, spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[spec.Key] = time.Now()
	return id, err
}

// anywhere knows every namespace.
type anywhere struct{ providertest.Objects }

// NamespaceLabels implements provider.Objects.
func (anywhere) NamespaceLabels(string) (map[string]string, bool) { return map[string]string{}, true }

func pod(namespace string, i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("p%d", i), UID: types.UID(fmt.Sprintf("%s-%d", namespace, i))},
		Spec: corev1.PodSpec{NodeName: node, RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "main", Image: "none", Command: []string{"/bin/true"},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
}

// measure gives the times of the pods, sorted, and how many of the flood were
// submitted while they came.
func measure(ctx context.Context, flood, pods int) (took []time.Duration, between int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	api := providertest.NewAPI()
	system := &slow{System: fake.New(fake.Uniform((flood+pods)/64+1, 64, 512<<10, "a100", 8)), places: make(chan struct{}, 8), done: map[backends.Key]time.Time{}}
	bridge := provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "perf"},
			Spec: hpcv1alpha1.BatchClusterSpec{
				Type: "slurm", Accounts: []hpcv1alpha1.Account{{User: "alice"}},
				Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost}, Staging: hpcv1alpha1.Staging{Directory: "/staging"},
			},
		},
		Owner: "perf", Launcher: "slurm", Backend: system, Stager: providertest.NewStager(), Pods: api, Objects: anywhere{}, Log: logr.Discard(),
	})
	bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: node, Partition: "main", MaxPodsPending: 100_000}})
	wake := func() {
		select {
		case bridge.Wake <- struct{}{}:
		default:
		}
	}
	run, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { bridge.Run(run, 5*time.Second, 5*time.Second, func(context.Context, bool) {}) })
	defer running.Wait()
	defer stop()
	for i := range flood {
		api.Create(pod("flood", i))
	}
	wake()
	begun := time.Now()
	created := map[types.UID]time.Time{}
	beat := time.NewTicker(100 * time.Millisecond)
	defer beat.Stop()
	for i := range pods {
		<-beat.C
		p := pod("quiet", i)
		created[p.UID] = time.Now()
		api.Create(p)
		wake()
	}
	for {
		took, between = took[:0], 0
		var last time.Time
		system.mu.Lock()
		for _, p := range api.List() {
			at, ok := system.done[backends.Key(p.Annotations[wellknown.SubmitIntent])]
			if begin, quiet := created[p.UID]; quiet && ok {
				took = append(took, at.Sub(begin))
				if at.After(last) {
					last = at
				}
			}
		}
		for _, at := range system.done {
			if at.After(begun) && at.Before(last) {
				between++
			}
		}
		system.mu.Unlock()
		if len(took) == pods {
			slices.Sort(took)
			return took, between - pods + 1, nil
		}
		select {
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("%d of %d pods were submitted: %w", len(took), pods, ctx.Err())
		case <-beat.C:
		}
	}
}
