package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcano "volcano.sh/apis/pkg/client/clientset/versioned/scheme"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/test/testbed/manifests"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// fieldOwner names the testbed in server-side apply.
const fieldOwner = client.FieldOwner("isthmus-testbed")

func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, apiextensions.AddToScheme, volcano.AddToScheme, hpc.AddToScheme,
	} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("make scheme: %w", err)
		}
	}
	return s, nil
}

// ApplyFile applies all objects of a YAML file, as `kubectl apply --server-side`.
func (e *Environment) ApplyFile(ctx context.Context, file string) ([]client.ObjectKey, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	return e.apply(ctx, file, raw)
}

// apply applies the objects of a YAML text; name is for errors.
func (e *Environment) apply(ctx context.Context, name string, raw []byte) ([]client.ObjectKey, error) {
	objects, err := manifests.Parse(name, raw)
	if err != nil {
		return nil, err
	}
	return e.applyObjects(ctx, name, objects)
}

func (e *Environment) applyObjects(ctx context.Context, name string, objects []*unstructured.Unstructured) ([]client.ObjectKey, error) {
	var keys []client.ObjectKey
	for _, object := range objects {
		// A copy: the answer is written into it.
		err := e.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object.DeepCopy()), fieldOwner, client.ForceOwnership)
		if err != nil {
			return keys, fmt.Errorf("apply %s %s of %s: %w", object.GetKind(), object.GetName(), name, err)
		}
		keys = append(keys, client.ObjectKeyFromObject(object))
	}
	return keys, nil
}

// createCluster creates the BatchCluster object.
func (e *Environment) createCluster(ctx context.Context, config Config) error {
	cluster := &hpc.BatchCluster{ObjectMeta: metav1.ObjectMeta{Name: ClusterName}}
	e.system.describe(&cluster.Spec)
	cluster.Spec.Accounts = []hpc.Account{{
		// Only this namespace: what is not mapped is refused.
		NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: metav1.NamespaceDefault}},
		User:              e.User,
	}}
	cluster.Spec.Staging.Directory = e.Staging
	cluster.Spec.Runtimes = []hpc.Runtime{hpc.RuntimeHost}
	cluster.Spec.Poll = hpc.Poll{
		Tick: &metav1.Duration{Duration: time.Second}, Idle: &metav1.Duration{Duration: 2 * time.Second},
	}
	if config.Cluster != nil {
		config.Cluster(cluster)
	}
	e.Nodes = nil
	for _, n := range cluster.Spec.Nodes {
		e.Nodes = append(e.Nodes, n.Name)
	}
	if err := e.save(); err != nil {
		return err
	}
	if err := e.client.Create(ctx, cluster); err != nil {
		return fmt.Errorf("create BatchCluster: %w", err)
	}
	return nil
}

// nodesTimeout bounds the wait for the virtual nodes.
const nodesTimeout = 2 * time.Minute

// waitNodes waits until all virtual nodes are Ready, and fails at once when one
// of the programs has ended.
func (e *Environment) waitNodes(ctx context.Context) error {
	return await(ctx, nodesTimeout, func(ctx context.Context) error {
		for _, p := range e.Processes() {
			if !p.Alive() {
				return fatal(fmt.Errorf("%s has ended; end of %s:\n%s", p.Name, p.Log, process.Tail(p.Log, 15)))
			}
		}
		var waiting []string
		for _, name := range e.Nodes {
			var node corev1.Node
			if err := e.client.Get(ctx, client.ObjectKey{Name: name}, &node); err != nil {
				waiting = append(waiting, err.Error())
			} else if !ready(&node) {
				waiting = append(waiting, "node "+name+" is not Ready")
			}
		}
		if len(waiting) > 0 {
			log := e.programs.LogFile("vnode")
			return fmt.Errorf("%s; end of %s:\n%s", strings.Join(waiting, "; "), log, process.Tail(log, 15))
		}
		return nil
	})
}

// CheckNodes fails unless all virtual nodes become Ready within a few seconds.
func (e *Environment) CheckNodes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return e.waitNodes(ctx)
}

func ready(node *corev1.Node) bool {
	if node.Labels[wellknown.VirtualNode] != "true" {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// fatalError ends await before its time.
type fatalError struct{ error }

func fatal(err error) error        { return fatalError{err} }
func (f fatalError) Unwrap() error { return f.error }

// await calls check every 100 ms until it returns nil, and returns its last
// error when the time is up.
func await(ctx context.Context, most time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		var stop fatalError
		if err == nil || errors.As(err, &stop) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}
