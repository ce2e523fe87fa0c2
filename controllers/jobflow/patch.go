package jobflow

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
)

// patched is a template's spec with a step's patch: what the patch sets replaces
// what the template says; tasks are matched by name and merged as kubectl patches
// a pod, containers and volumes by their names.
func patched(spec *batch.JobSpec, patch *flow.Patch) (*batch.JobSpec, error) {
	out := spec.DeepCopy()
	if patch == nil {
		return out, nil
	}
	rest := patch.JobSpec.DeepCopy()
	rest.Tasks = nil
	if err := merge(out, rest, batch.JobSpec{}); err != nil {
		return nil, fmt.Errorf("patch.jobSpec: %w", err)
	}
	for i := range patch.Tasks {
		p := &patch.Tasks[i]
		found := false
		for j := range out.Tasks {
			if out.Tasks[j].Name == p.Name {
				found = true
				if err := merge(&out.Tasks[j], p, batch.TaskSpec{}); err != nil {
					return nil, fmt.Errorf("patch.jobSpec.tasks[%d]: %w", i, err)
				}
			}
		}
		if !found {
			out.Tasks = append(out.Tasks, *p.DeepCopy())
		}
	}
	return out, nil
}

// merge patches *into with what is set in patch; schema is their type.
func merge[T any](into, patch *T, schema T) error {
	original, err := json.Marshal(into)
	if err != nil {
		return err
	}
	change, err := set(patch)
	if err != nil {
		return err
	}
	merged, err := strategicpatch.StrategicMergePatch(original, change, schema)
	if err != nil {
		return err
	}
	var result T
	if err := json.Unmarshal(merged, &result); err != nil {
		return err
	}
	*into = result
	return nil
}

// set is the JSON of the fields that have a value: the types write some that have
// none as null, which as a patch would delete them.
func set(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var tree any
	if err := json.Unmarshal(data, &tree); err != nil {
		return nil, err
	}
	tree, _ = prune(tree)
	if tree == nil {
		tree = map[string]any{}
	}
	return json.Marshal(tree)
}

func prune(v any) (any, bool) {
	switch v := v.(type) {
	case nil:
		return nil, false
	case string:
		return v, v != ""
	case map[string]any:
		for k, e := range v {
			if kept, ok := prune(e); ok {
				v[k] = kept
			} else {
				delete(v, k)
			}
		}
		return v, len(v) > 0
	case []any:
		return v, len(v) > 0
	}
	return v, true
}

// phaseOf reads a phase as users write it.
func phaseOf(text string) corev1.PodPhase { return corev1.PodPhase(text) }

// least is how many pods of a task have to be so.
func least(job *batch.Job, task string) int32 {
	for i := range job.Spec.Tasks {
		t := &job.Spec.Tasks[i]
		if t.Name != task {
			continue
		}
		if t.MinAvailable != nil {
			return max(1, *t.MinAvailable)
		}
		return max(1, t.Replicas)
	}
	return 1
}
