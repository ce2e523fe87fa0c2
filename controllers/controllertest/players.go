package controllertest

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(30 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := p.play(ctx, namespace, script); err != nil && ctx.Err() == nil &&
				!apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				t.Errorf("player: %v", err)
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func (p *Plane) play(ctx context.Context, namespace string, script Script) error {
	var groups scheduling.PodGroupList
	if err := p.Client.List(ctx, &groups, client.InNamespace(namespace)); err != nil {
		return err
	}
	for i := range groups.Items {
		if pg := &groups.Items[i]; pg.Status.Phase == scheduling.PodGroupPending {
			if err := p.SetPodGroupPhase(ctx, pg, scheduling.PodGroupInqueue); err != nil {
				return err
			}
		}
	}
	var pods corev1.PodList
	if err := p.Client.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
		return err
	}
	for i := range pods.Items {
		if err := p.step(ctx, &pods.Items[i], script); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

// SetPodGroupPhase does what a scheduler does to a PodGroup.
func (p *Plane) SetPodGroupPhase(ctx context.Context, pg *scheduling.PodGroup, phase scheduling.PodGroupPhase) error {
	changed := pg.DeepCopy()
	changed.Status.Phase = phase
	return p.Client.Patch(ctx, changed, client.MergeFrom(pg))
}

// step moves one pod one step on: bind, run, end, or go.
func (p *Plane) step(ctx context.Context, pod *corev1.Pod, script Script) error {
	finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	switch {
	case pod.DeletionTimestamp != nil:
		return p.Client.Delete(ctx, pod, &client.DeleteOptions{
			GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	case pod.Spec.NodeName == "":
		return p.Client.SubResource("binding").Create(ctx, pod, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: "fake"},
		})
	case finished:
		return nil
	}
	phase, code := script(pod)
	if phase == corev1.PodPending || phase == pod.Status.Phase {
		return nil
	}
	if pod.Status.Phase == corev1.PodPending {
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
