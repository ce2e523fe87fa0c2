package main

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// tally counts writes by what they are about.
type tally struct {
	mu    sync.Mutex
	kinds map[string]int
}

// write is for a gate. Writes of queues are left out: they are there once a second
// for all Jobs together.
func (c *tally) write(_ int, method, path string) controllertest.Fault {
	if !strings.Contains(path, "/queues") {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.kinds[method+" "+kindOf(path)]++
	}
	return controllertest.None
}

// take gives the counts so far and begins anew.
func (c *tally) take() (total int, kinds map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kinds, c.kinds = c.kinds, map[string]int{}
	for n := range maps.Values(kinds) {
		total += n
	}
	return total, kinds
}

// kindOf is the resource that a path is about, and its subresource.
func kindOf(path string) string {
	words := strings.Split(path, "/")
	i := slices.Index(words, "namespaces")
	if i < 0 || i+2 >= len(words) {
		return path
	}
	kind := words[i+2]
	if len(words) > i+4 {
		kind += "/" + words[i+4]
	}
	return kind
}

// heap is what is alive on it, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers and pools held
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // no heap is that large
}

// Many short jobs, every tenth with all that plugins make: at most 3 writes a
// transition of a job, and afterwards nothing is left of them, in the cluster (but for
// events, which have their own time to live) or in the program. ISTHMUS_JOBS is how many; at
// most 200 are under way at a time.
func TestShortJobs(t *testing.T) {
	plane := shared(t)
	ns := plane.Namespace(t)
	jobs := number("ISTHMUS_JOBS", 50)
	plane.Play(t, ns, controllertest.Succeed)
	key, err := sshd.NewKey(sshd.ED25519) // to make one for each Job takes longer than all else
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string][]string{"svc": {}, "ssh": {"--ssh-private-key=" + string(key.PEM), "--ssh-public-key=" + key.Public()}}
	gate, writes := controllertest.NewGate(), &tally{kinds: map[string]int{}}
	gate.Decide = writes.write
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { defer close(stopped); life(t, plane, gate, stop) }()
	defer func() { close(stop); <-stopped }()
	run := func(from, to int) (controllertest.Figures, int, map[string]int) {
		ctx, cancel := context.WithTimeout(t.Context(), 75*time.Minute)
		defer cancel()
		figures, err := plane.RunShort(ctx, controllertest.Short{Namespace: ns, From: from, To: to, Window: 200, Plugins: objects})
		if err != nil {
			t.Fatal(err)
		}
		total, kinds := writes.take()
		began := time.Now()
		remove(t, plane, ns)
		t.Logf("%d jobs in %s, removed in %s", to-from, figures.Took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		writes.take()
		return figures, total, kinds
	}
	run(0, 5) // what is made once
	goroutines := runtime.NumGoroutine()
	run(5, 5+jobs/10)
	early := heap()
	figures, total, kinds := run(5+jobs/10, 5+jobs)
	jobs -= jobs / 10
	const transitions = 3 // to Pending, Running, Completed
	each := float64(total) / float64(jobs*transitions)
	if each > 3 {
		t.Errorf("%d writes for %d jobs, %.2f a transition, want at most 3: %v", total, jobs, each, kinds)
	}
	// Between a tenth and all of the Jobs: maps and queues keep the room that they once
	// needed, and client-go's recorder the two events of a Job for some minutes, 2 KiB.
	grown, may := int64(0), int64(8<<20+3<<10*jobs)
	controllertest.Eventually(t, time.Minute, func(context.Context) string {
		if n := runtime.NumGoroutine(); n > goroutines+20 {
			return fmt.Sprintf("%d goroutines, %d before", n, goroutines)
		}
		if grown = heap() - early; grown > may {
			return fmt.Sprintf("the heap has grown by %d bytes, may have by %d", grown, may)
		}
		return ""
	})
	t.Logf("%d jobs: %.2f writes a transition %v; half of the transitions within %s, 99 of 100 within %s; heap %+d KiB, goroutines %+d", jobs, each, kinds,
		figures.Quantile(0.5).Round(time.Millisecond), figures.Quantile(0.99).Round(time.Millisecond), grown>>10, runtime.NumGoroutine()-goroutines)
}

// remove deletes all Jobs and waits until nothing of them is left.
func remove(t *testing.T, plane *controllertest.Plane, ns string) {
	t.Helper()
	if err := plane.DeleteAll(t.Context(), ns, batch.SchemeGroupVersion.WithKind("JobList")); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, 30*time.Minute, func(ctx context.Context) string {
		for _, of := range []schema.GroupVersionKind{batch.SchemeGroupVersion.WithKind("Job"), scheduling.SchemeGroupVersion.WithKind("PodGroup"),
			corev1.SchemeGroupVersion.WithKind("Pod"), corev1.SchemeGroupVersion.WithKind("Service"), corev1.SchemeGroupVersion.WithKind("ConfigMap"),
			corev1.SchemeGroupVersion.WithKind("Secret"), networking.SchemeGroupVersion.WithKind("NetworkPolicy")} {
			list := kind(of.GroupVersion().WithKind(of.Kind + "List"))
			if err := plane.Client.List(ctx, list, client.InNamespace(ns), client.Limit(1)); err != nil {
				return err.Error()
			}
			if len(list.Items) > 0 {
				return fmt.Sprintf("%s %s is left", list.Kind, list.Items[0].Name)
			}
		}
		return ""
	})
}

func kind(k schema.GroupVersionKind) *metav1.PartialObjectMetadataList {
	l := &metav1.PartialObjectMetadataList{}
	l.SetGroupVersionKind(k)
	return l
}
