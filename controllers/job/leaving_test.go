package job_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/controllers/job"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/env"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/svc"
)

// TestNamespaceIsDeleted: a Job in a namespace that is being deleted floods no log and says of
// itself nothing that its owner could mend.
func TestNamespaceIsDeleted(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	j := newJob(ns, "late", 2)
	j.Spec.Plugins = map[string][]string{"svc": {}}
	create(t, j)
	if err := plane.Client.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var told, failed []string
	log := funcr.New(func(prefix, args string) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(args, `"level"`) && strings.Contains(args, "is being deleted") {
			told = append(told, args)
		} else if !strings.Contains(args, `"level"`) {
			failed = append(failed, prefix+args)
		}
	}, funcr.Options{})
	plane.Run(t, ctrl.Options{
		Logger: log,
		Cache:  cache.Options{DefaultNamespaces: map[string]cache.Config{ns: {}}},
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: job.Uncached()}},
	}, func(ctx context.Context, mgr ctrl.Manager) error {
		r := &job.Reconciler{
			Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: mgr.GetEventRecorder(job.Name),
			Plugins: plugins.Set{env.Factory(), svc.Factory()}, Now: time.Now, Workers: 4,
		}
		return r.SetupWithManager(ctx, mgr)
	})
	controllertest.Eventually(t, patience, func(context.Context) string {
		mu.Lock()
		defer mu.Unlock()
		if len(told) == 0 && len(failed) == 0 {
			return "nothing is told"
		}
		return ""
	})
	for at := time.Now(); time.Since(at) < 2*time.Second; <-time.After(20 * time.Millisecond) { // errors come again, faster than that
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 1 || len(failed) != 0 {
		t.Errorf("told %q, failed %q", told, failed)
	}
	got := &batch.Job{}
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(j), got); err != nil || got.Status.State.Reason == "FailedCreate" {
		t.Errorf("%v, state %+v", err, got.Status.State)
	}
}
