// Package helm builds helm from the pinned module and renders the project's
// chart with it, as a user's helm does.
package helm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/manifests"
)

// Version is the release that the pins in test/testbed/helm/module give.
const Version = "v4.3.1"

// EnsureBuilt builds helm when it is missing or the pins changed, and returns
// its path. It takes about two minutes once, and a few milliseconds later.
func EnsureBuilt(ctx context.Context, progress io.Writer) (string, error) {
	dir, err := checkout.Tools{
		Name: "helm", Version: Version, Module: "test/testbed/helm/module", Expect: "two minutes",
		Programs: map[string]string{"helm": "helm.sh/helm/v4/cmd/helm"},
	}.EnsureBuilt(ctx, progress)
	return filepath.Join(dir, "helm"), err
}

// Template renders the chart for a release "isthmus" in namespace, with values
// given as YAML over the chart's own, and without the definitions. The API server has
// what helm thinks that one has, and the kinds given, as "group/version/Kind".
func Template(ctx context.Context, progress io.Writer, namespace, values string, kinds ...string) ([]*unstructured.Unstructured, error) {
	args := []string{"template", "isthmus", "", "--namespace", namespace, "--values", "-"}
	for _, k := range kinds {
		args = append(args, "--api-versions", k)
	}
	return render(ctx, progress, values, args...)
}

// TemplateAt is Template of the chart in another directory.
func TemplateAt(ctx context.Context, progress io.Writer, chart, namespace, values string) ([]*unstructured.Unstructured, error) {
	return render(ctx, progress, values, "template", "isthmus", chart, "--namespace", namespace, "--values", "-")
}

func render(ctx context.Context, progress io.Writer, values string, args ...string) ([]*unstructured.Unstructured, error) {
	text, err := run(ctx, progress, values, args...)
	if err != nil {
		return nil, err
	}
	return manifests.Parse("what helm renders", text)
}

// Lint is `helm lint --strict`.
func Lint(ctx context.Context, progress io.Writer, values string) error {
	_, err := run(ctx, progress, values, "lint", "", "--strict", "--values", "-")
	return err
}

// run replaces an empty argument by the chart's directory.
func run(ctx context.Context, progress io.Writer, stdin string, args ...string) ([]byte, error) {
	program, err := EnsureBuilt(ctx, progress)
	if err != nil {
		return nil, err
	}
	root, err := checkout.Root()
	if err != nil {
		return nil, err
	}
	for i := range args {
		if args[i] == "" {
			args[i] = filepath.Join(root, "charts", "isthmus")
		}
	}
	home, err := os.MkdirTemp("", "isthmus-helm-")
	if err != nil {
		return nil, fmt.Errorf("make a home for helm: %w", err)
	}
	defer func() { _ = os.RemoveAll(home) }()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"HOME=" + home, "PATH=/usr/bin:/bin"} // a person's own plugins and settings stay out
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, errors.Join(fmt.Errorf("helm %s: %w\n%s", args[0], err, bytes.TrimSpace(complaint.Bytes())), ctx.Err())
	}
	return out.Bytes(), nil
}
