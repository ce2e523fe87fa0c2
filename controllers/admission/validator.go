package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/cronjob"
	"github.com/isthmus-hpc/isthmus/controllers/job/machine"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
	"github.com/isthmus-hpc/isthmus/controllers/jobflow"
	"github.com/isthmus-hpc/isthmus/controllers/queuetree"
)

// Validator judges objects of the Volcano API. All fields are required.
type Validator struct {
	// Live reads queues and asks for dry runs of pods at the API server. A cache
	// would not know the queue that was made a moment ago.
	Live client.Client
	// Plugins are the job plugins that a Job may name.
	Plugins plugins.Set
}

// Handle answers a request. An error of our own lets the object in: the controllers
// look at it again.
func (v *Validator) Handle(ctx context.Context, req admission.Request) admission.Response {
	complaints, err := v.judge(ctx, &req)
	if err != nil {
		return admission.Allowed("").WithWarnings(fmt.Sprintf("isthmus: not all of the object was checked: %v", err))
	}
	if len(complaints) == 0 {
		return admission.Allowed("")
	}
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
		Message: strings.Join(complaints, "; "),
	}}}
}

// judge lists what is wrong with the object of a request.
func (v *Validator) judge(ctx context.Context, req *admission.Request) ([]string, error) {
	switch req.Kind.Kind {
	case "Job":
		var now, before batch.Job
		if skip, err := decode(req, &now, &before, func() bool { return equality.Semantic.DeepEqual(now.Spec, before.Spec) }); skip || err != nil {
			return nil, err
		}
		return v.job(ctx, &now, req.Operation == admissionv1.Create)
	case "CronJob":
		var now, before batch.CronJob
		if skip, err := decode(req, &now, &before, func() bool { return equality.Semantic.DeepEqual(now.Spec, before.Spec) }); skip || err != nil {
			return nil, err
		}
		var out []string
		if err := cronjob.Validate(&now); err != nil {
			out = append(out, err.Error()+": mend it")
		}
		name := now.Name
		if name == "" {
			name = now.GenerateName + "00000"
		}
		more, err := v.template(ctx, req, name+"-00000000", now.Spec.JobTemplate.Spec) // as its Jobs are named
		for _, m := range more {
			out = append(out, "spec.jobTemplate."+m)
		}
		return out, err
	case "JobTemplate":
		var now, before flow.JobTemplate
		if skip, err := decode(req, &now, &before, func() bool { return equality.Semantic.DeepEqual(now.Spec, before.Spec) }); skip || err != nil {
			return nil, err
		}
		return v.template(ctx, req, "template", now.Spec) // the flows that use it give the names
	case "JobFlow":
		var now, before flow.JobFlow
		if skip, err := decode(req, &now, &before, func() bool {
			return equality.Semantic.DeepEqual(now.Spec, before.Spec) && now.Annotations[wellknown.QueueEarly] == before.Annotations[wellknown.QueueEarly]
		}); skip || err != nil {
			return nil, err
		}
		return jobflow.Validate(&now), nil
	case "HyperNode":
		var now, before topology.HyperNode
		if skip, err := decode(req, &now, &before, func() bool { return equality.Semantic.DeepEqual(now.Spec, before.Spec) }); skip || err != nil {
			return nil, err
		}
		return hyperNode(&now), nil
	case "PodGroup":
		var now, before scheduling.PodGroup
		if skip, err := decode(req, &now, &before, func() bool { return now.Spec.Queue == before.Spec.Queue }); skip || err != nil {
			return nil, err
		}
		return v.podGroup(ctx, &now)
	case "Queue":
		var now, before scheduling.Queue
		if skip, err := decode(req, &now, &before, func() bool { return equality.Semantic.DeepEqual(now.Spec, before.Spec) }); skip || err != nil {
			return nil, err
		}
		return v.queue(ctx, &now, req.Operation == admissionv1.Delete)
	}
	return nil, nil
}

// decode reads the object of a request, that of a deletion as well. skip says that
// nothing of it needs a look: it is on its way out, or what counts did not change.
func decode(req *admission.Request, now, before client.Object, same func() bool) (skip bool, err error) {
	raw := req.Object.Raw
	if req.Operation == admissionv1.Delete {
		raw = req.OldObject.Raw
	}
	if err := json.Unmarshal(raw, now); err != nil {
		return false, fmt.Errorf("read the object: %w", err)
	}
	if req.Operation != admissionv1.Update {
		return false, nil
	}
	if now.GetDeletionTimestamp() != nil {
		return true, nil
	}
	if err := json.Unmarshal(req.OldObject.Raw, before); err != nil {
		return false, fmt.Errorf("read the object as it was: %w", err)
	}
	return same(), nil
}

