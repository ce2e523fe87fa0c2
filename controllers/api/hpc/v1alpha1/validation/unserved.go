package validation

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

// unserved lists the settings of c that are among the paths.
func unserved(c *hpc.BatchCluster, paths []string) field.ErrorList {
	if len(paths) == 0 {
		return nil
	}
	doc, err := runtime.DefaultUnstructuredConverter.ToUnstructured(c)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	var errs field.ErrorList
	for _, p := range paths {
		steps := strings.Split(strings.ReplaceAll(p, "[*]", ".[*]"), ".")
		for _, found := range find(doc, steps, nil) {
			errs = append(errs, field.Forbidden(found, "this build does not serve it; leave it out"))
		}
	}
	return errs
}

// find gives the paths at which a value is set.
func find(value any, steps []string, at *field.Path) []*field.Path {
	if len(steps) == 0 {
		if isEmpty(value) {
			return nil
		}
		return []*field.Path{at}
	}
	if steps[0] == "[*]" {
		list, _ := value.([]any)
		var out []*field.Path
		for i, item := range list {
			out = append(out, find(item, steps[1:], at.Index(i))...)
		}
		return out
	}
	object, _ := value.(map[string]any)
	child, ok := object[steps[0]]
	if !ok {
		return nil
	}
	return find(child, steps[1:], at.Child(steps[0]))
}

func isEmpty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	case string:
		return v == ""
	case bool:
		return !v
	case int64:
		return v == 0
	}
	return false
}
