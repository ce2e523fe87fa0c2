package controllertest

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// Script says what becomes of a pod that is bound: the phase it is to have and,
// for Failed, the exit code of its container. A phase is only ever moved on.
type Script func(pod *corev1.Pod) (corev1.PodPhase, int32)

// Succeed is the script of pods that run and end well.
func Succeed(*corev1.Pod) (corev1.PodPhase, int32) { return corev1.PodSucceeded, 0 }

// Run is the script of pods that run for ever.
func Run(*corev1.Pod) (corev1.PodPhase, int32) { return corev1.PodRunning, 0 }

// Play runs a scheduler and a kubelet in one namespace until the test ends.
// The scheduler admits every PodGroup and binds every pod of an admitted one;
// the kubelet follows the script and ends pods that are deleted.
func (p *Plane) Play(t testing.TB, namespace string, script Script) {
	t.Helper()
	stop, err := p.StartPlay(context.WithoutCancel(t.Context()), namespace, script, func(err error) { t.Errorf("player: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// StartPlay is Play outside of tests, until stop returns. It tells what goes wrong
// but for what others did to an object meanwhile.
func (p *Plane) StartPlay(ctx context.Context, namespace string, script Script, wrong func(error)) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	groups := &moving[*scheduling.PodGroup]{by: map[types.UID]*scheduling.PodGroup{}}
	pods := &moving[*corev1.Pod]{by: map[types.UID]*corev1.Pod{}}
	forget, err := p.inform(ctx, namespace, map[client.Object]toolscache.ResourceEventHandlerFuncs{
		&scheduling.PodGroup{}: groups.handler(func(g *scheduling.PodGroup) bool { return g.Status.Phase != scheduling.PodGroupPending }),
		&corev1.Pod{}:          pods.handler(func(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil && finished(pod) }),
	})
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(30 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			p.play(ctx, groups.all(), pods.all(), script, func(err error) {
				// What was seen may be older than what is.
				if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
					wrong(err)
				}
			})
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	return func() { cancel(); <-done; forget() }, nil
}

// players is how many writes of a player are under way at a time.
const players = 8

func (p *Plane) play(ctx context.Context, groups []*scheduling.PodGroup, pods []*corev1.Pod, script Script, told func(error)) {
	var g errgroup.Group
	g.SetLimit(players)
	for _, pg := range groups {
		g.Go(func() error { told(p.SetPodGroupPhase(ctx, pg, scheduling.PodGroupInqueue)); return nil })
	}
	for _, pod := range pods {
		phase, code := pod.Status.Phase, int32(0)
		if pod.DeletionTimestamp == nil && pod.Spec.NodeName != "" {
			phase, code = script(pod) // scripts are not made for several goroutines
		}
		g.Go(func() error { told(p.step(ctx, pod, phase, code)); return nil })
	}
	_ = g.Wait() // all was told
}

// SetPodGroupPhase does what a scheduler does to a PodGroup.
func (p *Plane) SetPodGroupPhase(ctx context.Context, pg *scheduling.PodGroup, phase scheduling.PodGroupPhase) error {
	changed := pg.DeepCopy()
	changed.Status.Phase = phase
	return p.Client.Patch(ctx, changed, client.MergeFromWithOptions(pg, client.MergeFromWithOptimisticLock{}))
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// step moves one pod one step on: bind, run, end, or go.
func (p *Plane) step(ctx context.Context, pod *corev1.Pod, phase corev1.PodPhase, code int32) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return p.Client.Delete(ctx, pod, &client.DeleteOptions{
			GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	case pod.Spec.NodeName == "":
		return p.Client.SubResource("binding").Create(ctx, pod, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: "fake"},
		})
	case finished(pod), phase == corev1.PodPending, phase == pod.Status.Phase:
		return nil
	case pod.Status.Phase == corev1.PodPending:
		phase, code = corev1.PodRunning, 0 // pods run before they end
	}
	return p.SetPod(ctx, pod, phase, code)
}

// SetPod does what a kubelet does to a pod's status.
func (p *Plane) SetPod(ctx context.Context, pod *corev1.Pod, phase corev1.PodPhase, code int32) error {
	changed := pod.DeepCopy()
	changed.Status.Phase = phase
	state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
	if phase == corev1.PodSucceeded || phase == corev1.PodFailed {
		state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.Now()}}
	}
	changed.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: pod.Spec.Containers[0].Name, State: state}}
	return p.Client.Status().Patch(ctx, changed, client.MergeFromWithOptions(pod, client.MergeFromWithOptimisticLock{}))
}
