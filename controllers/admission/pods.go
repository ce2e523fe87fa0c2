package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

const (
	// mostTasks bounds how many templates are tried; the pods of the others are
	// refused when they are made.
	mostTasks = 32
	// triedAtOnce bounds the dry runs of one request.
	triedAtOnce = 4
)

// pods says which pod templates the API server refuses. Nobody knows its rules
// better, so it is asked: a dry run makes nothing. Only what is wrong with the pod
// itself counts; a quota, say, may let it in later.
func (v *Validator) pods(ctx context.Context, job *batch.Job) ([]string, error) {
	tasks := job.Spec.Tasks[:min(len(job.Spec.Tasks), mostTasks)]
	found := make([][]string, len(tasks))
	var group errgroup.Group
	group.SetLimit(triedAtOnce)
	for i := range tasks {
		group.Go(func() error {
			err := v.Live.Create(ctx, podOf(job, &tasks[i]), client.DryRunAll)
			if apierrors.IsInvalid(err) {
				found[i] = complaints(err, fmt.Sprintf("spec.tasks[%d].template.", i))
				return nil
			}
			if ctx.Err() != nil {
				return fmt.Errorf("try the pods: %w", ctx.Err())
			}
			return nil // a refusal of another kind is for those who make pods
		})
	}
	err := group.Wait()
	var out []string
	for _, f := range found {
		out = append(out, f...)
	}
	return out, err
}

func podOf(job *batch.Job, task *batch.TaskSpec) *corev1.Pod {
	t := task.Template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: job.Namespace, GenerateName: "try-", Labels: t.Labels, Annotations: t.Annotations},
		Spec:       t.Spec,
	}
	pod.Spec.SchedulerName = job.Spec.SchedulerName
	pod.Spec.NodeName = "" // tried for its form; who may place it is asked when it is made
	return pod
}

// complaints words the API server's refusal of a pod for the Job that holds it.
func complaints(err error, prefix string) []string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return []string{strings.TrimSuffix(prefix, ".") + ": " + err.Error()}
	}
	var out []string
	if d := status.Status().Details; d != nil {
		for _, c := range d.Causes {
			if c.Field != "" {
				out = append(out, fmt.Sprintf("%s%s: %s", prefix, c.Field, c.Message))
			}
		}
	}
	if len(out) == 0 {
		return []string{strings.TrimSuffix(prefix, ".") + ": " + status.Status().Message}
	}
	return out
}
