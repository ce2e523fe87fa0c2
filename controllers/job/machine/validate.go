package machine

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
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
// the value and the rule that it breaks.
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
	errs = append(errs, validateTopology(job.Spec.NetworkTopology, spec.Child("networkTopology"))...)
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
		errs = append(errs, validatePartitions(task, path.Child("partitionPolicy"))...)
		errs = append(errs, validateNUMA(task, path)...)
		errs = append(errs, validatePolicies(task.Policies, path.Child("policies"))...)
	}
	errs = append(errs, validateDepends(job, spec.Child("tasks"))...)
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

func validateTopology(nt *batch.NetworkTopologySpec, path *field.Path) field.ErrorList {
	if nt != nil && nt.HighestTierAllowed != nil && nt.HighestTierName != "" {
		return field.ErrorList{field.Invalid(path.Child("highestTierName"), nt.HighestTierName, "must be unset when highestTierAllowed is set")}
	}
	return nil
}

func validatePartitions(task *batch.TaskSpec, path *field.Path) field.ErrorList {
	pp := task.PartitionPolicy
	if pp == nil {
		return nil
	}
	var errs field.ErrorList
	if pp.TotalPartitions < 1 {
		errs = append(errs, field.Invalid(path.Child("totalPartitions"), pp.TotalPartitions, "must be at least 1"))
	}
	if pp.PartitionSize < 1 {
		errs = append(errs, field.Invalid(path.Child("partitionSize"), pp.PartitionSize, "must be at least 1"))
	}
	if int64(pp.TotalPartitions)*int64(pp.PartitionSize) != int64(task.Replicas) {
		errs = append(errs, field.Invalid(path, fmt.Sprintf("%d x %d", pp.TotalPartitions, pp.PartitionSize),
			fmt.Sprintf("totalPartitions x partitionSize must be replicas (%d)", task.Replicas)))
	}
	if pp.MinPartitions < 0 || pp.MinPartitions > pp.TotalPartitions {
		errs = append(errs, field.Invalid(path.Child("minPartitions"), pp.MinPartitions, fmt.Sprintf("must be between 0 and totalPartitions (%d)", pp.TotalPartitions)))
	}
	return append(errs, validateTopology(pp.NetworkTopology, path.Child("networkTopology"))...)
}

// validateNUMA holds a task with a NUMA policy to whole CPUs: others are never
// given CPUs of their own, see the static CPU manager policy of the kubelet.
func validateNUMA(task *batch.TaskSpec, path *field.Path) field.ErrorList {
	policies := []batch.NumaPolicy{batch.None, batch.BestEffort, batch.Restricted, batch.SingleNumaNode}
	switch {
	case task.TopologyPolicy == "" || task.TopologyPolicy == batch.None:
		return nil
	case !slices.Contains(policies, task.TopologyPolicy):
		return field.ErrorList{field.NotSupported(path.Child("topologyPolicy"), task.TopologyPolicy, policies)}
	}
	var errs field.ErrorList
	for i := range task.Template.Spec.Containers {
		r := &task.Template.Spec.Containers[i].Resources
		cpu, ok := r.Requests[corev1.ResourceCPU]
		if !ok {
			cpu, ok = r.Limits[corev1.ResourceCPU]
		}
		if !ok || cpu.MilliValue() <= 0 || cpu.MilliValue()%1000 != 0 {
			errs = append(errs, field.Invalid(path.Child("template", "spec", "containers").Index(i).Child("resources", "requests").Key("cpu"),
				cpu.String(), fmt.Sprintf("must be a whole number of CPUs for topologyPolicy %s", task.TopologyPolicy)))
		}
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

// supportedEvents are the events that a policy may name, those of the Volcano
// API that are not internal to a controller.
func supportedEvents() []bus.Event {
	return []bus.Event{bus.AnyEvent, bus.PodFailedEvent, bus.PodEvictedEvent, bus.PodPendingEvent,
		bus.JobUnknownEvent, bus.TaskCompletedEvent, bus.TaskFailedEvent, bus.JobUpdatedEvent}
}

// supportedActions are the actions that a policy may name.
func supportedActions() []bus.Action {
	return []bus.Action{bus.AbortJobAction, bus.RestartJobAction, bus.RestartTaskAction, bus.RestartPodAction, bus.RestartPartitionAction,
		bus.TerminateJobAction, bus.CompleteJobAction, bus.ResumeJobAction}
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
	if slices.Contains(named, bus.JobUpdatedEvent) {
		return field.ErrorList{field.Invalid(at.Child("timeout"), p.Timeout.Duration.String(), "must be unset with event JobUpdated, which is over at once")}
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
