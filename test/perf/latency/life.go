package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

const (
	partition = "a"
	node      = "latency-a"
	// patience is how long the last pod may take.
	patience = 2 * time.Minute
)

// life is what happened to a pod, and when.
type life struct {
	bound, released, ended, told time.Time
	batch                        time.Duration // that sbatch and scontrol took
}

// watcher notes what the bridge does to pods and jobs.
type watcher struct {
	mu    sync.Mutex
	lives map[types.UID]*life
	of    map[backends.Key]types.UID
	told  int
}

type watchedPods struct {
	provider.PodAPI
	*watcher
}

type watchedJobs struct {
	backends.Backend
	*watcher
}

// WriteIntent implements provider.PodAPI.
func (p watchedPods) WriteIntent(ctx context.Context, pod *corev1.Pod, key backends.Key) (*corev1.Pod, error) {
	p.mu.Lock()
	p.of[key] = pod.UID
	p.mu.Unlock()
	return p.PodAPI.WriteIntent(ctx, pod, key)
}

// PatchStatus implements provider.PodAPI.
func (p watchedPods) PatchStatus(ctx context.Context, pod *corev1.Pod, patch []byte) (*corev1.Pod, error) {
	out, err := p.PodAPI.PatchStatus(ctx, pod, patch)
	if err != nil || out.Status.Phase != corev1.PodSucceeded && out.Status.Phase != corev1.PodFailed {
		return out, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.lives[pod.UID]; l.told.IsZero() {
		l.told = time.Now()
		p.watcher.told++
	}
	return out, nil
}

// Submit implements backends.Backend.
func (j watchedJobs) Submit(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
	start := time.Now()
	id, err := j.Backend.Submit(ctx, spec)
	j.spent(spec.Key, time.Since(start), false)
	return id, err
}

// Release implements backends.Backend.
func (j watchedJobs) Release(ctx context.Context, ref backends.JobRef) error {
	start := time.Now()
	err := j.Backend.Release(ctx, ref)
	j.spent(ref.Key, time.Since(start), err == nil)
	return err
}

func (w *watcher) spent(key backends.Key, took time.Duration, released bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.lives[w.of[key]]
	l.batch += took
	if released && l.released.IsZero() {
		l.released = time.Now()
	}
}

// lead runs the pods on the cluster, each bound at a random moment of a tick, and
// gives what became of them.
func (l load) lead(ctx context.Context, cluster *testbed.Cluster, podrun, marks string) ([]*life, error) {
	runner := local.New()
	system, err := slurm.New(slurm.Config{Runner: runner, Env: cluster.Env()})
	if err != nil {
		return nil, err
	}
	digest, err := staging.DigestOf(podrun)
	if err != nil {
		return nil, err
	}
	api, w := providertest.NewAPI(), &watcher{lives: map[types.UID]*life{}, of: map[backends.Key]types.UID{}}
	bridge := provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "latency"},
			Spec: hpcv1alpha1.BatchClusterSpec{
				Type: "slurm", Accounts: []hpcv1alpha1.Account{{User: account.Alice}},
				Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost}, Staging: hpcv1alpha1.Staging{Directory: cluster.StagingDir},
			},
		},
		Owner: "latency", Launcher: "slurm", Backend: watchedJobs{system, w}, Pods: watchedPods{api, w}, Objects: providertest.Objects{},
		Stager: &staging.Client{Runner: runner, Podrun: podrun, Digest: digest, Directory: cluster.StagingDir}, Log: logr.Discard(),
	})
	bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: node, Partition: partition, MaxPodsPending: 10_000}})
	running, stop := context.WithCancel(ctx)
	var loop sync.WaitGroup
	loop.Go(func() { bridge.Run(running, l.tick, 30*time.Second, func(context.Context, bool) {}) })
	defer loop.Wait()
	defer stop()

	var order []*life
	for i := range l.pods {
		uid := types.UID(fmt.Sprintf("uid-p%d", i))
		p := &life{bound: time.Now()}
		w.mu.Lock()
		w.lives[uid] = p
		w.mu.Unlock()
		order = append(order, p)
		api.Create(pod(i, uid, marks))
		select {
		case bridge.Wake <- struct{}{}:
		default:
		}
		if err := pause(ctx, time.Duration(500+rand.IntN(1000))*time.Millisecond); err != nil { //nolint:gosec // no secret
			return nil, err
		}
	}
	for end := time.Now().Add(patience); ; {
		w.mu.Lock()
		told := w.told
		w.mu.Unlock()
		if told == l.pods {
			break
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%d of %d pods have ended; events: %v", told, l.pods, api.Events())
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	for i, p := range order {
		raw, err := os.ReadFile(filepath.Join(marks, strconv.Itoa(i))) //nolint:gosec // our own directory
		if err != nil {
			return nil, fmt.Errorf("when pod %d ended: %w; events: %v", i, err, api.Events())
		}
		at, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("when pod %d ended: %w", i, err)
		}
		p.ended = time.Unix(0, at)
	}
	return order, nil
}

// pod runs for a second and notes its end.
func pod(i int, uid types.UID, marks string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("p%d", i), UID: uid},
		Spec: corev1.PodSpec{NodeName: node, RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "main", Image: "none", Command: []string{"/bin/sh", "-c", `sleep 1; date +%s%N >"$0"`, filepath.Join(marks, strconv.Itoa(i))},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("64Mi")}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
