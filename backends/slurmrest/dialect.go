package slurmrest

import (
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

// The range of versions.
const (
	oldest = "v0.0.38"
	newest = "v0.0.45"
)

// dialect is how one version writes what all have in common. What it reads is
// told apart by its form, see decode.go, but for hosts and partitions.
type dialect struct {
	version string
	// plain is v0.0.38 with its hand-written shapes; the later ones come from
	// Slurm's own structures.
	plain bool
	// mute: answers to queries do not tell a refused token from silence.
	mute bool
	// scriptInJob: the script is a field of the (first) job, not beside it.
	scriptInJob bool
	// modeList: open_mode is a list of flags.
	modeList bool
	// gres writes the GPUs of a task.
	gres func(gpus string) string
}

// dialects lists the versions, best known first: those that were written down
// here, then those that are read as the one below them. v0.0.39 was the first
// of its kind and comes last; releases that have it have v0.0.38 or v0.0.40, too.
func dialects() []*dialect {
	later := func(version string) *dialect {
		return &dialect{version: version, scriptInJob: true, modeList: true, gres: tresEquals}
	}
	return []*dialect{
		later("v0.0.44"), later("v0.0.42"), later("v0.0.40"),
		{version: oldest, plain: true, mute: true, gres: func(gpus string) string { return gpus }},
		later(newest), later("v0.0.43"), later("v0.0.41"),
		{version: "v0.0.39", modeList: true, gres: tresColon},
	}
}

func (d *dialect) path(what string) string { return "/slurm/" + d.version + "/" + what }

// job is the path of a job, or of "submit".
func (d *dialect) job(id string) string { return d.path("job/" + id) }

// tresEquals writes "1,a100:2" as "gres/gpu=1,gres/gpu:a100=2" (from 23.11).
func tresEquals(gpus string) string {
	return eachGPU(gpus, func(kind, n string) string {
		if kind == "" {
			return "gres/gpu=" + n
		}
		return "gres/gpu:" + kind + "=" + n
	})
}

// tresColon writes it as "gres:gpu:1,gres:gpu:a100:2" (to 23.02).
func tresColon(gpus string) string {
	return eachGPU(gpus, func(kind, n string) string { return strings.TrimSuffix("gres:gpu:"+kind, ":") + ":" + n })
}

func eachGPU(gpus string, write func(kind, n string) string) string {
	var out []string
	for item := range strings.SplitSeq(gpus, ",") {
		kind, n, typed := strings.Cut(item, ":")
		if !typed {
			kind, n = "", item
		}
		out = append(out, write(kind, n))
	}
	return strings.Join(out, ",")
}

// submission is the body of a submit request.
func (d *dialect) submission(parts []slurmjob.Properties, script string, env []string) map[string]any {
	jobs := make([]map[string]any, 0, len(parts))
	for _, p := range parts {
		jobs = append(jobs, d.properties(p, env))
	}
	body := map[string]any{}
	if d.scriptInJob {
		jobs[0]["script"] = script
	} else {
		body["script"] = script
	}
	if len(jobs) == 1 {
		body["job"] = jobs[0]
	} else {
		body["jobs"] = jobs
	}
	return body
}

// properties writes one component. Every field that Slurm could take from
// elsewhere is set; those that are empty are left to the cluster.
func (d *dialect) properties(p slurmjob.Properties, env []string) map[string]any {
	out := map[string]any{
		"name": p.Name, "comment": p.Comment, "dependency": p.Dependency,
		"hold": true,
		// A requeued job keeps its id; the launcher tells its runs apart.
		"requeue":                   true,
		"current_working_directory": p.WorkDir,
		"standard_input":            "/dev/null", "standard_output": p.Output,
		"tasks": p.Tasks, "cpus_per_task": p.CPUs,
	}
	for name, v := range map[string]string{
		"partition": p.Partition, "account": p.Account, "qos": p.QOS, "constraints": p.Constraint, "reservation": p.Reservation,
		"licenses": p.Licenses,
	} {
		if v != "" {
			out[name] = v
		}
	}
	switch {
	case p.Exclude == "":
	case d.plain:
		// Its own description of the API has excluded_nodes, which 22.05 refuses as
		// a disabled key (measured).
		out["exclude_nodes"] = p.Exclude
	default:
		out["excluded_nodes"] = []string{p.Exclude}
	}
	if d.plain {
		out["kill_on_invalid_dependency"] = true
		vars := map[string]string{}
		for _, e := range env {
			name, value, _ := strings.Cut(e, "=")
			vars[name] = value
		}
		out["environment"] = vars
	} else {
		out["flags"] = []string{"KILL_INVALID_DEPENDENCY"}
		out["environment"] = slices.Clone(env)
	}
	if d.modeList {
		out["open_mode"] = []string{"APPEND"}
	} else {
		out["open_mode"] = "append"
	}
	if p.Switches > 0 {
		out["required_switches"] = d.limit(int64(p.Switches))
		if p.SwitchSeconds > 0 {
			out["wait_for_switch"] = p.SwitchSeconds
		}
	}
	if p.Minutes > 0 {
		out["time_limit"] = d.limit(p.Minutes)
	}
	if p.MemoryPerCPUMiB > 0 {
		out["memory_per_cpu"] = d.limit(p.MemoryPerCPUMiB)
	}
	if p.GPUs != "" {
		field := "tres_per_task"
		if d.plain {
			field = "gpus_per_task"
		}
		out[field] = d.gres(p.GPUs)
	}
	return out
}

// limit writes a number that can be unset or infinite.
func (d *dialect) limit(n int64) any {
	if d.plain {
		return n
	}
	return map[string]any{"set": true, "infinite": false, "number": n}
}
