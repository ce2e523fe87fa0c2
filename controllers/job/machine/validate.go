package machine

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
)

// maxReplicas bounds the pods of one job: what one PodGroup and one batch job
// can sensibly hold, and far below what would hurt the API server.
const maxReplicas = 100_000

// Validate checks a job that Default has completed. Each error names the field,
// the value and the rule that it breaks; fields of the Volcano API that are not
// supported yet are errors as well, so that none is ignored in silence.
// checkPlugin is asked once for every entry of spec.plugins.
func Validate(job *batch.Job, checkPlugin func(name string, args []string) error) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	for _, msg := range validation.IsValidLabelValue(job.Name) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), job.Name, "must be usable as a label of the pods: "+msg))
	}
	errs = append(errs, validateTasks(job, spec)...)
	errs = append(errs, validatePolicies(job.Spec.Policies, spec.Child("policies"))...)
	errs = append(errs, validateVolumes(job, spec.Child("volumes"))...)
	if nt := job.Spec.NetworkTopology; nt != nil && nt.HighestTierAllowed != nil && nt.HighestTierName != "" {
		errs = append(errs, field.Invalid(spec.Child("networkTopology", "highestTierName"), nt.HighestTierName, "must be unset when highestTierAllowed is set"))
	}
	names := make([]string, 0, len(job.Spec.Plugins))
	for name := range job.Spec.Plugins {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := checkPlugin(name, job.Spec.Plugins[name]); err != nil {
			errs = append(errs, field.Invalid(spec.Child("plugins").Key(name), job.Spec.Plugins[name], err.Error()))
		}
	}
	return errs
}

func validateTasks(job *batch.Job, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(job.Spec.Tasks) == 0 {
		errs = append(errs, field.Required(spec.Child("tasks"), "a job needs at least one task"))
	}
	seen := map[string]bool{}
	for i := range job.Spec.Tasks {
		task, path := &job.Spec.Tasks[i], spec.Child("tasks").Index(i)
		if seen[task.Name] {
			errs = append(errs, field.Duplicate(path.Child("name"), task.Name))
		}
		seen[task.Name] = true
		for _, msg := range validation.IsDNS1123Label(task.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), task.Name, msg))
		}
		if task.Replicas < 0 {
			errs = append(errs, field.Invalid(path.Child("replicas"), task.Replicas, "must not be negative"))
		}
		if least := ptr.Deref(task.MinAvailable, 0); least < 0 || least > task.Replicas {
			errs = append(errs, field.Invalid(path.Child("minAvailable"), least, fmt.Sprintf("must be between 0 and replicas (%d)", task.Replicas)))
		}
		if len(task.Template.Spec.Containers) == 0 {
			errs = append(errs, field.Required(path.Child("template", "spec", "containers"), "a pod needs at least one container"))
		}
		if task.DependsOn != nil {
			errs = append(errs, field.Forbidden(path.Child("dependsOn"), "is not supported by this version of Isthmus; remove it or split the job"))
		}
		if task.PartitionPolicy != nil {
			errs = append(errs, field.Forbidden(path.Child("partitionPolicy"), "is not supported by this version of Isthmus"))
		}
		if task.TopologyPolicy != "" && task.TopologyPolicy != batch.None {
			errs = append(errs, field.NotSupported(path.Child("topologyPolicy"), task.TopologyPolicy, []batch.NumaPolicy{batch.None}))
		}
		errs = append(errs, validatePolicies(task.Policies, path.Child("policies"))...)
	}
	total := totalReplicas(job)
	if total > maxReplicas {
		errs = append(errs, field.Invalid(spec.Child("tasks"), total, fmt.Sprintf("the replicas of all tasks must be at most %d together", maxReplicas)))
	}
	if least := job.Spec.MinAvailable; least < 0 || int64(least) > total {
		errs = append(errs, field.Invalid(spec.Child("minAvailable"), least, fmt.Sprintf("must be between 0 and the replicas of all tasks (%d)", total)))
	}
	if least := job.Spec.MinSuccess; least != nil && (*least < 1 || int64(*least) > total && total > 0) {
		errs = append(errs, field.Invalid(spec.Child("minSuccess"), *least, fmt.Sprintf("must be between 1 and the replicas of all tasks (%d)", total)))
	}
	return errs
}

