package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/test/testbed/helm"
)

const chartNamespace = "isthmus-system"

// grant gives the service accounts the roles of the chart with its default values, and
// returns a kubeconfig of that of the controllers.
func grant(t *testing.T, plane *controllertest.Plane) string {
	t.Helper()
	objects, err := helm.Template(t.Context(), t.Output(), chartNamespace, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := plane.Client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: chartNamespace}}); err != nil {
		t.Fatal(err)
	}
	roles := 0
	for _, o := range objects {
		if !strings.HasPrefix(o.GetAPIVersion(), "rbac.authorization.k8s.io/") {
			continue
		}
		roles++
		if err := plane.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if roles == 0 {
		t.Fatal("the chart has no roles")
	}
	config, err := clientcmd.LoadFromFile(plane.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		user.Impersonate = "system:serviceaccount:" + chartNamespace + ":isthmus-controllers"
		user.ImpersonateGroups = []string{"system:serviceaccounts", "system:serviceaccounts:" + chartNamespace, "system:authenticated"}
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// The rights that the chart gives by default, without HyperNodes, are enough for what the
// program does by default: nothing asks for more, such as to list nodes, and waits for
// it. A step that is queued early is made, for which the node of the first is read, and a
// Dataset is copied.
func TestDefaultRights(t *testing.T) {
	plane, err := controllertest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	cmd := command(keepLogger)
	cmd.SetArgs([]string{"--kubeconfig=" + grant(t, plane), "--leader-election-namespace=" + chartNamespace, "--health-probe-bind-address=0", "--metrics-bind-address=0",
		"--vnode-user=system:serviceaccount:" + chartNamespace + ":isthmus-vnode"})
	go func() { done <- cmd.ExecuteContext(ctx) }()

	ns := plane.Namespace(t)
	plane.Play(t, ns, controllertest.Run)
	task := batch.TaskSpec{Name: "w", Replicas: 1, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}}}
	first := *task.DeepCopy()
	first.Template.Annotations = map[string]string{wellknown.GangAttempt: "one", wellknown.GangSize: "1"} // as if a scheduler had bound it
	for _, o := range []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "fake", Labels: map[string]string{wellknown.Cluster: "hpc"}}}, // where players bind
		&flow.JobTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "first"}, Spec: batch.JobSpec{Tasks: []batch.TaskSpec{first}}},
		&flow.JobTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "second"}, Spec: batch.JobSpec{Tasks: []batch.TaskSpec{task}}},
		&flow.JobFlow{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "f", Annotations: map[string]string{wellknown.QueueEarly: "true"}},
			Spec: flow.JobFlowSpec{JobRetainPolicy: flow.Retain, Flows: []flow.Flow{{Name: "first"}, {Name: "second", DependsOn: &flow.DependsOn{Targets: []string{"first"}}}}}},
		copied(ns),
		&scheduling.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "waits", Annotations: map[string]string{wellknown.Staging: `{"d":"hpc"}`}},
			Spec: scheduling.PodGroupSpec{MinMember: 1}},
	} {
		if err := plane.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	controllertest.Eventually(t, 2*time.Minute, func(ctx context.Context) string {
		// The first runs for ever, so the second is made early or never.
		if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: "f-second"}, &batch.Job{}); err != nil {
			return err.Error()
		}
		d := &hpc.Dataset{}
		if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: "d"}, d); err != nil {
			return err.Error()
		}
		if len(d.Status.Copies) != 1 || d.Status.Copies[0].Phase != hpc.CopyCopying {
			return fmt.Sprintf("the copies of Dataset d are %+v", d.Status.Copies)
		}
		return ""
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}
