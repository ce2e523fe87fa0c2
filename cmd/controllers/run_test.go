package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	coordination "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// The program as it is shipped: it becomes the leader, makes the queues, brings
// a job to its end, answers its probes, and ends without an error when asked to.
func TestRun(t *testing.T) {
	plane, err := controllertest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)
	health := freeAddress(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	cmd := command(keepLogger)
	cmd.SetArgs([]string{"--kubeconfig=" + plane.Kubeconfig, "--health-probe-bind-address=" + health, "--metrics-bind-address=127.0.0.1:0"})
	go func() { done <- cmd.ExecuteContext(ctx) }()

	ns := plane.Namespace(t)
	plane.Play(t, ns, controllertest.Succeed)
	job := &batch.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "hello"},
		Spec: batch.JobSpec{
			Plugins: map[string][]string{"env": {}, "svc": {}},
			Tasks: []batch.TaskSpec{{Replicas: 2, Template: corev1.PodTemplateSpec{
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}}}},
		},
	}
	if err := plane.Client.Create(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, time.Minute, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(job), job); err != nil {
			return err.Error()
		}
		queue := &scheduling.Queue{}
		if err := plane.Client.Get(ctx, client.ObjectKey{Name: "default"}, queue); err != nil {
			return err.Error()
		}
		lease := &coordination.Lease{}
		if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: "kube-system", Name: "isthmus-controllers"}, lease); err != nil {
			return err.Error()
		}
		if job.Status.State.Phase != batch.Completed || job.Status.TaskStatusCount["default0"].Phase[corev1.PodSucceeded] != 2 {
			return fmt.Sprintf("job %+v", job.Status)
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+health+path, nil)
			if err != nil {
				return err.Error()
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return err.Error()
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				return path + ": " + res.Status
			}
		}
		return ""
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}