// job judges a Job; made says that it is new.
func (v *Validator) job(ctx context.Context, job *batch.Job, made bool) ([]string, error) {
	job = machine.Default(job)
	out := v.spec(job)
	if !made || len(out) > 0 {
		return out, nil
	}
	out, err := v.queueOf(ctx, job.Spec.Queue)
	if err != nil || len(out) > 0 {
		return out, err
	}
	return v.pods(ctx, job)
}

// template judges a Job's spec that no Job has yet; its queue may come later.
func (v *Validator) template(ctx context.Context, req *admission.Request, name string, spec batch.JobSpec) ([]string, error) {
	job := machine.Default(&batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: req.Namespace, Name: name}, Spec: spec})
	if out := v.spec(job); len(out) > 0 {
		return out, nil
	}
	return v.pods(ctx, job)
}

// spec is what the controller would say.
func (v *Validator) spec(job *batch.Job) []string {
	errs := machine.Validate(job, func(name string, args []string) error {
		p, err := v.Plugins.New(name, args)
		if err != nil {
			return err
		}
		return p.Validate(job)
	})
	return texts(errs)
}

func texts(errs field.ErrorList) []string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return out
}

// queueOf says why a Job or PodGroup cannot enter a queue.
func (v *Validator) queueOf(ctx context.Context, name string) ([]string, error) {
	var queues scheduling.QueueList
	if err := v.Live.List(ctx, &queues); err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	path := field.NewPath("spec", "queue")
	verdict, found, beneath := queuetree.Judge(name, queues.Items)
	switch verdict {
	case queuetree.NotFound:
		text := fmt.Sprintf("%s: create it, or name one that is there", field.NotFound(path, name))
		if open := takers(queues.Items); len(open) > 0 && len(open) <= 10 {
			text += fmt.Sprintf(", such as %s", strings.Join(open, ", "))
		}
		return []string{text}, nil
	case queuetree.NotLeaf:
		return texts(field.ErrorList{field.Invalid(path, name, fmt.Sprintf("must be a queue without others beneath it: name one of those: %s", strings.Join(beneath, ", ")))}), nil
	case queuetree.NotOpen:
		return texts(field.ErrorList{field.Invalid(path, name, fmt.Sprintf("must be an open queue, and it is %s: open it (vcctl queue operate -a open -n %s), or name another", found.Status.State, name))}), nil
	}
	return nil, nil
}

// takers are the queues that take new work, in order.
func takers(queues []scheduling.Queue) []string {
	var out []string
	for i := range queues {
		if v, _, _ := queuetree.Judge(queues[i].Name, queues); v == queuetree.Takes {
			out = append(out, queues[i].Name)
		}
	}
	slices.Sort(out)
	return out
}

// podGroup judges a PodGroup that is new or goes into another queue. The API server
// does not ask about those that our controllers make, see the chart: what they are
// for is there already, and the scheduler says on them what they wait for.
func (v *Validator) podGroup(ctx context.Context, pg *scheduling.PodGroup) ([]string, error) {
	name := pg.Spec.Queue
	if name == "" {
		name = scheduling.DefaultQueue
	}
	return v.queueOf(ctx, name)
}

// hyperNode says which selectors of members are none.
func hyperNode(h *topology.HyperNode) []string {
	var errs field.ErrorList
	for i := range h.Spec.Members {
		s, path := &h.Spec.Members[i].Selector, field.NewPath("spec", "members").Index(i).Child("selector")
		if s.RegexMatch != nil {
			if _, err := regexp.Compile(s.RegexMatch.Pattern); err != nil {
				errs = append(errs, field.Invalid(path.Child("regexMatch", "pattern"), s.RegexMatch.Pattern, fmt.Sprintf("must be a regular expression of RE2: %v: mend it", err)))
			}
		}
		if s.LabelMatch != nil {
			if _, err := metav1.LabelSelectorAsSelector(s.LabelMatch); err != nil {
				errs = append(errs, field.Invalid(path.Child("labelMatch"), metav1.FormatLabelSelector(s.LabelMatch), fmt.Sprintf("must be a label selector: %v: mend it", err)))
			}
		}
	}
	return texts(errs)
}
