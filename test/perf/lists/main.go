// Command lists measures what a tick of the virtual kubelet costs with 500 live
// pods: list calls to the batch system, and processor time. The batch system is
// the fake one, so that only our own work counts.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends/fake"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

func main() {
	pods := flag.Int("pods", 500, "live pods, each a job of its own")
	ticks := flag.Int("ticks", 20, "ticks to measure")
	flag.Parse()
	if err := measure(*pods, *ticks); err != nil {
		fmt.Fprintln(os.Stderr, "lists:", err)
		os.Exit(1)
	}
}

func measure(pods, ticks int) error {
	ctx := context.Background()
	api := providertest.NewAPI()
	system := fake.New(fake.Uniform(pods/8+1, 64, 512<<10, "a100", 8))
	bridge := provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "perf"},
			Spec: hpcv1alpha1.BatchClusterSpec{
				Type: "slurm", Accounts: []hpcv1alpha1.Account{{User: "alice"}},
				Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost}, Staging: hpcv1alpha1.Staging{Directory: "/staging"},
			},
		},
		Owner: "perf", Launcher: "slurm", Backend: system, Stager: providertest.NewStager(), Pods: api,
		Objects: providertest.Objects{}, Log: logr.Discard(),
	})
	bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: "perf-main", Partition: "main", MaxPodsPending: 10_000}})
	for i := range pods {
		api.Create(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("p%d", i), UID: types.UID(fmt.Sprintf("uid-%d", i))},
			Spec: corev1.PodSpec{NodeName: "perf-main", RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
				Name: "main", Image: "none", Command: []string{"/bin/true"},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
			}}},
			Status: corev1.PodStatus{Phase: corev1.PodPending},
		})
	}
	for range 4 { // submitted and running
		bridge.Pass(ctx, true)
		bridge.Wait()
		system.Advance(5 * time.Second)
	}
	running := 0
	for _, j := range system.Jobs() {
		if !j.State.Terminal() && !j.Held {
			running++
		}
	}
	if running != pods {
		return fmt.Errorf("%d of %d jobs run", running, pods)
	}
	before, cpu := system.Calls()[fake.OpObserve], processorTime()
	for range ticks {
		bridge.Pass(ctx, true)
		bridge.Wait()
		system.Advance(5 * time.Second)
	}
	calls := system.Calls()[fake.OpObserve] - before
	fmt.Printf("lists: %d live pods: %.2f list calls a tick, %.1f ms of processor time a tick\n",
		pods, float64(calls)/float64(ticks), float64((processorTime()-cpu).Microseconds())/1000/float64(ticks))
	return nil
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
