package admission_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/test/testbed/helm"
)

// plane is the API server that all tests of this package share; it has what the
// chart brings.
var plane *controllertest.Plane

const (
	patience  = time.Minute
	namespace = "isthmus-system"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctrl.SetLogger(logr.Discard())
	var err error
	if plane, err = controllertest.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer plane.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if address, err = freeAddress(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := errors.Join(applyChart(ctx, "admission: {volcano: {policies: \"on\", defaults: policy, webhook: {url: \"https://"+address+"\"}}}"), standing(ctx)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	stopWebhook = serve()
	if err := enforced(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	_ = stopWebhook() // the API server goes with it
	return code
}

// stopWebhook ends the webhook that runs now.
var stopWebhook func() error

// applyChart applies what the chart says of admission.
func applyChart(ctx context.Context, values string) error {
	objects, err := helm.Template(ctx, os.Stderr, namespace, values)
	if err != nil {
		return err
	}
	if err := plane.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); client.IgnoreAlreadyExists(err) != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	for _, o := range objects {
		ofPolicies := strings.HasPrefix(o.GetAPIVersion(), "admissionregistration.k8s.io/") && (strings.Contains(o.GetName(), "volcano") || o.GetName() == "isthmus-daemonsets")
		if !ofPolicies && o.GetKind() != "Secret" {
			continue
		}
		if err := plane.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("test"), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// enforced waits until each policy has come to the API server's mind, which takes
// a moment, and says what its type check found.
func enforced(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := ""
		for _, r := range append(rows(), judged()[0], annotationRows()[0]) {
			if r.first || r == judged()[0] {
				if err := dryRun(ctx, "default", r); err == nil || !strings.Contains(err.Error(), r.wants) {
					missing = fmt.Sprintf("%s: %v", r.row, err)
				}
			}
		}
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the policies are not enforced: %s", missing)
		case <-tick.C:
		}
	}
}

// parse reads one object.
func parse(text string) (*unstructured.Unstructured, error) {
	o := &unstructured.Unstructured{}
	if err := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096).Decode(&o.Object); err != nil {
		return nil, fmt.Errorf("parse %s: %w", text, err)
	}
	return o, nil
}
