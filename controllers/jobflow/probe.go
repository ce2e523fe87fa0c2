package jobflow

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

// probeTimeout bounds one try of a probe.
const probeTimeout = 2 * time.Second

// ask tries a probe on the pods of a task. The answer is "" when as many answer as
// the task needs at least, and otherwise why not. It blocks for probeTimeout a pod
// at most.
func (r *Reconciler) ask(ctx context.Context, namespace string, job *batch.Job, q Question) (string, error) {
	var pods corev1.PodList
	err := r.Client.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{batch.JobNameKey: job.Name, batch.TaskSpecKey: q.Task})
	if err != nil {
		return "", fmt.Errorf("list pods: %w", err)
	}
	need, good := least(job, q.Task), int32(0)
	why := fmt.Sprintf("task %s has no running pod", q.Task)
	for i := range pods.Items {
		pod := &pods.Items[i]
		if !metav1.IsControlledBy(pod, job) || pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP == "" {
			continue
		}
		if err := try(ctx, net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(q.Port)), q); err != nil {
			why = fmt.Sprintf("pod %s: %s", pod.Name, err)
			continue
		}
		if good++; good >= need {
			return "", nil
		}
	}
	return why, nil
}

// try makes one connection or request. Like a kubelet's probe it follows no
// redirect and takes any status below 400 as an answer.
func try(ctx context.Context, address string, q Question) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if q.TCP {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		return c.Close()
	}
	path := q.Path
	if path == "" || path[0] != '/' {
		path = "/" + path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if q.Header != "" {
		req.Header.Set(q.Header, q.Value)
	}
	c := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	_ = res.Body.Close() // what it says does not matter
	if res.StatusCode >= http.StatusBadRequest {
		return errors.New(res.Status)
	}
	return nil
}
