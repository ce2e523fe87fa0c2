// Command jobs measures what the controllers make of many short Jobs: the shipped
// program on a real API server and etcd, against the same client that makes and ends
// the same pods without Jobs, in the same run. It prints times, their ratio, the time
// from a cause to the Job's phase, writes, and what is left in the program when all
// Jobs are gone. It asserts nothing.
//
//	go run ./test/perf/jobs -jobs 10000 -rounds 1
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/test/testbed/measuring"
)

const namespace = "short"

type load struct {
	jobs, window, rounds int
	qps                  float64
	plane                *controllertest.Plane
	program              *program
	next                 int // number of the next object
}

func main() {
	l := &load{}
	flag.IntVar(&l.jobs, "jobs", 300, "Jobs of one pod a round")
	flag.IntVar(&l.window, "window", 100, "that are under way at a time, for both ways")
	flag.IntVar(&l.rounds, "rounds", 3, "times each way is measured, in turn")
	flag.Float64Var(&l.qps, "qps", 10000, "requests a second that the controllers allow themselves")
	flag.Parse()
	ctrl.SetLogger(logr.Discard())
	measuring.Main("jobs", func(ctx context.Context) error { return run(ctx, l) })
}

func run(ctx context.Context, l *load) (err error) {
	if l.plane, err = controllertest.Start(); err != nil {
		return err
	}
	defer l.plane.Stop()
	if err := l.plane.StartGarbageCollector(); err != nil {
		return err
	}
	if err := l.plane.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	if l.program, err = startProgram(ctx, l.plane.Kubeconfig, l.qps); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.program.stop()) }()
	stopPlay, err := l.plane.StartPlay(ctx, namespace, controllertest.Succeed, func(err error) { fmt.Fprintln(os.Stderr, "player:", err) })
	if err != nil {
		return err
	}
	defer stopPlay()
	// What is made once is not measured.
	if _, err := l.measure(ctx, 10, false); err != nil {
		return err
	}
	return l.compare(ctx)
}

// compare measures both ways, in turn and in both orders, so that a machine that
// slows down favours neither.
func (l *load) compare(ctx context.Context) error {
	before, err := l.program.look(ctx)
	if err != nil {
		return err
	}
	var bare, ours []time.Duration
	for round := range l.rounds {
		ways := []bool{true, false}
		if round%2 == 1 {
			slices.Reverse(ways)
		}
		for _, isBare := range ways {
			took, err := l.measure(ctx, l.jobs, isBare)
			if err != nil {
				return err
			}
			if isBare {
				bare = append(bare, took)
			} else {
				ours = append(ours, took)
			}
		}
	}
	after, err := l.program.look(ctx)
	if err != nil {
		return err
	}
	slices.Sort(bare)
	slices.Sort(ours)
	last := l.rounds - 1
	fmt.Printf("Jobs take %.1f times as long as their pods alone (extremes %.1f to %.1f)\n", ours[l.rounds/2].Seconds()/bare[l.rounds/2].Seconds(),
		ours[0].Seconds()/bare[last].Seconds(), ours[last].Seconds()/bare[0].Seconds())
	fmt.Printf("controllers before and after, with all Jobs gone: %.0f and %.0f goroutines, %.0f and %.0f MiB of heap in use, %.0f and %.0f MiB resident\n",
		before.goroutines, after.goroutines, before.heap/mib, after.heap/mib, before.resident/mib, after.resident/mib)
	return nil
}

const mib = 1 << 20

// measure runs one load and removes all of it.
func (l *load) measure(ctx context.Context, jobs int, bare bool) (time.Duration, error) {
	before, err := l.program.look(ctx)
	if err != nil {
		return 0, err
	}
	figures, err := l.plane.RunShort(ctx, controllertest.Short{Namespace: namespace, From: l.next, To: l.next + jobs, Window: l.window, Bare: bare})
	if err != nil {
		return 0, err
	}
	l.next += jobs
	after, err := l.program.look(ctx)
	if err != nil {
		return 0, err
	}
	rate := float64(jobs) / figures.Took.Seconds()
	if bare {
		fmt.Printf("pods alone %8.2f s  %6.1f/s\n", figures.Took.Seconds(), rate)
	} else {
		const transitions = 3 // to Pending, Running, Completed
		fmt.Printf("Jobs       %8.2f s  %6.1f/s; transition: half within %d ms, 99 of 100 within %d ms; %.2f writes each, with events and those of queues; controllers' processor time %.1f ms a Job\n",
			figures.Took.Seconds(), rate, figures.Quantile(0.5).Milliseconds(), figures.Quantile(0.99).Milliseconds(),
			(after.writes-before.writes)/float64(jobs*transitions), 1000*(after.processor-before.processor)/float64(jobs))
	}
	return figures.Took, l.remove(ctx)
}

// remove deletes everything and waits until it is gone.
func (l *load) remove(ctx context.Context) error {
	for _, kind := range []schema.GroupVersionKind{batch.SchemeGroupVersion.WithKind("JobList"), corev1.SchemeGroupVersion.WithKind("PodList")} {
		if err := l.plane.DeleteAll(ctx, namespace, kind); err != nil {
			return err
		}
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := l.left(ctx)
		if err != nil || left == "" {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is left: %w", left, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// left names one object that is still there.
func (l *load) left(ctx context.Context) (string, error) {
	for group, kind := range map[string]string{"batch.volcano.sh/v1alpha1": "JobList", "v1": "PodList", "scheduling.volcano.sh/v1beta1": "PodGroupList"} {
		list := &metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{APIVersion: group, Kind: kind}}
		if err := l.plane.Client.List(ctx, list, client.InNamespace(namespace), client.Limit(1)); err != nil {
			return "", fmt.Errorf("look for what is left: %w", err)
		}
		if len(list.Items) > 0 {
			return list.Kind + " " + list.Items[0].Name, nil
		}
	}
	return "", nil
}
