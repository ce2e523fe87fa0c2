package translate

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// envName is what a variable may be called: all that a key of a ConfigMap or
// Secret may be, as in Kubernetes since RelaxedEnvironmentVariableValidation, but
// none of the blanks and signs that are allowed there as well and mean something
// to programs that run others. envKey is what a file of variables may have.
var (
	envName = regexp.MustCompile(`\A[A-Za-z0-9_.-]{1,256}\z`)
	envKey  = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_.-]{0,255}\z`)
)

// maxEnvBytes bounds a container's environment; a kernel takes 2 MiB of
// arguments and environment together.
const maxEnvBytes = 1 << 20

// denied names may change what privileged hooks, the batch system or a shell do
// before a container's program runs. A trailing star is any ending. PATH is not
// among them: the variables of containers reach no shell and no tool of the
// batch job, only the container's own program.
var denied = []string{
	"LD_*", "SLURM_*", "SBATCH_*", "SALLOC_*", "SRUN_*", "SPANK_*", "SQUEUE_*", "SCONTROL_*", "PBS_*", "PMI*", "PRTE_*",
	"NVIDIA_*", "CUDA_MPS_*", "BASH_ENV", "BASH_FUNC_*", "ENV", "IFS", "SHELLOPTS", "BASHOPTS", "PS4",
	"PROMPT_COMMAND", "PYTHONSTARTUP", "PYTHONHOME", "GCONV_PATH", "GLIBC_TUNABLES", "MALLOC_TRACE", "LOCPATH", "NLSPATH",
	"RESOLV_HOST_CONF", "RES_OPTIONS", "PODRUN_*",
}

// launchers are names among the denied that only tell the container's own mpirun
// how to find and reach hosts: the job plugin mpi sets them.
var launchers = []string{"PRTE_MCA_plm", "PRTE_MCA_ras"}

// ofGrant are names that many images and manifests set, and that say what the batch
// system's grant decides: the GPUs of the job are seen, with what computing needs.
// They are left out rather than refused.
var ofGrant = []string{"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}

// decidedByGrant reports that a variable is left out, and says so.
func (p *pod) decidedByGrant(at, name string) bool {
	if !slices.Contains(ofGrant, name) || p.in.Account.MaySet(name) {
		return false
	}
	p.note("%s: %s is left out: a container sees the GPUs that its job was given", at, name)
	return true
}

func (p *pod) deniedEnv(name string) bool {
	if p.in.Account.MaySet(name) || slices.Contains(launchers, name) {
		return false
	}
	for _, d := range denied {
		if prefix, open := strings.CutSuffix(d, "*"); (open && strings.HasPrefix(name, prefix)) || name == d {
			return true
		}
	}
	return false
}

const envAdvice = "is reserved for the batch system, the loader or the shell; set it in the command instead, for example [\"sh\", \"-c\", \"NAME=value exec program\"], or ask the administrator to allow it in spec.accounts[].allowEnv"

// givenEnv is what every container has; what the pod sets itself comes after it
// and wins.
func (p *pod) givenEnv() []manifest.EnvVar {
	out := append(p.apiServerEnv(), p.datasetEnv()...)
	if p.Traceparent != "" {
		out = append(out, manifest.EnvVar{Name: "TRACEPARENT", Value: []byte(p.Traceparent)})
	}
	return out
}

// maxDatasetPaths bounds what is read of an annotation.
const maxDatasetPaths = 64 << 10

// datasetEnv tells where the datasets are that the gang reads.
func (p *pod) datasetEnv() []manifest.EnvVar {
	text := p.Pod.Annotations[wellknown.DatasetPaths]
	paths := map[string]string{}
	if text == "" || len(text) > maxDatasetPaths || json.Unmarshal([]byte(text), &paths) != nil {
		return nil
	}
	var out []manifest.EnvVar
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		variable := "ISTHMUS_DATASET_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name))
		if envName.MatchString(variable) && strings.HasPrefix(paths[name], "/") && !strings.ContainsRune(paths[name], 0) {
			out = append(out, manifest.EnvVar{Name: variable, Value: []byte(paths[name])})
		}
	}
	return out
}

// env builds a container's environment in Kubernetes' order: envFrom first,
// then env, a later entry of the same name wins.
func (p *pod) env(at string, c *corev1.Container, s shape) []manifest.EnvVar {
	var out []manifest.EnvVar
	for i, from := range c.EnvFrom {
		out = append(out, p.envFrom(fmt.Sprintf("%s.envFrom[%d]", at, i), from)...)
	}
	for i := range c.Env {
		if v, ok := p.envVar(fmt.Sprintf("%s.env[%d]", at, i), &c.Env[i], c, s); ok {
			out = append(out, v)
		}
	}
	size := 0
	for _, v := range out {
		size += len(v.Name) + len(v.Value) + 2
	}
	if size > maxEnvBytes {
		p.refuse(at+".env", "", fmt.Sprintf("the environment has more than %d bytes; mount the ConfigMap or Secret as files", maxEnvBytes))
	}
	return out
}

func (p *pod) envFrom(at string, from corev1.EnvFromSource) []manifest.EnvVar {
	data := map[string][]byte{}
	switch {
	case from.ConfigMapRef != nil:
		name := from.ConfigMapRef.Name
		cm := p.ConfigMaps[name]
		if cm == nil {
			if !yes(from.ConfigMapRef.Optional) {
				p.wait(ReasonConfig, at+".configMapRef", fmt.Sprintf("configmap %q not found", name))
			}
			return nil
		}
		for k, v := range cm.Data {
			data[k] = []byte(v)
		}
	case from.SecretRef != nil:
		name := from.SecretRef.Name
		secret := p.Secrets[name]
		if secret == nil {
			if !yes(from.SecretRef.Optional) {
				p.wait(ReasonConfig, at+".secretRef", fmt.Sprintf("secret %q not found", name))
			}
			return nil
		}
		if p.longLived(at+".secretRef", secret) {
			return nil
		}
		maps.Copy(data, secret.Data)
	}
	var out []manifest.EnvVar
	var skipped []string
	for _, key := range slices.Sorted(maps.Keys(data)) {
		name := from.Prefix + key
		switch {
		case !envName.MatchString(name):
			skipped = append(skipped, short(name))
		case p.decidedByGrant(at, name):
		case p.deniedEnv(name):
			p.refuse(at, name, envAdvice)
		case hasNUL(data[key]):
			p.refuse(at, name, "the value has a NUL byte, which no variable can hold; mount it as a file")
		default:
			out = append(out, manifest.EnvVar{Name: name, Value: data[key]})
		}
	}
	if len(skipped) > 0 {
		more := ""
		if len(skipped) > 10 {
			skipped, more = skipped[:10], " and others"
		}
		p.event("InvalidEnvironmentVariableNames", fmt.Sprintf("keys [%s]%s of %s were skipped since they are not names of environment variables",
			strings.Join(skipped, ", "), more, at))
	}
	return out
}

// envVar resolves one entry; ok is false when the variable is not set.
func (p *pod) envVar(at string, e *corev1.EnvVar, c *corev1.Container, s shape) (v manifest.EnvVar, ok bool) {
	switch {
	case !envName.MatchString(e.Name):
		p.refuse(at+".name", e.Name, "must be 1 to 256 letters, digits, '_', '.' and '-'")
		return v, false
	case p.decidedByGrant(at, e.Name):
		return v, false
	case p.deniedEnv(e.Name):
		p.refuse(at+".name", e.Name, envAdvice)
		return v, false
	}
	v.Name = e.Name
	from := e.ValueFrom
	if from == nil {
		v.Value, v.Expand = []byte(e.Value), e.Value != ""
		return v, true
	}
	switch {
	case from.FieldRef != nil:
		if nodeField(from.FieldRef.FieldPath) {
			v.Field = from.FieldRef.FieldPath
			return v, true
		}
		text, err := p.field(from.FieldRef.FieldPath)
		if err != nil {
			p.refuse(at+".valueFrom.fieldRef.fieldPath", from.FieldRef.FieldPath, err.Error())
			return v, false
		}
		v.Value = []byte(text)
	case from.ResourceFieldRef != nil:
		text, err := p.resourceField(from.ResourceFieldRef, c, s)
		if err != nil {
			p.refuse(at+".valueFrom.resourceFieldRef", from.ResourceFieldRef.Resource, err.Error())
			return v, false
		}
		v.Value = []byte(text)
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		data, found := configMapKey(p.ConfigMaps[ref.Name], ref.Key, false)
		if !found {
			if !yes(ref.Optional) {
				p.wait(ReasonConfig, at+".valueFrom.configMapKeyRef", missing("configmap", ref.Name, ref.Key, p.ConfigMaps[ref.Name] != nil))
			}
			return v, false
		}
		v.Value = data
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		var data []byte
		found := false
		if secret := p.Secrets[ref.Name]; secret != nil {
			if p.longLived(at+".valueFrom.secretKeyRef", secret) {
				return v, false
			}
			data, found = secret.Data[ref.Key]
		}
		if !found {
			if !yes(ref.Optional) {
				p.wait(ReasonConfig, at+".valueFrom.secretKeyRef", missing("secret", ref.Name, ref.Key, p.Secrets[ref.Name] != nil))
			}
			return v, false
		}
		v.Value = data
	case from.FileKeyRef != nil:
		return p.fileVar(at+".valueFrom.fileKeyRef", v, from.FileKeyRef)
	default:
		p.refuse(at+".valueFrom", "", "this source is not supported on HPC nodes; use a value, fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef or fileKeyRef")
		return v, false
	}
	if hasNUL(v.Value) {
		p.refuse(at, e.Name, "the value has a NUL byte, which no variable can hold; mount it as a file")
		return v, false
	}
	return v, true
}

// fileVar takes a variable from a file that another container of the pod writes.
func (p *pod) fileVar(at string, v manifest.EnvVar, ref *corev1.FileKeySelector) (manifest.EnvVar, bool) {
	i := slices.IndexFunc(p.Pod.Spec.Volumes, func(vol corev1.Volume) bool { return vol.Name == ref.VolumeName })
	switch {
	case i < 0 || p.Pod.Spec.Volumes[i].EmptyDir == nil:
		p.refuse(at+".volumeName", ref.VolumeName, "must be an emptyDir volume of the pod")
	case !cleanRelative(ref.Path):
		p.refuse(at+".path", ref.Path, "must be a clean relative path without \"..\"")
	case !envKey.MatchString(ref.Key):
		p.refuse(at+".key", ref.Key, "is not the name of an environment variable")
	default:
		v.File = &manifest.EnvFile{Volume: ref.VolumeName, Path: ref.Path, Key: ref.Key, Optional: yes(ref.Optional)}
		return v, true
	}
	return v, false
}

// longLived refuses a Secret with a service-account token that never ends: it
// would outlive the pod on hosts that are not the cluster's.
func (p *pod) longLived(at string, secret *corev1.Secret) bool {
	if secret.Type != corev1.SecretTypeServiceAccountToken {
		return false
	}
	p.refuse(at, secret.Name, "holds a service-account token without an end, which is not delivered to HPC nodes; use a projected serviceAccountToken")
	return true
}

func missing(kind, name, key string, there bool) string {
	if there {
		return fmt.Sprintf("%s %q has no key %q", kind, name, short(key))
	}
	return fmt.Sprintf("%s %q not found", kind, name)
}

// configMapKey looks a key up; binary ones count in volumes only.
func configMapKey(cm *corev1.ConfigMap, key string, binary bool) ([]byte, bool) {
	if cm == nil {
		return nil, false
	}
	if v, ok := cm.Data[key]; ok {
		return []byte(v), true
	}
	if binary {
		v, ok := cm.BinaryData[key]
		return v, ok
	}
	return nil, false
}

func hasNUL(b []byte) bool { return slices.Contains(b, 0) }

func yes(b *bool) bool { return b != nil && *b }
