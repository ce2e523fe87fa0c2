package provider_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// withoutRights are objects of a namespace where the daemon may read none.
type withoutRights struct{ providertest.Objects }

func (withoutRights) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	return nil, apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, name, errors.New("no"))
}

// In a namespace that the chart gives no rights in, a pod that needs an object says
// which, and what the administrator has to do.
func TestNamespaceWithoutRights(t *testing.T) {
	w, _ := plain(t, time.Hour)
	w.bridge.Objects = withoutRights{}
	p := w.api.Get(w.gang("one", 1)[0]).DeepCopy()
	p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
	w.api.Create(p)
	w.tick()
	w.tick()
	state := w.api.Get(p.UID).Status.ContainerStatuses
	if len(state) == 0 || state[0].State.Waiting == nil || state[0].State.Waiting.Reason != "CreateContainerConfigError" {
		t.Errorf("the pod says %+v", state)
	}
	events := w.api.Events()
	if len(events) != 1 || !strings.Contains(events[0], "ConfigMap settings") || !strings.Contains(events[0], "vnode.namespaces") {
		t.Errorf("events %q", events)
	}
}
