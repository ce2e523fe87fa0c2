package jobflow

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

// probeTimeout bounds one try of a probe.
const probeTimeout = 2 * time.Second

// askTimeout bounds a probe of a whole task.
const askTimeout = 20 * time.Second

// ask tries a probe on the pods of a task. The answer is "" when as many answer as
// the task needs at least, and otherwise why not; it is given up as soon as too
// few are left. It blocks for askTimeout at most.
func (r *Reconciler) ask(ctx context.Context, namespace string, job *batch.Job, q Question) (string, error) {
	var list corev1.PodList
	err := r.Client.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{batch.JobNameKey: job.Name, batch.TaskSpecKey: q.Task})
	if err != nil {
		return "", fmt.Errorf("list pods: %w", err)
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return !metav1.IsControlledBy(&p, job) || p.Status.Phase != corev1.PodRunning || p.Status.PodIP == ""
	})
	need := int(least(job, q.Task))
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	why := fmt.Sprintf("task %s has %d running pods, and needs %d", q.Task, len(pods), need)
	for good, i := 0, 0; need-good <= len(pods)-i; i++ {
		if good == need {
			return "", nil
		}
		if err := try(ctx, net.JoinHostPort(pods[i].Status.PodIP, strconv.Itoa(q.Port)), q); err != nil {
			why = fmt.Sprintf("pod %s: %s", pods[i].Name, err)
			continue
		}
		good++
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
