package validation

import (
	"errors"
	"fmt"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

// kind is what a file must hold.
const kind = "BatchCluster"

// Decode reads a BatchCluster from YAML or JSON, strictly: a field that is not
// known, or is there twice, is an error. It sets the defaults that the API
// server sets for an object.
func Decode(text []byte) (*hpc.BatchCluster, error) {
	var out hpc.BatchCluster
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", kind, err)
	}
	// As the API server decodes: names with their case, and mistakes with their path.
	strict, err := kjson.UnmarshalStrict(raw, &out)
	if err := errors.Join(append(strict, err)...); err != nil {
		return nil, fmt.Errorf("decode %s: %w", kind, err)
	}
	if want := hpc.GroupVersion.String(); out.APIVersion != want || out.Kind != kind {
		return nil, fmt.Errorf("decode %s: apiVersion %q and kind %q, want %q and %q", kind, out.APIVersion, out.Kind, want, kind)
	}
	Default(&out)
	return &out, nil
}

// DefaultMaxPodsPending bounds the pods of a virtual node that wait in the batch
// queue, unless the node says otherwise.
const DefaultMaxPodsPending = 1000

// Default sets what the definition of BatchCluster gives as defaults.
func Default(c *hpc.BatchCluster) {
	s := &c.Spec
	if s.Connection.Type == "" {
		s.Connection.Type = "cli"
	}
	if s.Connection.SSH != nil && s.Connection.SSH.Become == "" {
		s.Connection.SSH.Become = "login"
	}
	if len(s.Runtimes) == 0 {
		s.Runtimes = []hpc.Runtime{hpc.RuntimeHost}
	}
	if s.Images.Pull == "" {
		s.Images.Pull = "job"
	}
	for i := range s.Nodes {
		if s.Nodes[i].MaxPodsPending == 0 {
			s.Nodes[i].MaxPodsPending = DefaultMaxPodsPending
		}
	}
}