func validateVolumes(job *batch.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	mounts := map[string]bool{}
	for i, v := range job.Spec.Volumes {
		switch {
		case v.MountPath == "":
			errs = append(errs, field.Required(path.Index(i).Child("mountPath"), ""))
		case strings.Contains(v.MountPath, ":"):
			errs = append(errs, field.Invalid(path.Index(i).Child("mountPath"), v.MountPath, "must not contain ':'"))
		case mounts[v.MountPath]:
			errs = append(errs, field.Duplicate(path.Index(i).Child("mountPath"), v.MountPath))
		}
		mounts[v.MountPath] = true
		if v.VolumeClaimName == "" && v.VolumeClaim == nil {
			errs = append(errs, field.Required(path.Index(i).Child("volumeClaimName"), "either volumeClaimName or volumeClaim must be set"))
		}
		if v.VolumeClaimName != "" {
			for _, msg := range validation.IsDNS1123Subdomain(v.VolumeClaimName) {
				errs = append(errs, field.Invalid(path.Index(i).Child("volumeClaimName"), v.VolumeClaimName, msg))
			}
		}
	}
	return errs
}

// supportedEvents are the events that a policy may name. Those of the Volcano
// API that are missing here are refused with a message that lists these.
func supportedEvents() []bus.Event {
	return []bus.Event{bus.AnyEvent, bus.PodFailedEvent, bus.PodEvictedEvent, bus.PodPendingEvent,
		bus.JobUnknownEvent, bus.TaskCompletedEvent, bus.TaskFailedEvent}
}

// supportedActions are the actions that a policy may name.
func supportedActions() []bus.Action {
	return []bus.Action{bus.AbortJobAction, bus.RestartJobAction, bus.TerminateJobAction, bus.CompleteJobAction}
}

func validatePolicies(policies []batch.LifecyclePolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	events, codes := map[bus.Event]bool{}, map[int32]bool{}
	for i := range policies {
		p, at := &policies[i], path.Index(i)
		named := policyEvents(p)
		switch {
		case len(named) > 0 && p.ExitCode != nil:
			errs = append(errs, field.Invalid(at.Child("exitCode"), *p.ExitCode, "must be unset when event or events is set"))
		case len(named) == 0 && p.ExitCode == nil:
			errs = append(errs, field.Required(at.Child("event"), "one of event, events and exitCode must be set"))
		case p.ExitCode != nil && *p.ExitCode == 0:
			errs = append(errs, field.Invalid(at.Child("exitCode"), 0, "must not be 0, which is success"))
		case p.ExitCode != nil && codes[*p.ExitCode]:
			errs = append(errs, field.Duplicate(at.Child("exitCode"), *p.ExitCode))
		case p.ExitCode != nil:
			codes[*p.ExitCode] = true
		}
		for _, e := range named {
			if !slices.Contains(supportedEvents(), e) {
				errs = append(errs, field.NotSupported(at.Child("event"), e, supportedEvents()))
			}
			if events[e] {
				errs = append(errs, field.Duplicate(at.Child("event"), e))
			}
			events[e] = true
		}
		if !slices.Contains(supportedActions(), p.Action) {
			errs = append(errs, field.NotSupported(at.Child("action"), p.Action, supportedActions()))
		}
		errs = append(errs, validateTimeout(p, named, at)...)
	}
	if events[bus.AnyEvent] && len(events) > 1 {
		errs = append(errs, field.Invalid(path, bus.AnyEvent, "must be the only event of its list of policies"))
	}
	return errs
}

func validateTimeout(p *batch.LifecyclePolicy, named []bus.Event, at *field.Path) field.ErrorList {
	if p.Timeout == nil {
		if slices.Contains(named, bus.PodPendingEvent) {
			return field.ErrorList{field.Required(at.Child("timeout"), "event PodPending has an effect only with a timeout")}
		}
		return nil
	}
	if p.Timeout.Duration < 0 {
		return field.ErrorList{field.Invalid(at.Child("timeout"), p.Timeout.Duration.String(), "must not be negative")}
	}
	for _, e := range named {
		if e != bus.PodPendingEvent && e != bus.PodFailedEvent {
			return field.ErrorList{field.Invalid(at.Child("timeout"), p.Timeout.Duration.String(),
				fmt.Sprintf("is not supported with event %s by this version of Isthmus, only with PodPending, PodFailed and exitCode", e))}
		}
	}
	return nil
}

// policyEvents lists the events of a policy without repetitions.
func policyEvents(p *batch.LifecyclePolicy) []bus.Event {
	var out []bus.Event
	for _, e := range append([]bus.Event{p.Event}, p.Events...) {
		if e != "" && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}
