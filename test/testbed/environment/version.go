package environment

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/helm"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// Version is a version of Isthmus. An environment goes from one to another by
// ApplyDefinitions, ApplyChart, ReplaceRunner and Replace, in the order that the
// caller likes, while jobs run.
type Version struct {
	// Checkout is the directory with its charts.
	Checkout string
	// Programs is the directory with its podrun, vnode, scheduler and controllers.
	// They have to know the flags that this package starts them with.
	Programs string
}

// Programs names what Replace takes.
func Programs() []string { return []string{"vnode", "scheduler", "controllers"} }

// Present builds the programs of the checkout, if that is not done.
func Present(ctx context.Context, progress io.Writer) (Version, error) {
	root, err := checkout.Root()
	if err != nil {
		return Version{}, err
	}
	bins, err := buildPrograms(ctx, progress)
	return Version{Checkout: root, Programs: filepath.Dir(bins.vnode)}, err
}

// but are the programs of another directory; what only serves the tests stays.
func (b binaries) but(dir string) binaries {
	return binaries{
		podrun: filepath.Join(dir, "podrun"), vnode: filepath.Join(dir, "vnode"), scheduler: filepath.Join(dir, "scheduler"),
		controllers: filepath.Join(dir, "controllers"), isthmus: b.isthmus,
	}
}

// runner is where the pod runner is installed for all users.
func (e *Environment) runner() string { return filepath.Join(e.Shared, "podrun") }

// ReplaceRunner installs the pod runner of a version, as an administrator does:
// what runs goes on with the file that it was started from.
func (e *Environment) ReplaceRunner(v Version) error {
	return copyProgram(filepath.Join(v.Programs, "podrun"), e.runner())
}

// Replace ends one of our programs in order and starts that of a version, with the
// same arguments. It does not wait until the program is ready.
func (e *Environment) Replace(name string, v Version) error {
	p := e.programs.Find(name)
	if p == nil {
		return fmt.Errorf("replace %s: no program has that name", name)
	}
	if err := p.Stop(time.Minute); err != nil { // as long as the chart lets it
		return fmt.Errorf("replace %s: %w", name, err)
	}
	argv := slices.Clone(p.Argv)
	argv[0] = filepath.Join(v.Programs, name)
	return e.Restart(name, argv, p.Env)
}

// Log is the end of what one of our programs has written, in lines.
func (e *Environment) Log(name string, lines int) string {
	return process.Tail(e.programs.LogFile(name), lines)
}

// chartValues leave out the Deployments: the programs run beside the cluster.
// The API server reaches the webhook of such controllers by a URL, and serves what
// helm, which is not connected to it here, cannot know of.
const chartValues = `
controllers: {enabled: false, hyperNodes: {labels: [e2e.isthmus.sh/rack, e2e.isthmus.sh/row]}}
scheduler: {enabled: false}
networkPolicy: {enabled: false}
vnode: {namespaces: ["*"]}
admission: {volcano: {policies: "on", defaults: policy, webhook: {url: "https://%s"}}}
`

// ApplyChart applies what the chart in a checkout renders (service accounts, roles,
// policies) and removes what was applied before and is not part of it, as helm does.
func (e *Environment) ApplyChart(ctx context.Context, root string) error {
	if e.webhook == "" {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		e.webhook = address
	}
	rendered, err := helm.TemplateAt(ctx, e.progress, filepath.Join(root, "charts", "isthmus"), chartNamespace, fmt.Sprintf(chartValues, e.webhook))
	if err != nil {
		return err
	}
	namespace := &unstructured.Unstructured{}
	namespace.SetAPIVersion("v1")
	namespace.SetKind("Namespace")
	namespace.SetName(chartNamespace)
	objects := append([]*unstructured.Unstructured{namespace}, rendered...)
	if _, err = e.applyObjects(ctx, "chart", objects); err != nil {
		return err
	}
	for _, old := range e.chart {
		if slices.ContainsFunc(objects, func(o *unstructured.Unstructured) bool { return same(o, old) }) {
			continue
		}
		if err := e.client.Delete(ctx, old.DeepCopy()); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("remove %s %s of the chart: %w", old.GetKind(), old.GetName(), err)
		}
	}
	e.chart = objects
	return nil
}

func same(a, b *unstructured.Unstructured) bool {
	return a.GroupVersionKind() == b.GroupVersionKind() && client.ObjectKeyFromObject(a) == client.ObjectKeyFromObject(b)
}

// ApplyDefinitions applies the CRDs of the chart in a checkout over those that are
// there, and waits until all are served.
func (e *Environment) ApplyDefinitions(ctx context.Context, root string) error {
	files, err := filepath.Glob(filepath.Join(root, "charts", "isthmus", "crds", "*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("find Custom resource definitions below %s: %d files, error %w", root, len(files), err)
	}
	var names []client.ObjectKey
	for _, file := range files {
		keys, err := e.ApplyFile(ctx, file)
		if err != nil {
			return err
		}
		names = append(names, keys...)
	}
	return await(ctx, time.Minute, func(ctx context.Context) error {
		for _, name := range names {
			var crd apiextensions.CustomResourceDefinition
			if err := e.client.Get(ctx, name, &crd); err != nil {
				return err
			}
			established := false
			for _, c := range crd.Status.Conditions {
				established = established || c.Type == apiextensions.Established && c.Status == apiextensions.ConditionTrue
			}
			if !established {
				return fmt.Errorf("%s is not established", name.Name)
			}
		}
		return nil
	})
}
