package jobflow_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/controllers/jobflow"
)

var plane *controllertest.Plane

func TestMain(m *testing.M) { os.Exit(controllertest.Main(m, &plane)) }

// On a real API server: a template that comes late, a probe that a server of the
// first job answers late, and Jobs that go when the flow is done.
func TestJobFlow(t *testing.T) {
	ns := plane.Namespace(t)
	plane.Run(t, ctrl.Options{}, func(ctx context.Context, mgr ctrl.Manager) error {
		r := &jobflow.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: mgr.GetEventRecorder(jobflow.Name), Now: time.Now}
		if err := r.SetupWithManager(ctx, mgr); err != nil {
			return err
		}
		return (&jobflow.Templates{Client: mgr.GetClient()}).SetupWithManager(ctx, mgr)
	})
	var up atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() || r.URL.Path != "/ready" || r.Header.Get("k") != "v" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	host, text, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	create := func(o client.Object) {
		t.Helper()
		if err := plane.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	template := func(name string) *flow.JobTemplate {
		return &flow.JobTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: batch.JobSpec{Tasks: []batch.TaskSpec{{Name: "w", Replicas: 1,
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}}}}}}
	}
	create(template("first"))
	create(&flow.JobFlow{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "f"}, Spec: flow.JobFlowSpec{JobRetainPolicy: flow.Delete, Flows: []flow.Flow{
		{Name: "first"},
		{Name: "second", DependsOn: &flow.DependsOn{Targets: []string{"first"}, Probe: &flow.Probe{
			HttpGetList:   []flow.HttpGet{{TaskName: "w", Path: "/ready", Port: port, HTTPHeader: corev1.HTTPHeader{Name: "k", Value: "v"}}},
			TcpSocketList: []flow.TcpSocket{{TaskName: "w", Port: port}}}}},
	}}})
	shows := func(jobs string, phase flow.Phase) {
		t.Helper()
		controllertest.Eventually(t, time.Minute, func(ctx context.Context) string {
			var list batch.JobList
			if err := plane.Client.List(ctx, &list, client.InNamespace(ns)); err != nil {
				return err.Error()
			}
			var names []string
			for _, j := range list.Items {
				names = append(names, j.Name)
			}
			slices.Sort(names)
			f := &flow.JobFlow{}
			if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: "f"}, f); err != nil {
				return err.Error()
			}
			if got := strings.Join(names, " "); got != jobs || f.Status.State.Phase != phase {
				return fmt.Sprintf("jobs %q, flow %+v; want %q, %s", got, f.Status, jobs, phase)
			}
			return ""
		})
	}
	set := func(name string, phase batch.JobPhase) {
		t.Helper()
		j := &batch.Job{}
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, j); err != nil {
			t.Fatal(err)
		}
		changed := j.DeepCopy()
		changed.Status.State = batch.JobState{Phase: phase, LastTransitionTime: metav1.Now()}
		if err := plane.Client.Status().Patch(t.Context(), changed, client.MergeFrom(j)); err != nil {
			t.Fatal(err)
		}
	}
	shows("f-first", flow.Pending)
	first := &batch.Job{}
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "f-first"}, first); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "f-first-w-0", Labels: map[string]string{batch.JobNameKey: "f-first", batch.TaskSpecKey: "w"},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(first, batch.SchemeGroupVersion.WithKind("Job"))}},
		Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}}
	create(pod)
	running := pod.DeepCopy()
	running.Status.Phase, running.Status.PodIP, running.Status.PodIPs = corev1.PodRunning, host, []corev1.PodIP{{IP: host}}
	if err := plane.Client.Status().Patch(t.Context(), running, client.MergeFrom(pod)); err != nil {
		t.Fatal(err)
	}
	set("f-first", batch.Running)
	shows("f-first", flow.Running)
	up.Store(true)
	create(template("second")) // the flow may have waited for it, or for the probe
	shows("f-first f-second", flow.Running)
	made := func(want string) {
		t.Helper()
		controllertest.Eventually(t, time.Minute, func(ctx context.Context) string {
			list := &flow.JobTemplateList{}
			if err := plane.Client.List(ctx, list, client.InNamespace(ns)); err != nil {
				return err.Error()
			}
			got := ""
			for i := range list.Items {
				got += fmt.Sprint(list.Items[i].Name, list.Items[i].Status.JobDependsOnList)
			}
			if got != want {
				return fmt.Sprintf("templates %s, want %s", got, want)
			}
			return ""
		})
	}
	made("first[f-first]second[f-second]")
	set("f-first", batch.Completed)
	set("f-second", batch.Completed)
	shows("", flow.Succeed)
	made("first[]second[]")
	// While something holds it back, a flow that is deleted says so.
	held := &flow.JobFlow{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "f"}}
	finalizers := func(text string) {
		t.Helper()
		if err := plane.Client.Patch(t.Context(), held.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":`+text+`}}`))); err != nil {
			t.Fatal(err)
		}
	}
	finalizers(`["example.org/hold"]`)
	if err := plane.Client.Delete(t.Context(), held.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	shows("", flow.Terminating)
	finalizers("null")
}
