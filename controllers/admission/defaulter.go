package admission

import (
	"context"
	"encoding/json"
	"fmt"

	"gomodules.xyz/jsonpatch/v2"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/machine"
)

// Default fills in what a Job leaves out, for API servers that have no policies
// which do so. An object that cannot be read is let through: others judge it.
func Default(_ context.Context, req admission.Request) admission.Response {
	var job batch.Job
	if err := json.Unmarshal(req.Object.Raw, &job); err != nil || job.DeletionTimestamp != nil {
		return admission.Allowed("")
	}
	return admission.Patched("", defaults(&job)...)
}

// defaults are the changes that make of a Job what machine.Default makes of it.
func defaults(job *batch.Job) []jsonpatch.Operation {
	var out []jsonpatch.Operation
	add := func(differs bool, path string, value any) {
		if differs {
			out = append(out, jsonpatch.NewOperation("add", path, value))
		}
	}
	full := machine.Default(job)
	was, is := &job.Spec, &full.Spec
	add(was.SchedulerName != is.SchedulerName, "/spec/schedulerName", is.SchedulerName)
	add(was.Queue != is.Queue, "/spec/queue", is.Queue)
	add(was.MaxRetry != is.MaxRetry, "/spec/maxRetry", is.MaxRetry)
	for i := range is.Tasks {
		a, b, at := &was.Tasks[i], &is.Tasks[i], fmt.Sprintf("/spec/tasks/%d/", i)
		add(a.Name != b.Name, at+"name", b.Name)
		add(a.MaxRetry != b.MaxRetry, at+"maxRetry", b.MaxRetry)
		add(a.MinAvailable == nil, at+"minAvailable", ptr.Deref(b.MinAvailable, 0))
		add(a.Template.Spec.DNSPolicy != b.Template.Spec.DNSPolicy, at+"template/spec/dnsPolicy", b.Template.Spec.DNSPolicy)
	}
	add(was.MinAvailable != is.MinAvailable, "/spec/minAvailable", is.MinAvailable)
	for _, name := range []string{"ssh", "svc"} {
		_, had := was.Plugins[name]
		_, has := is.Plugins[name]
		add(has && !had, "/spec/plugins/"+name, []string{})
	}
	return out
}
